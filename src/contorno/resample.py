"""The one way in which pictures are resized, so that data and models cannot differ."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def resize(x: Tensor, height: int, width: int, *, mode: str = "bilinear") -> Tensor:
    """Resize float (N, C, H, W); bilinear is smoothed when it shrinks, as torchvision does.

    Class indices need `mode="nearest-exact"`.
    """
    if x.shape[-2:] == (height, width):
        return x
    if mode != "bilinear":
        return F.interpolate(x, (height, width), mode=mode)
    if width == 1 < height:  # PyTorch 2.13 repeats the first row there, but not the first column
        return resize(x.mT.contiguous(), width, height).mT
    return F.interpolate(x, (height, width), mode=mode, align_corners=False, antialias=True)
