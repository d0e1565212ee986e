"""Tiles cover everything and blend to what one pass gives, away from their seams."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from notebooks import shaken

from contorno.config import Preprocessing
from contorno.engines.pytorch import PyTorchEngine
from contorno.hardware import Hardware
from contorno.models import Segmenter, UNet
from contorno.tiles import plan, stitch, weights

CPU = Hardware("cpu", "32-true", "CPU")


@given(st.integers(1, 500), st.integers(1, 80), st.data())
def test_a_plan_covers_everything_and_stays_inside(
    length: int, tile: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, tile))
    starts = plan(length, tile, stride)
    covered = np.zeros(length, bool)
    for start in starts:
        covered[start : start + tile] = True
        assert start >= 0
        assert start + min(tile, length) <= length
    assert covered.all()
    assert starts == sorted(set(starts))
    assert all(later - start <= stride for start, later in itertools.pairwise(starts))


@pytest.mark.parametrize(
    ("length", "tile", "stride", "starts"),
    [
        (10, 16, 8, [0]),
        (16, 16, 8, [0]),
        (17, 16, 8, [0, 1]),
        (24, 16, 8, [0, 8]),
        (40, 16, 8, [0, 8, 16, 24]),
        (41, 16, 16, [0, 16, 25]),
    ],
)
def test_plans_by_hand(length: int, tile: int, stride: int, starts: list[int]) -> None:
    assert plan(length, tile, stride) == starts


@pytest.mark.parametrize("stride", [0, -1, 513])
def test_a_stride_that_leaves_gaps(stride: int) -> None:
    with pytest.raises(ValueError, match=rf"stride \({stride}\) must be .* tile \(512\); try 256"):
        plan(1000, 512, stride)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (33, 128), (1, 7)])
def test_weights_are_positive_and_largest_in_the_middle(height: int, width: int) -> None:
    window = weights(height, width)
    assert window.shape == (height, width)
    assert window.dtype == np.float32
    assert window.min() >= 1e-7  # a sum of weights is never 0
    assert window.max() <= 1
    assert np.array_equal(window, window[::-1, ::-1])
    assert window[height // 2, width // 2] == window.max()
    assert np.all(np.diff(window[: (height + 1) // 2, width // 2]) >= 0)


def test_weights_are_a_bell_of_an_eighth_of_the_edge() -> None:
    window = weights(64, 32)
    for y, x in [(32, 16), (40, 16), (32, 20), (24, 12)]:
        across, down = (y - 31.5) / 8, (x - 15.5) / 4  # in standard deviations
        assert window[y, x] == pytest.approx(np.exp(-(across**2 + down**2) / 2), rel=1e-5)


@pytest.mark.parametrize("size", [16, 64, 1024])
def test_a_rim_weighs_little_beside_the_next_tile_along_the_whole_edge(size: int) -> None:
    """Where a tile ends, the next has its middle: also at the picture's own rim."""
    window = weights(size, size)
    assert np.all(window[:, 0] < 2e-3 * window[:, size // 2])
    assert np.all(window[0] < 2e-3 * window[size // 2])


def local(batch: np.ndarray) -> np.ndarray:
    """A 'network' that looks at one pixel only: (N, h, w, C) to (N, 2, h, w)."""
    assert batch.ndim == 4
    total = batch.astype(np.float32).sum(axis=-1) / 3 / 255
    return np.stack([total, 1 - total], axis=1)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (64, 64), (65, 40), (150, 97), (33, 200)])
def test_a_local_function_is_stitched_without_a_trace(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    calls: list[tuple[int, ...]] = []

    def counted(batch: np.ndarray) -> np.ndarray:
        calls.append(batch.shape)
        return local(batch)

    blended = stitch(image, counted, tile=64, whole=0)
    assert blended.shape == (2, height, width)
    assert blended.dtype == np.float32
    np.testing.assert_allclose(blended, local(image[None])[0], rtol=0, atol=1e-6)
    assert max(shape[1] for shape in calls) <= 64
    assert max(shape[2] for shape in calls) <= 64


def test_a_small_picture_is_done_in_one_pass() -> None:
    image = np.zeros((50, 70, 3), np.uint8)
    shapes: list[tuple[int, ...]] = []

    def counted(batch: np.ndarray) -> np.ndarray:
        shapes.append(batch.shape)
        return local(batch)

    stitch(image, counted, tile=32, whole=3500)
    assert shapes == [(1, 50, 70, 3)]
    shapes.clear()
    stitch(image, counted, tile=32, whole=3499)
    assert len(shapes) == 3 * 4


def test_tiles_blend_as_a_slow_weighted_mean() -> None:
    """Each tile answers with its own number; every pixel is checked by itself."""
    tile, height, width = 8, 11, 21
    image = np.zeros((height, width, 1), np.uint8)
    numbers = iter(range(1, 100))
    blended = stitch(
        image, lambda batch: np.full((1, 1, *batch.shape[1:3]), next(numbers)), tile=tile, whole=0
    )[0]
    starts = [(y, x) for y in (0, 3) for x in (0, 4, 8, 12, 13)]
    window = weights(tile, tile).astype(float)
    for y in range(height):
        for x in range(width):
            votes = [
                (window[y - top, x - left], number)
                for number, (top, left) in enumerate(starts, start=1)
                if 0 <= y - top < tile and 0 <= x - left < tile
            ]
            mean = sum(weight * number for weight, number in votes) / sum(w for w, _ in votes)
            assert blended[y, x] == pytest.approx(mean, rel=1e-5)


def test_tiled_is_whole_away_from_seams() -> None:
    """A network that sees 12 pixels far: beyond that from every tile's rim, nothing may differ."""
    torch.manual_seed(0)
    network = shaken(UNet(1, 1, (4, 8), up="transposed", activation="sigmoid"))
    segmenter = Segmenter(network, Preprocessing(output="identity"))
    engine = PyTorchEngine(segmenter, CPU)
    image = np.random.default_rng(1).integers(0, 256, (160, 224, 1), dtype=np.uint8)
    whole = stitch(image, engine.probabilities)[0]
    tiled = stitch(image, engine.probabilities, tile=64, whole=0)[0]
    reach, seams = 12, np.zeros(whole.shape, bool)
    for axis, length in enumerate(whole.shape):
        along = np.moveaxis(seams, axis, 0)
        for start in plan(length, 64, 32):
            for rim in (start, start + 64):
                if 0 < rim < length:
                    along[rim - reach : rim + reach] = True
    assert np.mean(~seams) > 0.05
    np.testing.assert_allclose(tiled[~seams], whole[~seams], rtol=0, atol=1e-5)
    assert whole.std() > 0.1
    assert np.abs(tiled - whole).max() > 1e-4  # the seams do exist: the test can tell
    assert np.abs(tiled - whole).mean() < 0.05 * whole.std()
