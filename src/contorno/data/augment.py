"""Random changes of a batch that leave its truth true: geometry in one warp, then light.

Drawn on the CPU from the generator given, applied on the batch's own device.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_WARPED = 0.5  # of the examples are rotated by any angle and scaled; the rest only by 90 degrees
_SCALE = (0.7, 1.4)  # as in nnU-Net
_GAIN = 0.2  # contrast changes by up to 20%
_OFFSET = 0.2  # brightness by up to 0.2 standard deviations


def augment(images: Tensor, masks: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale and relight every example on its own.

    Args:
        images: (N, C, h, w) normalised, h equal to w.
        masks: (N, 1, h, w) float 0..1.
        rng: where the random numbers come from.

    Returns:
        Images float32 and masks of the same shapes.
    """
    images = images.float()
    turned = [_turn(image, mask, rng) for image, mask in zip(images, masks, strict=True)]
    images = torch.stack([image for image, _ in turned])
    masks = torch.stack([mask for _, mask in turned])
    _warp(images, masks, rng)
    gain = _draw(rng, len(images), 1 - _GAIN, 1 + _GAIN).to(images.device)
    offset = _draw(rng, len(images), -_OFFSET, _OFFSET).to(images.device)
    mean = images.mean(dim=(2, 3), keepdim=True)
    images = torch.addcmul(mean - mean * gain + offset, images, gain)  # in one pass
    return images.contiguous(memory_format=torch.channels_last), masks


def _turn(image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """One of the eight symmetries of the square."""
    quarter, mirror = int(rng.integers(4)), bool(rng.integers(2))
    image, mask = image.rot90(quarter, (1, 2)), mask.rot90(quarter, (1, 2))
    return (image.flip(2), mask.flip(2)) if mirror else (image, mask)


def _warp(images: Tensor, masks: Tensor, rng: np.random.Generator) -> None:
    """Rotation by any angle and scaling in one resampling, in place; corners are mirrored in."""
    chosen = np.flatnonzero(rng.random(len(images)) < _WARPED)
    angles = rng.uniform(-np.pi, np.pi, len(chosen))
    scales = np.exp(rng.uniform(np.log(_SCALE[0]), np.log(_SCALE[1]), len(chosen)))
    if not len(chosen):
        return
    cos, sin = np.cos(angles) / scales, np.sin(angles) / scales
    zero = np.zeros_like(cos)
    theta = np.stack([cos, -sin, zero, sin, cos, zero], axis=1).reshape(-1, 2, 3)
    where = torch.from_numpy(chosen).to(images.device)
    matrix = torch.from_numpy(theta).to(images.device, torch.float32)
    grid = F.affine_grid(matrix, [len(chosen), 1, *images.shape[-2:]], align_corners=False)
    for maps, mode in ((images, "bilinear"), (masks, "nearest")):
        maps[where] = F.grid_sample(
            maps[where], grid, mode=mode, padding_mode="reflection", align_corners=False
        )


def _draw(rng: np.random.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1))).float()
