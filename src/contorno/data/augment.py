"""Random changes of a batch that leave its truth true: geometry in one warp, light, worse pictures.

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
# How often a picture is made worse, and how much, as in nnU-Net; gains in docs/LOG.md.
_COARSE, _ZOOM = 0.25, (0.5, 1.0)  # share of its resolution that is kept
_BLURRED, _SIGMA = 0.15, (0.5, 1.0)  # pixels
_CURVED, _GAMMA, _INVERTED = 0.3, (0.7, 1.5), 0.25  # of the curved, the negative is curved
_NOISY, _VARIANCE = 0.15, (0.0, 0.1)  # of Gaussian noise, the picture's being about 1

_TINY = 1e-6  # keeps a constant picture from dividing by zero


def augment(images: Tensor, masks: Tensor, *, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Flip, rotate, scale, relight and now and then worsen every example on its own.

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
    images = torch.stack([_worsen(image, rng) for image in images])
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


def _worsen(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Now and then coarser, blurred, of another gamma, noisy: (C, h, w)."""
    if rng.random() < _COARSE:
        image = _coarser(image, rng.uniform(*_ZOOM))
    if rng.random() < _BLURRED:
        image = _blurred(image, rng.uniform(*_SIGMA))
    if rng.random() < _CURVED:
        gamma = float(np.exp(rng.uniform(*np.log(_GAMMA))))
        image = -_curved(-image, gamma) if rng.random() < _INVERTED else _curved(image, gamma)
    if rng.random() < _NOISY:
        noise = rng.standard_normal(image.shape, dtype=np.float32) * rng.uniform(*_VARIANCE) ** 0.5
        image = image + torch.from_numpy(noise).to(image.device)
    return image


def _coarser(image: Tensor, share: float) -> Tensor:
    """As if photographed with a share of the pixels: nearest down, bilinear up."""
    size = [max(1, int(edge * share)) for edge in image.shape[1:]]
    small = F.interpolate(image[None], size, mode="nearest-exact")
    return F.interpolate(small, image.shape[1:], mode="bilinear")[0]


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Gaussian of five pixels across and down, edges mirrored."""
    weights = torch.exp(-(torch.arange(-2.0, 3.0, device=image.device) ** 2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(image[:, None], (2, 2, 2, 2), mode="reflect")  # (C, 1, h + 4, w + 4)
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, 5)), weights.view(1, 1, 5, 1))[:, 0]


def _curved(image: Tensor, gamma: float) -> Tensor:
    """The power `gamma` of values between the least and the largest; mean and spread stay."""
    low, high = image.aminmax()
    curved = ((image - low) / (high - low + _TINY)) ** gamma
    return (curved - curved.mean()) / (curved.std() + _TINY) * image.std() + image.mean()


def _draw(rng: np.random.Generator, count: int, low: float, high: float) -> Tensor:
    return torch.from_numpy(rng.uniform(low, high, (count, 1, 1, 1))).float()
