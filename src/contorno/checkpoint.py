"""The model file and the state of a run: written atomically, verified when read.

A model file is safetensors: the weights, and one JSON document, the card, in its metadata. A state
is safetensors too, its name ends in the first 16 digits of its SHA-256, and the previous one is
kept, so that a damaged file is noticed and named. Nothing is pickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from contorno.card import CARD, ModelCard, model_path, read_card
from contorno.errors import ConfigError, ModelFileError
from contorno.files import sha256, sweep, write_bytes
from contorno.models import Segmenter, build_network

_KEPT = 2  # states: the newest and the one before


def save_model(path: Path, segmenter: Segmenter, card: ModelCard) -> None:
    """Write a model file; equal weights and card give equal bytes."""
    tensors = {
        key: value.detach().cpu().contiguous() for key, value in segmenter.state_dict().items()
    }
    write_bytes(path, safetensors.torch.save(tensors, {CARD: card.model_dump_json()}))


def save_card(path: Path, card: ModelCard) -> None:
    """Replace the card of a model file; the weights stay as they are.

    Raises:
        ModelFileError: damaged.
        StorageError: the new file cannot be written; the old one is whole.
    """
    write_bytes(path, safetensors.torch.save(_tensors(path), {CARD: card.model_dump_json()}))


def load_model(path: Path) -> tuple[Segmenter, ModelCard]:
    """Read a model file, or the one in a run folder.

    Raises:
        ModelFileError: missing, damaged, or no model of ours.
    """
    path = model_path(path)
    card = read_card(path)
    tensors = _tensors(path)
    _require_finite(path, tensors)
    # On "meta" nothing takes memory, however large a damaged card says it is, until the weights
    # of the file are assigned. Encoders of timm cannot be planned so.
    planned = torch.device("meta") if card.network.encoder is None else nullcontext()
    try:
        with planned:
            segmenter = Segmenter(build_network(card.network), card.preprocessing)
        segmenter.load_state_dict(tensors, assign=True)
    except (ConfigError, ValueError) as error:  # an architecture or arguments of a newer version
        raise ModelFileError(f"{path}: {error}") from None
    except (RuntimeError, TypeError) as error:  # the latter where a size is beyond 64 bits
        reason = str(error).partition("\nException raised from")[0]
        raise ModelFileError(f"{path}: its weights do not fit its card: {reason}") from None
    return segmenter.eval(), card


def _require_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A model of such weights would draw nothing, or everything, and say no word."""
    if broken := sorted(key for key, value in tensors.items() if not value.isfinite().all()):
        more = f" and {len(broken) - 1} more" * (len(broken) > 1)
        raise ModelFileError(
            f"{path}: NaN or infinite values in {broken[0]}{more}, with which it can draw nothing; "
            "put back the file that was trained"
        )


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelFileError(f"{path}: not a model file, or damaged ({error})") from None


def save_state(folder: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write the state of a run as the newest; the one before stays, older ones go.

    Args:
        folder: the run's `state/`.
        tensors: weights and optimiser state.
        meta: anything that JSON holds, with an integer "number" that grows from save to save.

    Raises:
        StorageError: with path and bytes needed; older states are untouched.
    """
    whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    data = safetensors.torch.save(whole, {CARD: json.dumps(meta)})
    path = folder / f"state-{meta['number']:08}-{sha256(data)[:16]}.safetensors"
    write_bytes(path, data)
    for old in _states(folder)[_KEPT:]:
        old.unlink(missing_ok=True)
    sweep(folder)


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any], list[str]]:
    """The newest whole state, and words on every newer one that was passed over as damaged.

    Raises:
        ModelFileError: no whole state is left.
    """
    skipped: list[str] = []
    for path in _states(folder):
        data = path.read_bytes()
        if sha256(data)[:16] != path.stem.rpartition("-")[2]:
            skipped.append(
                f"{path}: damaged or cut short ({len(data):,} bytes); "
                "going back to the state before"
            )
            continue
        tensors = safetensors.torch.load(data)
        meta = _metadata(data)
        return tensors, meta, skipped
    raise ModelFileError(
        "\n".join(
            [
                f"{folder}: no whole state to resume from; start the run again without --resume",
                *skipped,
            ]
        )
    )


def has_state(folder: Path) -> bool:
    """Whether any state, whole or not, stands in the folder."""
    return bool(_states(folder))


def _states(folder: Path) -> list[Path]:
    """State files, newest first."""
    return sorted(folder.glob("state-*.safetensors"), reverse=True)


def _metadata(data: bytes) -> dict[str, Any]:
    """The JSON document in the header of safetensors bytes (its format: length, JSON, tensors)."""
    length = int.from_bytes(data[:8], "little")
    meta: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][CARD])
    return meta


def flatten(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `name.` before every key."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def unflatten(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries whose key begins with `name.`, without it."""
    return {
        key.removeprefix(f"{name}."): value
        for key, value in tensors.items()
        if key.startswith(f"{name}.")
    }


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of an optimiser as tensors keyed `parameter number.name`."""
    return {
        f"{index}.{key}": value
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Undo `optimizer_tensors` on an optimiser of the same parameters.

    Each moment gets its parameter's own memory layout back: the fused kernels walk both by address.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        optimizer.state[parameter][name] = value.to(parameter.device)
