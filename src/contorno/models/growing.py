"""A 3x3 convolution of a bilinearly up-sampled map, with most of its arithmetic before the growing.

Mixing channels commutes with interpolation. So each of the nine taps mixes channels at the low
resolution, a quarter of the pixels; then two matrices, one along the width and one along the
height, interpolate and sum the taps. They are dense, though mostly zero, so their share grows with
the size of the map: where it is small and has many channels, this takes a third of the arithmetic.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pays(x: Tensor) -> bool:
    """Whether this is quicker than to up-sample (N, C, h, w) to twice its size and convolve."""
    return 2 * max(x.shape[2:]) <= x.shape[1]


def grow(x: Tensor, size: torch.Size) -> Tensor:
    """Interpolate (N, C, h, w) to (N, C, *size), bilinearly with `align_corners`."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def grow_backward(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of the x of `grow` from that of its result."""
    result: Tensor = torch.ops.aten.upsample_bilinear2d_backward(
        gradient, gradient.shape[2:], x.shape, True
    )
    return result


def grown_conv(x: Tensor, weight: Tensor, size: torch.Size) -> Tensor:
    """Convolve x, interpolated to `size` with `align_corners`, padded by 1.

    Args:
        x: (N, C, h, w).
        weight: (K, C, 3, 3).
        size: H, W of the result (N, K, H, W).
    """
    count, channels, height, width = x.shape
    taps = x.permute(0, 2, 3, 1).reshape(-1, channels) @ _mixing(weight)  # (N h w, 9 K)
    taps = taps.view(count, height, width, 3, 3, -1).permute(0, 1, 3, 2, 4, 5)
    rows = taps.reshape(count * height * 3, width * 3, -1)  # (N h 3, w 3, K)
    rows = torch.matmul(_growing(width, size[1], x.dtype), rows)  # (N h 3, W, K)
    rows = rows.view(count, height * 3, -1)
    out = torch.matmul(_growing(height, size[0], x.dtype), rows)  # (N, H, W K)
    return out.view(count, *size, -1).permute(0, 3, 1, 2)


def grown_conv_backward(gradient: Tensor, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the x and weight (float32) of `grown_conv` from that of its result."""
    count, channels, height, width = x.shape
    size = gradient.shape[2:]
    rows = gradient.permute(0, 2, 3, 1).reshape(count, size[0], -1)  # (N, H, W K)
    rows = torch.matmul(_growing(height, size[0], x.dtype).t(), rows)  # (N, h 3, W K)
    rows = rows.view(count * height * 3, size[1], -1)  # (N h 3, W, K)
    rows = torch.matmul(_growing(width, size[1], x.dtype).t(), rows)  # (N h 3, w 3, K)
    taps = rows.view(count, height, 3, width, 3, -1).permute(0, 1, 3, 2, 4, 5)
    taps = taps.reshape(count * height * width, -1)  # (N h w, 9 K)
    by_x = (taps @ _mixing(weight).t()).view(count, height, width, channels).permute(0, 3, 1, 2)
    by_weight = (x.permute(0, 2, 3, 1).reshape(-1, channels).t() @ taps).float()
    return by_x, by_weight.view(channels, 3, 3, -1).permute(3, 0, 1, 2)


def _mixing(weight: Tensor) -> Tensor:
    """(K, C, 3, 3) as a matrix (C, 9 K)."""
    return weight.permute(1, 2, 3, 0).flatten(1)


def _growing(low: int, high: int, dtype: torch.dtype) -> Tensor:
    """Interpolation and the sum of three taps in one dimension: (high, low 3).

    In 256ths where bfloat16 must hold them: the two weights of a value then still sum to 1.
    """
    one = torch.eye(low)[None]
    grown = F.interpolate(one, high, mode="linear", align_corners=True)[0].t()  # (high, low)
    if dtype != torch.float32:
        grown = (grown * 256).round() / 256
    padded = F.pad(grown, (0, 0, 1, 1))
    taps = torch.stack([padded[tap : tap + high] for tap in range(3)], dim=2)  # (high, low, 3)
    return taps.flatten(1).to(dtype)
