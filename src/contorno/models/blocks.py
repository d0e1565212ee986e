"""The pieces that U-Nets are made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contorno.models.lean import double_conv, tracing


class DoubleConv(nn.Module):
    """Two 3x3 convolutions without bias, each followed by batch normalisation and ReLU.

    Ronneberger et al. 2015, with padding and batch normalisation. The layers stand in a
    `Sequential` named `conv` (indices 0 to 5), as in common notebooks, so that their checkpoints
    fit.

    Args:
        in_channels, out_channels: channels of input and output.
        mid_channels: channels between the two convolutions; `out_channels` when None.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, mid_channels: int | None = None
    ) -> None:
        super().__init__()
        mid = mid_channels or out_channels
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, mid, 3, padding=1, bias=False),
            nn.BatchNorm2d(mid),
            nn.ReLU(inplace=True),
            nn.Conv2d(mid, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        """(N, C1, H, W), (N, C2, H, W) ... with `in_channels` in all to (N, out_channels, H, W).

        The first may be smaller: it is interpolated to the size of the last.
        """
        return double_conv(self.conv, *parts)


def check_arguments(
    in_channels: int, out_channels: int, widths: Sequence[int], *, up: str, activation: str | None
) -> None:
    """Raise ValueError for arguments that no network here can be built with."""
    if up not in ("transposed", "bilinear"):
        raise ValueError(f'up ({up!r}) must be "transposed" or "bilinear"')
    if activation not in (None, "sigmoid", "softmax"):
        raise ValueError(f'activation ({activation!r}) must be None, "sigmoid" or "softmax"')
    if not widths or min(*widths, in_channels, out_channels) < 1:
        raise ValueError(f"channels must be positive: {in_channels}, {widths}, {out_channels}")


_aligned = ContextVar("aligned", default=False)


@contextmanager
def aligned() -> Iterator[None]:
    """Within, graphs are traced for pictures whose edges can be halved as often as they are."""
    before = _aligned.set(True)
    try:
        yield
    finally:
        _aligned.reset(before)


def fit(x: Tensor, height: int, width: int) -> Tensor:
    """Pad at the bottom and right to (height, width) by repeating the rim.

    A graph that is being traced pads always, by nothing where nothing is missing, so that it holds
    for pictures of any size; one for `aligned` pictures never does.
    """
    down, right = height - x.shape[-2], width - x.shape[-1]
    if tracing() and _aligned.get():
        return x
    if tracing() or down > 0 or right > 0:
        x = F.pad(x, (0, right, 0, down), mode="replicate")
    return x


def activate(x: Tensor, activation: str | None) -> Tensor:
    """Apply "sigmoid", "softmax" (over channels), "clamp" (to 0..1) or nothing.

    In float32: half-precision probabilities would be too coarse to rank or to write as 16 bit.
    """
    if activation in (None, "identity"):
        return x
    x = x.float()
    if activation == "sigmoid":
        return torch.sigmoid(x)
    return torch.softmax(x, dim=1) if activation == "softmax" else x.clamp(0, 1)
