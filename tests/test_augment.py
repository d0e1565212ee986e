"""Augmentation changes picture and mask together, and nothing that the mask says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from contorno.data import augment as module
from contorno.data.augment import augment

SIZE = 64


@pytest.fixture
def clear(monkeypatch: pytest.MonkeyPatch) -> None:
    """No picture is made worse."""
    for name in ("_COARSE", "_BLURRED", "_CURVED", "_NOISY"):
        monkeypatch.setattr(module, name, 0.0)


def blobs(count: int, seed: int = 0) -> Tensor:
    """Smooth shapes, a third of the picture: (N, 1, SIZE, SIZE) of 0 and 1."""
    noise = np.random.default_rng(seed).standard_normal((count, SIZE, SIZE))
    smooth = ndimage.gaussian_filter(noise, (0, 6, 6))
    return torch.from_numpy(smooth > np.quantile(smooth, 0.7)).float()[:, None]


def smooth() -> Tensor:
    """A normalised picture of three channels: (3, SIZE, SIZE)."""
    noise = np.random.default_rng(0).standard_normal((3, SIZE, SIZE))
    image = torch.from_numpy(ndimage.gaussian_filter(noise, (0, 1, 1))).float()
    return (image - image.mean()) / image.std()


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


@pytest.mark.usefixtures("clear")
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


def spread(mask: Tensor) -> np.ndarray:
    """Covariance (2, 2), down and across, of the pixels of the object in a mask's middle."""
    where, _ = ndimage.label(mask.numpy())  # the corners hold mirrored ones
    return np.cov(np.array(np.nonzero(where == where[SIZE // 2, SIZE // 2])))


def test_objects_are_turned_by_any_angle_and_not_sheared() -> None:
    bar = torch.zeros(SIZE, SIZE)
    bar[26:38, 12:52] = 1
    _, masks = apply(bar.expand(300, 1, -1, -1))
    long, short = np.linalg.eigvalsh(spread(bar))[::-1]
    angles = []
    for mask in masks[:, 0]:
        (small, large), axes = np.linalg.eigh(spread(mask))
        assert large / small == pytest.approx(long / short, rel=0.25)
        angles.append(np.arctan2(*axes[:, 1]) % np.pi)
    turned, _ = np.histogram(angles, bins=18, range=(0, np.pi))
    assert turned.min() >= 2  # of about 8 in each ten degrees


@pytest.mark.usefixtures("clear")
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


@pytest.mark.parametrize(
    ("name", "share"), [("_COARSE", 0.25), ("_BLURRED", 0.15), ("_CURVED", 0.3), ("_NOISY", 0.15)]
)
def test_pictures_are_made_worse_as_often_as_in_nnunet(
    name: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in {"_COARSE", "_BLURRED", "_CURVED", "_NOISY"} - {name}:
        monkeypatch.setattr(module, other, 0.0)
    image = smooth()
    worse = [module._worsen(image, np.random.default_rng(index)) for index in range(400)]
    changes = torch.stack([(one - image).abs().mean() for one in worse])
    assert share - 0.07 < (changes > 0).float().mean() < share + 0.07
    assert changes.max() < 0.5  # of a picture whose spread is 1


@pytest.mark.usefixtures("clear")
def test_every_example_gets_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_NOISY", 1.0)
    monkeypatch.setattr(module, "_VARIANCE", (0.09, 0.09))
    images, _ = augment(torch.zeros(6, 3, SIZE, SIZE), blobs(6), rng=np.random.default_rng(0))
    channels = images.flatten(2)
    assert channels.std(2).flatten().tolist() == pytest.approx([0.3] * 18, rel=0.05)
    alike = torch.corrcoef(channels.flatten(0, 1)) - torch.eye(18)
    assert alike.abs().max() < 0.1  # neither examples nor channels share theirs


def test_blur_is_a_gaussian() -> None:
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 20, 31))).float()
    reference = ndimage.gaussian_filter(image.numpy(), (0, 0.8, 0.8), mode="mirror", radius=2)
    np.testing.assert_allclose(module._blurred(image, 0.8).numpy(), reference, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.7, 1.0, 1.5])
def test_gamma_keeps_order_mean_and_spread(gamma: float) -> None:
    image = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 20, 31))).float()
    curved = module._curved(image, gamma)
    assert torch.equal(curved.flatten().argsort(), image.flatten().argsort())
    assert curved.mean().item() == pytest.approx(image.mean().item(), abs=1e-5)
    assert curved.std().item() == pytest.approx(image.std().item(), abs=1e-4)
    middle = (curved.median() - curved.min()) / (curved.max() - curved.min())
    plain = (image.median() - image.min()) / (image.max() - image.min())
    assert middle.item() == pytest.approx(plain.item() ** gamma, abs=1e-5)


def test_coarser_keeps_what_is_wide_and_loses_what_is_fine() -> None:
    y, x = np.mgrid[:64, :64]
    wide = torch.from_numpy(np.sin(x / 10)).float()[None]
    fine = torch.from_numpy((-1.0) ** (x + y)).float()[None]
    assert (module._coarser(wide, 0.5) - wide).abs().mean() < 0.06
    assert module._coarser(fine, 0.5).std() < 0.01
    assert torch.equal(module._coarser(fine, 1.0), fine)


@pytest.mark.parametrize("value", [0.0, 7.0])
def test_a_constant_picture_stays_finite(value: float) -> None:
    image = torch.full((1, 32, 32), value)
    for index in range(40):
        assert module._worsen(image, np.random.default_rng(index)).isfinite().all()
