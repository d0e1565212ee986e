"""U-Net whose encoder is one of timm's, which come with weights from training on photographs."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contorno.errors import ConfigError, MissingExtra
from contorno.models.blocks import DoubleConv, activate, check_arguments, fit
from contorno.models.lean import upsample

PREFIX = "timm/"
_PROBE = 192  # edge of a picture that no family of fixed size takes, and that halves six times


class Maps(NamedTuple):
    """What an encoder gives: the channels of its maps, largest map first, and the first's scale.

    Every map is half as wide as the one before; the first is `patch` times less wide than the
    picture.
    """

    channels: tuple[int, ...]
    patch: int


class EncoderUNet(nn.Module):
    """U-Net of an encoder of timm and a decoder like `UNet`'s, for pictures of any size.

    Args:
        in_channels: channels of the picture; weights for 3 are spread over as many.
        out_channels: 1 for one foreground class, else the number of classes.
        encoder: "timm/NAME", a name in `timm.list_models()`.
        widths: channels of the decoder at each of the encoder's maps, largest map first; the last,
            where the decoder begins, is the encoder's own number.
        up: "transposed" or "bilinear", as in `UNet`.
        activation: "sigmoid" or "softmax" to give probabilities, None to give the plain values.
        patch: how many times less wide than the picture the encoder's first map is; the last
            convolution's channels are parted into squares of so many pixels.

    Sub-modules are `encoder`, `upN` ... `up1` (and `upsampleN` ... when transposed) and `out`. Its
    weights are random; `load_pretrained` fetches the encoder's.

    Raises:
        ConfigError: an unknown encoder, or widths or a patch that are not the encoder's.
        MissingExtra: timm is not installed.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        encoder: str,
        widths: Sequence[int],
        up: str = "transposed",
        activation: str | None = None,
        patch: int = 2,
    ) -> None:
        super().__init__()
        check_arguments(in_channels, out_channels, widths, up=up, activation=activation)
        self.name, self.in_channels = encoder, in_channels
        self.patch, self.activation = patch, activation
        self.encoder = _create(encoder, in_channels)
        maps = _maps(encoder, self.encoder)
        if maps.patch != patch or len(widths) != len(maps.channels):
            raise ConfigError(
                f"{encoder} has {len(maps.channels)} maps, the first at 1/{maps.patch} of the "
                f"picture: give {len(maps.channels)} widths, not {len(widths)}, and leave patch out"
            )
        if widths[-1] != maps.channels[-1]:
            raise ConfigError(
                f"the last of the widths is {widths[-1]}, but {encoder} ends with "
                f"{maps.channels[-1]} channels; make it {maps.channels[-1]}"
            )
        self.levels = len(widths) - 1
        self.bilinear = up == "bilinear"
        for level in range(self.levels, 0, -1):
            skip, width, below = maps.channels[level - 1], widths[level - 1], widths[level]
            if not self.bilinear:
                self.add_module(f"upsample{level}", nn.ConvTranspose2d(below, width, 2, stride=2))
            merged = skip + (below if self.bilinear else width)
            self.add_module(f"up{level}", DoubleConv(merged, width))
        self.out = nn.Conv2d(widths[0], out_channels * patch**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W), any H, W of at least 1."""
        height, width = x.shape[-2:]
        least = self.patch * 2**self.levels
        x = fit(x, *(edge + -edge % least for edge in (height, width)))
        *skips, x = self.encoder(x)
        for level in range(self.levels, 0, -1):
            skip = skips.pop()
            if not self.bilinear:
                x = upsample(self.get_submodule(f"upsample{level}"), x)
            x = self.get_submodule(f"up{level}")(x, skip)
        x = F.pixel_shuffle(self.out(x), self.patch) if self.patch > 1 else self.out(x)
        return activate(x, self.activation)[..., :height, :width]

    def load_pretrained(self) -> None:
        """Fetch the encoder's weights, from timm's cache or the network, and take them.

        Raises:
            ConfigError: they cannot be had.
        """
        trained = _create(self.name, self.in_channels, pretrained=True)
        self.encoder.load_state_dict(trained.state_dict())


def maps_of(encoder: str) -> Maps:
    """What maps an encoder gives.

    Raises:
        ConfigError: an unknown one, or one whose maps do not halve step by step.
        MissingExtra: timm is not installed.
    """
    module = _create(encoder, 3).eval()
    maps = _maps(encoder, module)
    try:
        with torch.no_grad():
            found = [tuple(x.shape[1:]) for x in module(torch.zeros(1, 3, _PROBE, _PROBE))]
    except Exception as error:  # every family of encoders has its own
        raise ConfigError(f"{encoder} does not take pictures of any size: {error}") from error
    edges = [_PROBE // (maps.patch * 2**level) for level in range(len(found))]
    if found != [(n, edge, edge) for n, edge in zip(maps.channels, edges, strict=True)]:
        raise ConfigError(
            f"{encoder} gives maps of {found} for a picture of {_PROBE} x {_PROBE}, where a U-Net "
            "needs (channels, height, width) that halve step by step; choose another encoder"
        )
    return maps


def _maps(encoder: str, module: Any) -> Maps:
    channels, scales = module.feature_info.channels(), module.feature_info.reduction()
    if any(scale != scales[0] * 2**level for level, scale in enumerate(scales)):
        raise ConfigError(
            f"{encoder} does not halve its maps step by step (they are at 1/"
            f"{', 1/'.join(map(str, scales))} of the picture), as a U-Net needs; choose another, "
            "such as timm/resnet34 or timm/convnext_tiny"
        )
    return Maps(tuple(channels), scales[0])


def _create(encoder: str, in_channels: int, *, pretrained: bool = False) -> Any:
    try:
        import timm
    except ImportError:
        raise MissingExtra("pretrained", f"the encoder {encoder}") from None
    except RuntimeError as error:  # of torchvision, which timm needs
        raise ConfigError(
            f"timm, which has the encoder {encoder}, cannot be imported: {error}; install the "
            "torchvision that was built for this PyTorch"
        ) from error
    name = encoder.removeprefix(PREFIX)
    if not encoder.startswith(PREFIX) or not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), 3)
        known = f"; did you mean {' or '.join(PREFIX + one for one in near)}?" if near else ""
        raise ConfigError(
            f"encoder {encoder!r} is unknown: it is {PREFIX} and a name in timm.list_models(), "
            f"such as timm/resnet34{known}"
        )
    try:
        return timm.create_model(
            name, pretrained=pretrained, features_only=True, in_chans=in_channels
        )
    except Exception as error:
        what = "its weights cannot be had" if pretrained else "it gives no maps for a U-Net"
        fix = (
            "choose one of timm.list_models(pretrained=True), and connect to the network once: "
            "they are kept"
            if pretrained
            else "choose another"
        )
        raise ConfigError(f"encoder {encoder}: {what} ({error}); {fix}") from error
