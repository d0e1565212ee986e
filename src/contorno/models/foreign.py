"""Checkpoints of other people's U-Nets: recognise the layout, use every key or say which is left.

The only place where a `.pt`/`.pth` file is opened, always with `weights_only=True`: a pickle that
wants to run code is refused. Layouts: the R2 notebook (`down1.conv.0.weight` ... `out.bias`), our
own `UNet` saved by hand (the same plus `upsampleN`), and milesial/Pytorch-UNet; each with biases
in its convolutions or without.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from contorno.config import NetworkConfig
from contorno.errors import ModelFileError
from contorno.models import build_network

_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
_NOTEBOOK = "down1.conv.0.weight"  # first key of each layout
_MILESIAL = "inc.double_conv.0.weight"
_MOST_CLASSES = 255  # that fit a class map beside `labels.IGNORE`


@dataclass(frozen=True)
class Foreign:
    """A foreign checkpoint, understood.

    Args:
        network: with the weights loaded, in eval mode.
        config: its architecture and arguments.
        output: how its output becomes probabilities.
        mask_values: what the file says of the values of its masks, if it does.
        layout: whose layout it is, in words.
    """

    network: nn.Module
    config: NetworkConfig
    output: str
    mask_values: tuple[int, ...]
    layout: str


def load_foreign(path: Path, *, output: str | None = None) -> Foreign:
    """Read a `.pt`/`.pth` checkpoint of weights.

    Args:
        path: the file.
        output: "sigmoid", "softmax", "clamp" or "identity" where the layout's own is not right.

    Raises:
        ModelFileError: not such a file, pickled objects in it, unknown layout, keys left over.
    """
    weights = _read(path)
    mask_values = _mask_values(weights.pop("mask_values", ()))
    prefix = _prefix(weights)
    tensors = {key.removeprefix(prefix): value for key, value in weights.items()}
    strangers = [key for key, value in tensors.items() if not _is_stored(value)]
    if strangers:
        raise ModelFileError(f"{path}: entries that are no weights: {_some(strangers)}")
    if _MILESIAL in tensors:
        config, layout = _milesial(tensors, path), "milesial/Pytorch-UNet"
        natural = "sigmoid" if config.out_channels == 1 else "softmax"
    elif _NOTEBOOK in tensors and "out.weight" in tensors:
        config, layout = _notebook(tensors, path), "U-Net notebook"
        natural = "identity" if config.activation else "clamp"
    else:
        raise ModelFileError(
            f"{path}: the layout of its weights is not known here; it begins with "
            f"{_some(list(tensors))}. Known: the U-Net notebook (down1.conv.0.weight ... out.bias) "
            "and milesial/Pytorch-UNet (inc.double_conv.0.weight ... outc.conv.bias)"
        )
    if config.out_channels > _MOST_CLASSES:
        raise ModelFileError(
            f"{path}: {config.out_channels} classes; contorno draws {_MOST_CLASSES} at most"
        )
    try:
        with torch.device("meta"):  # takes no memory, however large a damaged file says it is
            planned = build_network(config)
    except ValueError as error:
        raise ModelFileError(f"{path}: {error}") from None
    tensors = _without_biases(tensors, planned.state_dict())
    _check(planned, tensors, path)
    network = build_network(config)
    network.load_state_dict(tensors)
    return Foreign(network.eval(), config, output or natural, mask_values, layout)


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelFileError(f"{path}: there is no such file") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # bytes that no pickle has: a text, a web page
            raise ModelFileError(f"{path}: not a PyTorch checkpoint, or damaged") from None
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = found[1] if found else "other objects"
        raise ModelFileError(
            f"{path}: holds {what} besides weights, and loading it could run any code, so it was "
            "not loaded. Save the weights alone: torch.save(model.state_dict(), 'new.pth')"
        ) from None
    except Exception as error:  # torch.load raises many kinds on a damaged or foreign file
        raise ModelFileError(f"{path}: not a PyTorch checkpoint, or damaged ({error})") from None
    while isinstance(loaded, Mapping):
        inner = next((loaded[k] for k in _WRAPPERS if isinstance(loaded.get(k), Mapping)), None)
        if inner is None:
            return {str(key): value for key, value in loaded.items()}
        loaded = inner
    raise ModelFileError(f"{path}: holds a {type(loaded).__name__}, expected a dict of weights")


def _prefix(weights: Mapping[str, Any]) -> str:
    """What stands before the keys of a layout.

    "module." of DataParallel, "_orig_mod." of torch.compile, "model." of a Lightning module ...
    """
    first = (key for key in weights if f".{key}".endswith((f".{_NOTEBOOK}", f".{_MILESIAL}")))
    return min(first, key=len, default="").removesuffix(_NOTEBOOK).removesuffix(_MILESIAL)


def _notebook(tensors: Mapping[str, Tensor], path: Path) -> NetworkConfig:
    levels = _levels(tensors, r"down(\d+)\.conv\.0\.weight")
    names = [*(f"down{level}" for level in range(1, levels + 1)), "bottom"]
    bilinear = not any(key.startswith("upsample") for key in tensors)
    classes = _shape(tensors, "out.weight", path)[0]
    return NetworkConfig(
        architecture="UNet",
        in_channels=_shape(tensors, "down1.conv.0.weight", path)[1],
        out_channels=classes,
        widths=tuple(_shape(tensors, f"{name}.conv.0.weight", path)[0] for name in names),
        up="bilinear" if bilinear else "transposed",
        activation=("sigmoid" if bilinear else None),  # R2 ends in a sigmoid, R1 in plain values
    )


def _milesial(tensors: Mapping[str, Tensor], path: Path) -> NetworkConfig:
    levels = _levels(tensors, r"down(\d+)\.maxpool_conv\.1\.double_conv\.0\.weight")
    bilinear = "up1.up.weight" not in tensors
    encoder = [_shape(tensors, "inc.double_conv.0.weight", path)[0]]
    for level in range(1, levels + 1):
        encoder.append(_shape(tensors, f"down{level}.maxpool_conv.1.double_conv.0.weight", path)[0])
    if bilinear:
        encoder[-1] *= 2
    return NetworkConfig(
        architecture="MilesialUNet",
        in_channels=_shape(tensors, "inc.double_conv.0.weight", path)[1],
        out_channels=_shape(tensors, "outc.conv.weight", path)[0],
        widths=tuple(encoder),
        up="bilinear" if bilinear else "transposed",
    )


def _levels(tensors: Mapping[str, Tensor], pattern: str) -> int:
    found = (int(m[1]) for key in tensors if (m := re.fullmatch(pattern, key)))
    return max((level for level in found if level <= len(tensors)), default=0)  # none is far off


def _shape(tensors: Mapping[str, Tensor], key: str, path: Path) -> torch.Size:
    if key not in tensors or tensors[key].ndim != 4 or 0 in tensors[key].shape:
        raise ModelFileError(f"{path}: lacks {key}, or it is no convolution's weight")
    return tensors[key].shape


def _is_stored(value: Any) -> bool:
    """Whether it is a tensor of plain numbers, each of which stands in the file."""
    if not isinstance(value, Tensor) or value.is_meta or value.layout != torch.strided:
        return False
    plain = not (value.is_quantized or value.is_complex())
    return plain and value.untyped_storage().nbytes() >= value.numel() * value.element_size()


def _without_biases(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Weights of convolutions with a bias, for a network whose convolutions have none.

    The batch normalisation behind it takes its mean off again, so the bias goes into that.
    """
    kept = dict(tensors)
    for key, bias in tensors.items():
        found = re.fullmatch(r"(.+\.)(\d+)\.bias", key)
        if key in own or not found:
            continue
        mean = f"{found[1]}{int(found[2]) + 1}.running_mean"
        if mean in kept and kept[mean].shape == bias.shape:
            kept[mean] = kept[mean] - bias
            del kept[key]
    return kept


def _check(network: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    own = network.state_dict()
    problems = []
    if left := sorted(set(tensors) - set(own)):
        problems.append(f"keys left over: {_some(left)}")
    if missing := sorted(set(own) - set(tensors)):
        problems.append(f"keys missing: {_some(missing)}")
    for key in sorted(set(own) & set(tensors)):
        if own[key].shape != tensors[key].shape:
            problems.append(f"{key} is {tuple(tensors[key].shape)}, not {tuple(own[key].shape)}")
    if problems:
        raise ModelFileError(
            f"{path}: does not fit the layout it resembles: " + "; ".join(problems[:10])
        )
    if broken := sorted(key for key, value in tensors.items() if not value.isfinite().all()):
        raise ModelFileError(
            f"{path}: NaN or infinite values in {_some(broken)}: its training went wrong, and it "
            "can draw nothing; take an earlier checkpoint"
        )


def _mask_values(values: Any) -> tuple[int, ...]:
    whole = isinstance(values, (list, tuple)) and all(isinstance(v, int) for v in values)
    if whole and all(0 <= v < 2**16 for v in values) and len(set(values)) == len(values):
        return tuple(values)
    return ()  # colours, or what no grey mask can hold: the caller falls back to 0, 1, 2 ...


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
