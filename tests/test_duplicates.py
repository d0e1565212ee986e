"""Equal and altered copies are found, different pictures of one kind are not."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
from numpy.typing import NDArray
from PIL import Image

from contorno.data import duplicates
from contorno.data.demo import draw
from contorno.data.duplicates import LIMIT, SIDE, near, same, thumbnail

Array = NDArray[Any]
COPY = "the same picture, but for compression, size or brightness"
SYMMETRIES = {
    (k, mirrored): word
    for k, mirrored, word in (
        (0, False, COPY),
        (1, False, "turned by 90 degrees"),
        (2, False, "turned by 180 degrees"),
        (3, False, "turned by 90 degrees"),
        (0, True, "mirrored left to right"),
        (1, True, "mirrored and turned by 90 degrees"),
        (2, True, "mirrored top to bottom"),
        (3, True, "mirrored and turned by 90 degrees"),
    )
}


def moved(picture: Array, k: int, mirrored: bool) -> Array:
    picture = np.rot90(picture, k)
    return picture[:, ::-1] if mirrored else picture


def cells(index: int, size: int = 96) -> Array:
    return draw(index, size=size)[0]


def jpeg(picture: Array, quality: int) -> Array:
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "JPEG", quality=quality)
    return np.asarray(Image.open(data))


def resized(picture: Array, factor: float) -> Array:
    height, width = (round(side * factor) for side in picture.shape[:2])
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR))


def noisy(picture: Array) -> Array:
    noise = np.random.default_rng(0).normal(0, 5, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


# Thumbnails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((256, 512, 3), "uint8"),
        ((512, 512), "uint8"),
        ((256, 256, 5), "uint16"),
        ((256, 256, 1), "int16"),
        ((256, 256, 2), "bool"),
        ((256, 256, 3), "float32"),
    ],
)
def test_thumbnail_is_the_mean_of_each_block(shape: tuple[int, ...], kind: str) -> None:
    picture = np.random.default_rng(0).integers(0, 2**15, shape).astype(kind)
    height, width = shape[:2]
    sampled = picture.astype(float).reshape(height, width, -1)
    # From 512 pixels, which lie in pairs about the centre, every second one is taken.
    rows, columns = (
        np.r_[0 : side // 2 : 1, side // 2 : side]
        if side == 256
        else np.r_[1 : side // 2 : 2, side // 2 : side : 2]
        for side in (height, width)
    )
    sampled = sampled[rows][:, columns]
    expected = sampled.reshape(SIDE, 8, SIDE, -1).mean(axis=(1, 3))
    found = thumbnail(picture)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "bool", "float32"])
@pytest.mark.parametrize("shape", [(300, 300, 3), (257, 257, 1), (31, 31, 3), (1, 1, 3), (70, 555)])
def test_thumbnail_of_a_turned_picture_is_turned(shape: tuple[int, ...], kind: str) -> None:
    picture = np.random.default_rng(1).integers(0, 2**15, shape).astype(kind)
    plain = thumbnail(picture)
    for k, mirrored in SYMMETRIES:
        turned = thumbnail(moved(picture, k, mirrored))
        np.testing.assert_array_equal(turned, moved(plain, k, mirrored))


def test_values_that_are_not_finite_count_as_nothing() -> None:
    picture = np.ones((256, 256, 1))
    picture[:8, :8] = np.nan
    picture[:8, 8:16] = [[[np.inf]], [[-np.inf]]] * 4
    picture[8:16, :4] = np.nan
    picture[8:16, 8:16] = 1e300
    found = thumbnail(picture)
    assert found[0].tolist() == [0, 0, *[1] * 30]
    assert found[1, 0] == 0.5
    assert found[1, 1] == np.finfo(np.float32).max / 8
    assert np.isfinite(found).all()
    assert thumbnail(np.full((4, 4), 1e300)).max() == np.finfo(np.float32).max / 8


# Copies ----------------------------------------------------------------------------------------


def test_equal_digests_are_grouped() -> None:
    assert same([b"a", b"b", b"a", b"c", b"b", b"a"]) == [[0, 2, 5], [1, 4]]
    assert same([b"a", b"b"]) == []
    assert same([]) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda p: jpeg(p, 75),
        lambda p: np.clip(p * 1.1, 0, 255).astype(np.uint8),
        lambda p: resized(p, 0.9),
        lambda p: jpeg(resized(p, 0.9), 75),
        lambda p: p.astype(np.uint16) * 257,
        lambda p: p.astype(np.float32) / 255 - 1,
        lambda p: p.mean(axis=2).astype(np.uint8),
        noisy,
    ],
)
def test_altered_copy_is_found(change: Any) -> None:
    pictures = [cells(index) for index in range(8)]
    pictures += [change(pictures[2]), change(moved(pictures[5], 1, False).copy())]
    assert near(np.stack([thumbnail(p) for p in pictures])) == [
        (2, 8, COPY),
        (5, 9, "turned by 90 degrees"),
    ]


@pytest.mark.parametrize(("position", "word"), SYMMETRIES.items())
def test_position_is_told_in_words(position: tuple[int, bool], word: str) -> None:
    picture = cells(3)
    assert near(np.stack([thumbnail(picture), thumbnail(moved(picture, *position))])) == [
        (0, 1, word)
    ]


def test_different_pictures_of_one_kind_are_no_copies() -> None:
    assert near(np.stack([thumbnail(cells(index)) for index in range(60)])) == []


def test_uneven_light_alone_makes_no_copy() -> None:
    rng = np.random.default_rng(0)
    light = np.linspace(60, 180, 128) + np.linspace(0, 40, 128)[:, None]
    pictures = [light + rng.normal(0, 10, light.shape) for _ in range(5)]
    assert near(np.stack([thumbnail(p) for p in pictures])) == []


def test_pictures_without_contrast_are_left_out() -> None:
    rng = np.random.default_rng(0)
    blank = np.full((64, 64, 3), 200, np.uint8)
    speck = blank.copy()
    speck[5, 5] = 203
    pictures = [blank, blank, speck, speck, np.zeros((64, 64)), np.zeros((64, 64))]
    pictures += [np.full((64, 64), 1e-30, np.float32) + rng.normal(0, 1e-38, (64, 64))] * 2
    assert near(np.stack([thumbnail(p) for p in pictures])) == []


def slow(thumbnails: Array) -> list[tuple[int, int]]:
    """Every pair in all positions, one by one."""
    fine = [t / np.abs(t).max() for t in thumbnails.astype(float)]
    fine = [t - scipy.ndimage.gaussian_filter(t, 1.5, mode="reflect") for t in fine]
    pairs = []
    for i, one in enumerate(fine):
        for j in range(i + 1, len(fine)):
            turned = [moved(fine[j], *position) for position in SYMMETRIES]
            if max(np.corrcoef(one.ravel(), t.ravel())[0, 1] for t in turned) > 0.85:
                pairs.append((i, j))
    return pairs


def test_pairs_are_those_of_a_slow_search() -> None:
    rng = np.random.default_rng(0)
    thumbnails = []
    for width in (0.5, 1, 2):
        fields = rng.normal(0, 1, (6, SIDE, SIDE))
        first, *others = scipy.ndimage.gaussian_filter(fields, (0, width, width))
        for share, other in zip((0.1, 0.2, 0.3, 0.4, 0.5), others, strict=True):
            mixed = first + share * other / (1 - share)
            thumbnails.append(moved(mixed, len(thumbnails), share == 0.3))
    found = near(np.stack(thumbnails))
    assert [pair[:2] for pair in found] == slow(np.stack(thumbnails))
    assert 10 < len(found) < 30  # of 3 * 10 that are related


def test_copies_are_found_across_blocks_of_a_large_set() -> None:
    rng = np.random.default_rng(0)
    thumbnails = rng.normal(100, 20, (2300, SIDE, SIDE)).astype(np.float32)
    thumbnails[7] = 5  # no contrast: the others keep their numbers
    thumbnails[2299] = thumbnails[0][:, ::-1] * 1.1
    thumbnails[600] = np.rot90(thumbnails[599]) - 3
    before = thumbnails.copy()
    assert near(thumbnails) == [
        (0, 2299, "mirrored left to right"),
        (599, 600, "turned by 90 degrees"),
    ]
    np.testing.assert_array_equal(thumbnails, before)


def test_of_many_pictures_those_of_like_skewness_are_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = [cells(index) for index in range(60)]
    copies = [moved(jpeg(pictures[index], 75), index % 4, index % 3 == 0) for index in range(12)]
    thumbnails = np.stack([thumbnail(picture) for picture in [*pictures, *copies]])
    compared: list[int] = []
    highest = duplicates._highest

    def counted(left: Array, right: Array, room: Array) -> Array:
        compared.append(left.shape[1] * right.shape[-1])
        return highest(left, right, room)

    monkeypatch.setattr(duplicates, "_highest", counted)
    monkeypatch.setattr(duplicates, "_BLOCK", 4)
    everything, all_of_them = near(thumbnails), sum(compared)
    assert [(i, j) for i, j, _ in everything] == [(i, 60 + i) for i in range(12)]
    compared.clear()
    monkeypatch.setattr(duplicates, "ALL", 50)
    monkeypatch.setattr(duplicates, "_NEXT", 16)
    assert near(thumbnails) == everything
    assert sum(compared) < all_of_them / 2


def test_search_stops_at_the_limit() -> None:
    picture = np.random.default_rng(0).normal(0, 1, (SIDE, SIDE))
    found = near(np.broadcast_to(picture, (200, SIDE, SIDE)))
    assert len(found) == LIMIT == 10_000
    assert found == sorted(set(found))
    assert len(near(np.broadcast_to(picture, (20, SIDE, SIDE)))) == 190


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_pictures_hold_no_pair(count: int) -> None:
    assert near(np.random.default_rng(0).normal(0, 1, (count, SIDE, SIDE))) == []
