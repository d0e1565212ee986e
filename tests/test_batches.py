"""Batches depend on seed, epoch and step alone, and see every image as often as they should."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from making import Array, pictures, read_all, save

from contorno.config import Preprocessing
from contorno.data.agreement import Reading
from contorno.data.batches import Batch, Sampler, random_crop
from contorno.data.dataset import Dataset, load
from contorno.data.pairs import find_pairs
from contorno.losses import targets


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return read_all(pictures(tmp_path_factory.mktemp("data"), 7, size=48))


def sampler(
    dataset: Dataset, *, crop: int | None = 32, batch: int = 3, steps: int = 5, seed: int = 0
) -> Sampler:
    preprocessing = Preprocessing(size=None if crop else (40, 24))
    return Sampler(dataset, batch, crop, steps, preprocessing, seed)


def equal(first: list[Batch], second: list[Batch]) -> bool:
    return len(first) == len(second) and all(
        torch.equal(a.images, b.images) and torch.equal(a.masks, b.masks) and a.names == b.names
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.parametrize("crop", [32, None])
def test_the_number_of_workers_changes_nothing(dataset: Dataset, crop: int | None) -> None:
    steps = 5 if crop else 3
    several = [
        list(sampler(dataset, crop=crop, steps=steps).batches(2, start=0, workers=workers))
        for workers in (0, 1, 3)
    ]
    assert [len(batches) for batches in several] == [steps] * 3
    assert equal(several[0], several[1])
    assert equal(several[0], several[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_starting_in_the_middle_gives_the_rest(dataset: Dataset, workers: int) -> None:
    whole = list(sampler(dataset).batches(1, start=0, workers=0))
    for start in range(6):
        rest = list(sampler(dataset).batches(1, start=start, workers=workers))
        assert equal(rest, whole[start:])


def test_epochs_seeds_and_steps_differ(dataset: Dataset) -> None:
    drawn = [
        next(sampler(dataset, seed=seed).batches(epoch, start=start, workers=0)).images
        for seed, epoch, start in ((0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0))
    ]
    assert len({image.numpy().tobytes() for image in drawn}) == 4


def test_leaving_early_stops_the_threads(dataset: Dataset) -> None:
    batches = sampler(dataset, steps=1000).batches(0, start=0, workers=2)
    next(batches)
    batches.close()  # would hang, or prepare a thousand batches, were they not cancelled
    with pytest.raises(StopIteration):
        next(batches)


def test_whole_images_come_once_an_epoch(dataset: Dataset) -> None:
    orders = []
    for epoch in range(4):
        batches = list(sampler(dataset, crop=None, steps=3).batches(epoch, start=0, workers=0))
        assert [len(b.names) for b in batches] == [3, 3, 1]  # the last is what is left
        order = [name for batch in batches for name in batch.names]
        assert sorted(order) == dataset.names
        orders.append(tuple(order))
    assert len(set(orders)) > 1


def test_crops_pass_over_all_images_equally_often(dataset: Dataset) -> None:
    seen: list[str] = []
    for epoch in range(7):
        for batch in sampler(dataset).batches(epoch, start=0, workers=0):
            assert batch.images.shape == (3, 3, 32, 32)
            assert batch.masks.shape == (3, 1, 32, 32)
            seen += batch.names
    assert len(seen) == 105
    for start in range(0, 105, 7):  # every pass, though passes and epochs do not line up
        assert sorted(seen[start : start + 7]) == dataset.names
    assert set(Counter(seen).values()) == {15}


def test_a_batch_may_be_larger_than_the_set(dataset: Dataset) -> None:
    (batch,) = sampler(dataset, batch=16, steps=1).batches(0, start=0, workers=0)
    assert set(Counter(batch.names).values()) == {2, 3}
    assert len(batch.images) == 16


def test_crops_are_pieces_of_image_and_mask_at_one_place(dataset: Dataset) -> None:
    for batch in sampler(dataset, steps=8).batches(0, start=0, workers=0):
        for image, mask, name in zip(batch.images, batch.masks, batch.names, strict=True):
            whole, truth = dataset.read(dataset.names.index(name))
            windows = np.lib.stride_tricks.sliding_window_view(whole, (32, 32), (0, 1))
            same = (windows == image.numpy()).all((2, 3, 4))  # (y, x) of equal pieces
            places = np.argwhere(same)
            assert len(places) >= 1
            assert any(np.array_equal(truth[y : y + 32, x : x + 32], mask[0]) for y, x in places)
    assert batch.images.dtype == torch.uint8
    assert batch.masks.dtype == torch.float32


@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.float32])
def test_other_types_keep_their_values(tmp_path: Path, kind: type) -> None:
    rng = np.random.default_rng(0)
    extension = ".png" if kind is np.uint16 else ".tif"
    image = (rng.random((32, 32)) * 60000 - 20000 * (kind is not np.uint16)).clip(-32768, 60000)
    image = (image / 2 if kind is np.int16 else image).astype(kind)
    save(tmp_path / "images" / f"a{extension}", image)
    save(tmp_path / "masks" / "a.png", np.eye(32, dtype=np.uint8))
    (batch,) = sampler(read_all(tmp_path), batch=1, steps=1).batches(0, start=0, workers=0)
    assert np.array_equal(batch.images[0, 0].numpy(), image)


# Crops


@pytest.mark.parametrize("shape", [(10, 50), (50, 10), (20, 20), (31, 32), (1, 40), (3, 5), (1, 1)])
def test_small_images_are_mirrored_to_the_size(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    mask = (rng.random(shape) < 0.3).astype(np.uint8)
    image = np.stack([mask * 7, rng.integers(0, 9, shape)], -1).astype(np.uint8)
    for _ in range(10):
        crop, truth = random_crop(image, mask, 32, rng)
        assert crop.shape == (32, 32, 2)
        assert truth.shape == (32, 32)
        assert np.array_equal(crop[..., 0], truth * 7)  # mirrored alike
    if shape == (20, 20):
        assert np.array_equal(crop[6:26, 6:26], image)
        assert np.array_equal(crop[:6], crop[7:13][::-1])


def test_crops_reach_every_place() -> None:
    y, x = np.mgrid[:40, :50]
    image = np.stack([y, x], -1).astype(np.uint8)
    rng = np.random.default_rng(0)
    corners = {
        tuple(random_crop(image, np.zeros((40, 50), np.uint8), 32, rng)[0][0, 0])
        for _ in range(3000)
    }
    assert corners == {(y, x) for y in range(9) for x in range(19)}


def test_a_third_of_the_crops_that_miss_a_class_is_moved_to_it() -> None:
    mask = np.zeros((400, 400), np.uint8)
    mask[300:304, 100:104] = 1  # a random crop of 64 sees it in about 4% of the cases
    image = np.zeros((400, 400, 1), np.uint8)
    rng = np.random.default_rng(0)
    crops = [random_crop(image, mask, 64, rng)[1] for _ in range(1500)]
    share = np.mean([crop.any() for crop in crops])
    assert 1 / 3 < share < 1 / 3 + 0.09
    places = {tuple(np.argwhere(crop)[0]) for crop in crops if crop.sum() == 16}
    assert len(places) > 200  # not always in the very middle


def test_crops_move_to_each_class_as_often_and_to_nothing_ignored() -> None:
    """A speck that a random crop of 32 meets in 1 of 100 cases, beside stripes that all see."""
    striped = np.zeros((400, 400), np.uint8)
    striped[:, ::8] = 1

    def met(speck: int, below: int, *, multilabel: bool) -> float:
        mask = striped * np.uint8(below)
        mask[200:204, 101:105] = speck
        image, rng = mask[..., None], np.random.default_rng(0)
        crops = [random_crop(image, mask, 32, rng, multilabel=multilabel)[1] for _ in range(500)]
        return float(np.mean([(crop == speck).any() for crop in crops]))

    assert met(3, 1, multilabel=False) == pytest.approx(1 / 6, abs=0.06)  # one of two classes
    assert met(255, 1, multilabel=False) < 0.04  # ignored pixels are no class
    assert met(255, 0, multilabel=True) == pytest.approx(1 / 3, abs=0.06)  # but eight classes
    assert met(128, 0, multilabel=True) == pytest.approx(1 / 3, abs=0.06)  # one, the eighth
    assert met(130, 1, multilabel=True) == pytest.approx(2 / 9, abs=0.06)  # two of three


def test_crops_of_large_pictures_take_little_memory() -> None:
    mask = np.zeros((4096, 4096), np.uint8)
    mask[2000:2010, 3000:3010] = 1
    image = np.broadcast_to(mask[..., None], (*mask.shape, 1))
    tracemalloc.start()
    cut = [random_crop(image, mask, 64, np.random.default_rng(seed))[1] for seed in range(6)]
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert any(one.any() for one in cut)  # a crop was moved
    assert most < 3 * mask.nbytes  # not eight bytes for each pixel


def test_crops_that_see_every_class_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.tile(np.array([0, 1, 1, 2], np.uint8), (90, 25))
    image = np.arange(9000, dtype=np.uint16).reshape(90, 100, 1)

    def corners() -> list[int]:
        rngs = [np.random.default_rng(seed) for seed in range(200)]
        return [int(random_crop(image, mask, 32, each)[0][0, 0, 0]) for each in rngs]

    moving = corners()
    monkeypatch.setattr("contorno.data.batches._MOVED", 0.0)
    assert corners() == moving


# Classic: whole images, resized


def test_one_overlapping_class_keeps_its_bit_when_resized(tmp_path: Path) -> None:
    truth = np.zeros((48, 48), np.uint8)
    truth[:, ::8] = truth[:, 1::8] = 255
    save(tmp_path / "i" / "p.png", truth // 2)
    save(tmp_path / "m" / "p.png", truth)
    found = find_pairs(tmp_path / "i", {"a": tmp_path / "m"})
    layered, _ = load(found.pairs, workers=0, reading=Reading(layers=("a",)))
    (batch,) = sampler(layered, crop=None, batch=1, steps=1).batches(0, start=0, workers=0)
    target, _ = targets(batch.masks, 1, multilabel=True, ignore=False)
    assert target.mean() == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize(
    "reading", [Reading(foreground="200", ignore="9"), Reading(classes="none=0,a=9,b=200")]
)
def test_class_numbers_are_never_mixed_when_resized(tmp_path: Path, reading: Reading) -> None:
    truth = np.random.default_rng(0).choice(np.array([0, 9, 200], np.uint8), (48, 48))
    save(tmp_path / "images" / "p.png", truth // 2)
    save(tmp_path / "masks" / "p.png", truth)
    numbered = read_all(tmp_path, reading=reading)
    (batch,) = sampler(numbered, crop=None, batch=1, steps=1).batches(0, start=0, workers=0)
    classes = numbered.read(0)[1]
    rows, columns = (np.arange(40) + 0.5) * 48 / 40, (np.arange(24) + 0.5) * 48 / 24
    nearest = classes[rows.astype(int)][:, columns.astype(int)]
    assert len(np.unique(nearest)) == 3
    assert np.array_equal(batch.masks[0, 0].numpy(), nearest)


def test_classic_resize_makes_soft_masks(dataset: Dataset) -> None:
    batches = list(sampler(dataset, crop=None, steps=3).batches(0, start=0, workers=0))
    seen: list[Array] = []
    for batch in batches:
        assert batch.images.dtype == batch.masks.dtype == torch.float32
        for image, mask, name in zip(batch.images, batch.masks, batch.names, strict=True):
            assert mask.shape == (1, 40, 24)
            whole, truth = dataset.read(dataset.names.index(name))
            for mine, source in ((image, np.moveaxis(whole, -1, 0)), (mask, truth[None])):
                reference = F.interpolate(
                    torch.from_numpy(source.copy())[None].float(),
                    (40, 24),
                    mode="bilinear",
                    antialias=True,
                    align_corners=False,
                )
                assert torch.allclose(mine, reference[0], atol=1e-4)
            seen.append(mask.numpy())
    values = np.concatenate([mask.ravel() for mask in seen])
    assert values.min() >= 0
    assert values.max() <= 1
    assert ((values > 0.05) & (values < 0.95)).any()
