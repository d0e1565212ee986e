"""Augmentation changes picture and mask together, and nothing that the mask says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from contorno.data.augment import augment

SIZE = 64


def blobs(count: int, seed: int = 0) -> Tensor:
    """Smooth shapes, a third of the picture: (N, 1, SIZE, SIZE) of 0 and 1."""
    noise = np.random.default_rng(seed).standard_normal((count, SIZE, SIZE))
    smooth = ndimage.gaussian_filter(noise, (0, 6, 6))
    return torch.from_numpy(smooth > np.quantile(smooth, 0.7)).float()[:, None]


def apply(masks: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A picture that is its own mask, augmented."""
    return augment(masks * 4, masks, rng=np.random.default_rng(seed))


def symmetries(mask: np.ndarray) -> list[np.ndarray]:
    return [np.rot90(m, k) for m in (mask, mask[:, ::-1]) for k in range(4)]


def unwarped(before: Tensor, after: Tensor) -> list[bool]:
    return [
        any(np.array_equal(a[0], s) for s in symmetries(b[0].numpy()))
        for b, a in zip(before, after, strict=True)
    ]


@pytest.mark.parametrize("seed", range(4))
def test_the_mask_moves_with_the_image(seed: int) -> None:
    before = blobs(24, seed)
    images, masks = apply(before, seed)
    plain = unwarped(before, masks)
    for image, mask, exact in zip(images[:, 0].numpy(), masks[:, 0].numpy(), plain, strict=True):
        level = (image.max() + image.min()) / 2
        seen = image > level
        if exact:
            assert np.array_equal(seen, mask == 1)
            continue
        inside = ndimage.binary_erosion(mask, np.ones((3, 3)), border_value=1)
        around = ndimage.binary_dilation(mask, np.ones((3, 3)))
        sure = inside | ~around  # bilinear and nearest may differ at the outline only
        assert sure.mean() > 0.7
        assert np.array_equal(seen[sure], mask[sure] == 1)


def test_about_half_is_warped_and_all_symmetries_occur() -> None:
    before = blobs(1).expand(400, -1, -1, -1)
    _, after = apply(before)
    plain = unwarped(before, after)
    assert 0.4 < np.mean(plain) < 0.6
    kinds = {after[i, 0].numpy().tobytes() for i in range(400) if plain[i]}
    assert kinds == {np.ascontiguousarray(s).tobytes() for s in symmetries(before[0, 0].numpy())}


def test_masks_stay_0_and_1_and_shapes_stay() -> None:
    before = blobs(16)
    images, masks = augment(
        before.expand(-1, 3, -1, -1).to(torch.uint8),
        before,
        rng=np.random.default_rng(1),
    )
    assert images.shape == (16, 3, SIZE, SIZE)
    assert images.dtype == torch.float32
    assert masks.shape == before.shape
    assert set(masks.unique().tolist()) == {0.0, 1.0}


def test_objects_are_scaled_within_the_limits() -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    disc = torch.from_numpy((y - 31.5) ** 2 + (x - 31.5) ** 2 < 12**2).float()
    _, masks = apply(disc.expand(300, 1, -1, -1))
    ratios = np.sqrt(masks.sum((1, 2, 3)).numpy() / disc.sum().item())
    assert 0.68 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.42
    assert all(mask[0, 31, 31] == 1 for mask in masks)  # turned about its middle


def test_light_changes_within_the_limits() -> None:
    before = blobs(300)
    images, masks = apply(before)
    plain = unwarped(before, masks)
    image = images.numpy()[plain]
    gain = (image.max((1, 2, 3)) - image.min((1, 2, 3))) / 4
    offset = image.mean((1, 2, 3)) - before.numpy()[plain].mean((1, 2, 3)) * 4
    for values, low, high in ((gain, 0.8, 1.2), (offset, -0.2, 0.2)):
        assert low - 1e-3 <= values.min() < low + 0.05
        assert high - 0.05 < values.max() <= high + 1e-3


def test_the_generator_decides_everything() -> None:
    before = blobs(8)
    first, again, other = apply(before, 5), apply(before, 5), apply(before, 6)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_what_was_given_is_left_alone() -> None:
    images, masks = blobs(8) * 200, blobs(8)
    kept = images.clone(), masks.clone()
    augment(images, masks, rng=np.random.default_rng(0))
    assert torch.equal(images, kept[0])
    assert torch.equal(masks, kept[1])
