"""What the numbers in masks mean: every coding that people use, and the ones to refuse."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from making import Array, save, save_palette
from PIL import Image

from contorno.data.agreement import Reading
from contorno.data.coding import decide, overlap
from contorno.data.dataset import load
from contorno.data.evidence import Evidence, gather, look_at
from contorno.data.labels import (
    IGNORE,
    Labels,
    classify,
    prediction_paths,
    write_prediction,
)
from contorno.data.pairs import Pair
from contorno.errors import ConfigError, InputError
from contorno.images import RawMask, read_raw_mask

SIZE = 64


def disc(radius: float = 18, cy: float = 30, cx: float = 34, size: int = SIZE) -> Array:
    y, x = np.mgrid[:size, :size]
    return (y + 0.5 - cy) ** 2 + (x + 0.5 - cx) ** 2 < radius**2


def two(low: int, high: int, truth: Array | None = None, kind: type = np.uint8) -> Array:
    return np.where(disc() if truth is None else truth, high, low).astype(kind)


def learn(*paths: Path, **options: str) -> Labels:
    """The decision on mask files."""
    masks = [read_raw_mask(path) for path in paths]
    seen = gather([look_at(mask) for mask in masks])
    return decide(seen, kind=masks[0].kind, palette=masks[0].palette, **options)  # type: ignore[arg-type]


def counted(counts: dict[int, int]) -> Evidence:
    """One mask of so many pixels of each value, in solid blocks."""
    return Evidence(
        counts=counts,
        solid=counts,
        images=dict.fromkeys(counts, 1),
        sets=Counter([frozenset(counts)]),
        masks=1,
    )


def rewritten(path: Path, labels: Labels) -> tuple[RawMask, RawMask]:
    """The mask as it was, and as a perfect prediction of it is written."""
    before = read_raw_mask(path)
    out = path.with_name("out.png")
    write_prediction(out, labels.classes(before.values), labels)
    return before, read_raw_mask(out)


# Two values


@pytest.mark.parametrize(
    ("low", "high", "kind"),
    [
        (0, 255, np.uint8),
        (0, 1, np.uint8),
        (7, 200, np.uint8),
        (254, 255, np.uint8),
        (0, 65535, np.uint16),
        (0, 300, np.uint16),
        (1000, 1001, np.uint16),
    ],
)
def test_two_greys(tmp_path: Path, low: int, high: int, kind: type) -> None:
    path = save(tmp_path / "m.png", two(low, high, kind=kind))
    labels = learn(path)
    assert labels.values == (low, high)
    assert np.array_equal(labels.classes(read_raw_mask(path).values), disc())
    assert f"{high} is foreground (24.9% of the pixels), {low} is background" in labels.note
    before, after = rewritten(path, labels)
    assert np.array_equal(before.values, after.values)
    assert before.kind == after.kind == "grey"


def test_one_bit_masks(tmp_path: Path) -> None:
    path = tmp_path / "m.png"
    Image.fromarray(disc()).convert("1").save(path)
    labels = learn(path)
    assert labels.values == (0, 255)
    assert np.array_equal(labels.classes(read_raw_mask(path).values), disc())


def test_palette_masks_keep_index_and_palette(tmp_path: Path) -> None:
    palette = (10, 20, 30, 200, 0, 0, 0, 200, 0)
    path = save_palette(tmp_path / "m.png", two(0, 2), palette)
    labels = learn(path)
    assert labels.kind == "palette"
    assert labels.values == (0, 2)
    assert np.array_equal(labels.classes(read_raw_mask(path).values), disc())
    before, after = rewritten(path, labels)
    assert after.kind == "palette"
    assert np.array_equal(before.values, after.values)
    assert after.palette[:9] == palette


def test_two_colours(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[...] = (10, 200, 30)
    picture[disc()] = (200, 10, 30)
    path = save(tmp_path / "m.png", picture)
    labels = learn(path)
    assert labels.kind == "colour"
    assert labels.values == (0x0AC81E, 0xC80A1E)
    assert "#c80a1e is foreground" in labels.note
    before, after = rewritten(path, labels)
    assert np.array_equal(before.values, after.values)
    assert np.array_equal(np.asarray(Image.open(path.with_name("out.png"))), picture)
    swapped = learn(path, foreground="#0AC81E")
    assert np.array_equal(swapped.classes(before.values), ~disc())


def test_objects_in_the_alpha_channel(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 4), np.uint8)
    picture[..., 3] = two(0, 255)
    path = save(tmp_path / "m.png", picture)
    assert np.array_equal(learn(path).classes(read_raw_mask(path).values), disc())


PAIRS_OF_VALUES = st.lists(st.integers(0, 65535), min_size=2, max_size=2, unique=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks")


@settings(max_examples=60, deadline=None)
@given(values=PAIRS_OF_VALUES, seed=st.integers(0, 2**32), bright=st.booleans())
@example(values=[0, 65535], seed=0, bright=True)
@example(values=[255, 256], seed=0, bright=True)
def test_any_two_greys_come_back(folder: Path, values: list[int], seed: int, bright: bool) -> None:
    truth = np.random.default_rng(seed).random((5, 7)) < 0.5
    truth[0, :2] = (False, True)
    low, high = sorted(values) if bright else sorted(values, reverse=True)
    mask = RawMask(np.where(truth, high, low))
    labels = decide(gather([look_at(mask)]), foreground="bright" if bright else "dark")
    assert np.array_equal(labels.classes(mask.values), truth)
    write_prediction(folder / "m.png", truth.astype(np.uint8), labels)
    assert np.array_equal(read_raw_mask(folder / "m.png").values, mask.values)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(0, 0xFFFFFF), min_size=2, max_size=2, unique=True))
def test_any_two_colours_come_back(folder: Path, values: list[int]) -> None:
    def is_grey(colour: int) -> bool:
        return colour % 0x010101 == 0

    assume(not all(is_grey(colour) for colour in values))
    truth = disc(3, 4, 4, 8)
    mask = RawMask(np.where(truth, max(values), min(values)), "colour")
    labels = decide(gather([look_at(mask)]), kind="colour")
    write_prediction(folder / "m.png", labels.classes(mask.values), labels)
    after = read_raw_mask(folder / "m.png")
    assert after.kind == "colour"
    assert np.array_equal(after.values, mask.values)


@pytest.mark.parametrize("values", [(0, 100_000), (-1, 1), (-32768, 32767), (70_000, 2**31 - 1)])
def test_values_that_no_png_holds_are_refused(tmp_path: Path, values: tuple[int, int]) -> None:
    path = save(tmp_path / "m.tif", two(*values, kind=np.int32))
    with pytest.raises(InputError, match="must be from 0 to 65535") as caught:
        learn(path)
    assert any(str(value) in str(caught.value) for value in values)


def test_indices_that_no_png_holds_are_refused(tmp_path: Path) -> None:
    """A palette of a TIFF may have 65,536 colours."""
    path, colours = tmp_path / "m.tif", np.zeros((3, 65536), np.uint16)
    tifffile.imwrite(path, two(0, 500, kind=np.uint16), photometric="palette", colormap=colours)
    with pytest.raises(InputError, match=r"mask value 500 .* must be from 0 to 255"):
        learn(path)


# Soft and noisy edges


def antialiased(radius: float, by: int = 8) -> Array:
    """A disc drawn by supersampling, 0..255."""
    fine = disc(radius * by, 30.3 * by, 33.8 * by, SIZE * by)
    return np.rint(fine.reshape(SIZE, by, SIZE, by).mean((1, 3)) * 255).astype(np.uint8)


@pytest.mark.parametrize("radius", [4, 8, 18, 26])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_antialiased_masks(tmp_path: Path, radius: float, scale: float) -> None:
    soft = np.rint(antialiased(radius) * scale).astype(np.uint8)
    path = save(tmp_path / "m.png", soft)
    assert len(np.unique(soft)) > 10
    labels = learn(path)
    assert labels.values == (0, soft.max())
    assert np.array_equal(labels.classes(soft), soft >= soft.max() / 2)
    assert "soft edges" in labels.note
    assert labels.table[-1].name == "the nearest of these"
    _, after = rewritten(path, labels)
    assert set(np.unique(after.values)) == {0, soft.max()}


@pytest.mark.parametrize("quality", [95, 75, 50, 30])
@pytest.mark.parametrize("radius", [6, 18])
def test_masks_saved_as_jpeg(tmp_path: Path, quality: int, radius: float) -> None:
    truth = disc(radius)
    path = tmp_path / "m.jpg"
    Image.fromarray(two(0, 255, truth)).save(path, quality=quality)
    assert len(np.unique(read_raw_mask(path).values)) > 10
    classes = learn(path).classes(read_raw_mask(path).values)
    assert (classes == truth).mean() > 0.998


def test_dark_objects_in_soft_masks(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", 255 - antialiased(18))
    labels = learn(path, foreground="dark")
    assert labels.values == (255, 0)
    assert np.array_equal(labels.classes(np.array([[0, 100, 200, 255]])), [[1, 1, 0, 0]])
    assert labels.written(np.array([[0, 1]])).tolist() == [[255, 0]]


# What is refused


def test_a_single_value_says_that_there_is_nothing_to_learn(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.full((8, 8), 255, np.uint8))
    with pytest.raises(InputError, match=r"single value 255: there is nothing to learn"):
        learn(path)


def test_greys_without_heaps_are_no_mask(tmp_path: Path) -> None:
    path = save(
        tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    )
    with pytest.raises(InputError, match="do not look like labels"):
        learn(path)


def test_heat_maps_are_no_mask(tmp_path: Path) -> None:
    y, x = np.mgrid[:SIZE, :SIZE]
    bump = 255 * np.exp(-((y - 30) ** 2 + (x - 34) ** 2) / (2 * 12**2))
    with pytest.raises(InputError, match="do not look like labels"):
        learn(save(tmp_path / "heat.png", bump.astype(np.uint8)))


# Several classes


@pytest.mark.parametrize("stray", [{}, {1: 3, 127: 2, 130: 4, 254: 3}])
def test_three_drawn_classes(tmp_path: Path, stray: dict[int, int]) -> None:
    mask = two(0, 255)
    mask[:20, :20] = 128
    truth = np.select([mask == 128, mask == 255], [1, 2])
    flat = mask.reshape(-1)
    places = np.random.default_rng(0).permutation(len(flat))[: sum(stray.values())]
    flat[places] = np.repeat(list(stray), list(stray.values()))
    labels = learn(save(tmp_path / "m.png", mask))
    assert labels.values == (0, 128, 255)
    assert labels.names == ("background", "class 128", "class 255")
    agree = labels.classes(mask) == truth
    agree.reshape(-1)[places] = True
    assert agree.all()
    for value in (0, 128, 255):
        share = next(row.share for row in labels.table if row.value == str(value))
        assert share == (mask == value).mean()
    chosen = learn(tmp_path / "m.png", foreground="128,255")
    assert np.array_equal(chosen.classes(mask) == 1, labels.classes(mask) > 0)


CLASS_NUMBERS = [
    (0, 1, 2),
    (1, 2, 3),
    (0, 1, 2, 3),
    (0, 50, 100),
    (0, 2, 4, 6, 8),
    (0, 85, 170, 255),
    (0, 10, 20, 30, 40),
    (0, 128, 255),
    (7, 100, 254),
]


@pytest.mark.parametrize("values", CLASS_NUMBERS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_classes_coded_as_numbers_come_back(
    tmp_path: Path, values: tuple[int, ...], share: float, kind: type
) -> None:
    mask = np.full((SIZE, SIZE), values[0], kind)
    rows = max(1, int(SIZE * share / (len(values) - 1)))  # down to lines of one pixel
    if rows == 1 and len(values) > 3 and values[-1] >= 32:
        rows = 2  # lines of one pixel side by side are what soft edges look like
    for place, value in enumerate(values[1:]):
        mask[2 + place * rows : 2 + (place + 1) * rows] = value
    path = save(tmp_path / "m.png", mask)
    labels = learn(path)
    assert sorted(labels.values) == sorted(values)
    commonest = max(values, key=lambda v: np.count_nonzero(mask == v))
    assert labels.values[0] == (0 if 0 in values else commonest)
    assert np.array_equal(np.array(labels.values)[labels.classes(mask)], mask)
    assert labels.channels == len(values)
    before, after = rewritten(path, labels)
    assert np.array_equal(before.values, after.values)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(0, 255), min_size=3, max_size=12, unique=True),
    seed=st.integers(0, 2**32),
)
def test_any_class_numbers_come_back(folder: Path, values: list[int], seed: int) -> None:
    assume(max(values) - min(values) < 32 or min(np.diff(sorted(values))) > 2)
    assume(not {0, 1, 255} <= set(values))  # 255 may mean "ignore": see below
    blocks = np.random.default_rng(seed).permutation(np.resize(values, 36)).reshape(6, 6)
    mask = np.kron(blocks, np.ones((5, 5), int)).astype(np.uint8)
    labels = decide(gather([look_at(RawMask(mask))]))
    if labels.ignored:
        assert sorted({*labels.values, 255}) == sorted(values)
    else:
        assert sorted(labels.values) == sorted(values)
    write_prediction(folder / "k.png", labels.classes(mask), labels)
    assert np.array_equal(read_raw_mask(folder / "k.png").values, mask)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.integers(0, 0xFFFFFF), min_size=3, max_size=8, unique=True),
    seed=st.integers(0, 2**32),
)
@example(values=[0, 1, 255], seed=0)  # blue is no "ignore"
def test_any_colours_come_back(folder: Path, values: list[int], seed: int) -> None:
    assume(any(value % 0x010101 for value in values))
    blocks = np.random.default_rng(seed).permutation(np.resize(values, 36)).reshape(6, 6)
    mask = np.kron(blocks, np.ones((5, 5), int))
    labels = decide(gather([look_at(RawMask(mask, "colour"))]), kind="colour")
    assert set(labels.values) == set(values)
    write_prediction(folder / "c.png", labels.classes(mask), labels)
    assert np.array_equal(read_raw_mask(folder / "c.png").values, mask)


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 255), min_size=2, max_size=20, unique=True))
def test_any_palette_indices_come_back(folder: Path, values: list[int]) -> None:
    assume(not (255 in values and {0, 1} & set(values)))
    mask = np.kron(np.resize(values, 36).reshape(6, 6), np.ones((5, 5), int)).astype(np.uint8)
    palette = tuple(int(v) for v in np.random.default_rng(0).integers(0, 256, 768))
    labels = decide(gather([look_at(RawMask(mask, "palette", palette))]), kind="palette")
    labels = labels.model_copy(update={"palette": palette})
    assert sorted(labels.values) == sorted(values)
    write_prediction(folder / "p.png", labels.classes(mask), labels)
    after = read_raw_mask(folder / "p.png")
    assert after.kind == "palette"
    assert np.array_equal(after.values, mask)


def test_antialiased_masks_of_three_classes(tmp_path: Path) -> None:
    outer, inner = antialiased(26) / 255, antialiased(12) / 255
    soft = np.rint(outer * 128 + inner * 127).astype(np.uint8)
    labels = learn(save(tmp_path / "m.png", soft))
    assert labels.values == (0, 128, 255)
    truth = (outer >= 0.5).astype(int) + (inner >= 0.5)
    assert (labels.classes(soft) == truth).mean() > 0.98


@pytest.mark.parametrize("quality", [95, 75])
def test_three_classes_saved_as_jpeg(tmp_path: Path, quality: int) -> None:
    mask = np.zeros((128, 128), np.uint8)
    mask[16:64, 16:112] = 128
    mask[64:112, 16:112] = 255
    path = tmp_path / "m.jpg"
    Image.fromarray(mask).save(path, quality=quality)
    labels = learn(path)
    assert len(labels.values) == 3
    classes = labels.classes(read_raw_mask(path).values)
    assert (classes == np.searchsorted((0, 128, 255), mask)).mean() > 0.98


# 255 as "ignore"


def blocks(*values: int) -> Array:
    return np.kron(np.array([values]), np.ones((9, 9), int)).astype(np.uint8)


def test_255_beside_class_numbers_is_ignored(tmp_path: Path) -> None:
    labels = learn(save(tmp_path / "m.png", blocks(0, 1, 2, 255)))
    assert labels.values == (0, 1, 2)
    assert labels.ignored == (255,)
    assert labels.classes(blocks(0, 1, 2, 255))[0, ::9].tolist() == [0, 1, 2, IGNORE]
    assert "255 is ignored" in labels.note
    two = learn(save(tmp_path / "m.png", blocks(0, 1, 2, 255)), ignore="2,255")
    assert two.note.endswith("; 2, 255 are ignored")
    assert labels.written(np.array([[0, 2, IGNORE]])).tolist() == [[0, 2, 255]]
    valid = labels.valid(labels.classes(blocks(0, 255)))
    assert valid is not None
    assert valid[0, ::9].tolist() == [True, False]


@pytest.mark.parametrize("values", [(0, 255), (1, 255), (0, 128, 255), (5, 6, 255)])
def test_255_is_a_class_otherwise(tmp_path: Path, values: tuple[int, ...]) -> None:
    labels = learn(save(tmp_path / "m.png", blocks(*values)))
    assert sorted(labels.values) == sorted(values)
    assert labels.ignored == ()


def test_0_1_masks_among_0_255_masks_are_another_coding(tmp_path: Path) -> None:
    made = pairs(tmp_path, blocks(0, 255), blocks(255, 0), blocks(0, 1), blocks(0, 255))
    dataset, problems = load(made, workers=0)
    assert dataset.labels.values == (0, 255)
    assert [p.kind for p in problems] == ["other-coding"]
    assert problems[0].path.endswith("m2.png")


def test_16_bit_masks_among_8_bit_masks_are_another_coding(tmp_path: Path) -> None:
    made = pairs(tmp_path, blocks(0, 255), 257 * blocks(0, 255).astype(np.uint16), blocks(0, 255))
    dataset, problems = load(made, workers=0)
    assert dataset.labels.values == (0, 255)
    assert [(p.kind, p.path[-6:]) for p in problems] == [("other-coding", "m1.png")]


@pytest.mark.parametrize("others", [(0, 15), (0, 7, 12, 15), (0, 1)])
@pytest.mark.parametrize("kind", ["grey", "palette"])
def test_void_of_pascal_voc_is_ignored_though_classes_are_missing(
    others: tuple[int, ...], kind: str
) -> None:
    seen = gather([look_at(RawMask(blocks(*others, 255), kind))])
    labels = decide(seen, kind=kind)
    assert labels.ignored == (255,)
    assert labels.values == others


def test_ignore_can_be_asked_for(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", blocks(0, 128, 255))
    labels = learn(path, ignore="128")
    assert labels.values == (0, 255)
    assert labels.channels == 1
    assert labels.classes(blocks(0, 128, 255))[0, ::9].tolist() == [0, IGNORE, 1]
    with pytest.raises(ConfigError, match="no mask has this value"):
        learn(path, ignore="7")


@pytest.mark.parametrize("value", [128, 255])
def test_more_may_be_ignored_than_is_foreground(tmp_path: Path, value: int) -> None:
    mask = two(0, 200, disc(8))
    mask[40:] = value
    labels = learn(save(tmp_path / "m.png", mask), ignore=str(value))
    assert labels.values == (0, 200)
    assert labels.ignored == (value,)


# Compressed colours

RED_GREEN = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)


def discs(seed: int, size: int, radius: float) -> Array:
    """Class map of discs of classes 1 and 2."""
    rng, classes = np.random.default_rng(seed), np.zeros((size, size), np.uint8)
    for index in range(12):
        cy, cx = rng.uniform(radius, size - radius, 2)
        classes[disc(radius, cy, cx, size)] = 1 + index % 2
    return classes


@pytest.mark.parametrize(("size", "radius"), [(128, 10), (128, 16), (256, 20), (384, 24)])
def test_colours_as_jpeg_are_the_classes_that_were_drawn(
    tmp_path: Path, size: int, radius: float
) -> None:
    truths = [discs(seed, size, radius) for seed in range(6)]
    paths = [tmp_path / f"{index}.jpg" for index in range(6)]
    for path, truth in zip(paths, truths, strict=True):
        Image.fromarray(RED_GREEN[truth]).save(path)
    labels = learn(*paths)
    assert len(labels.values) == 3
    drawn = [labels.classes(read_raw_mask(path).values) for path in paths]
    order = {0: 0, labels.values.index(max(labels.values)): 1}  # red is the larger number
    again = np.vectorize(lambda index: order.get(index, 2))(np.stack(drawn))
    assert (again == np.stack(truths)).mean() > 0.97


BLACK_AND_WHITE, GREYS = (0, 255), (0, 128, 255)


@pytest.mark.parametrize("grey", [BLACK_AND_WHITE, GREYS])
@pytest.mark.parametrize("quality", [50, 75, 95, 100])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_greys_that_were_compressed_are_those_that_were_drawn(
    format: str, quality: int, grey: tuple[int, ...], tmp_path: Path
) -> None:
    """However well they are kept: with few values noise looks like a class, and WebP adds hues."""
    truths = [discs(seed, 128, 12).clip(max=len(grey) - 1) for seed in range(4)]
    paths = [tmp_path / f"{index}.img" for index in range(4)]
    for path, truth in zip(paths, truths, strict=True):
        Image.fromarray(np.array(grey, np.uint8)[truth]).save(path, format, quality=quality)
    labels = learn(*paths)
    assert labels.kind == "grey"
    assert np.abs(np.subtract(labels.values, grey)).max() <= 1
    drawn = np.stack([labels.classes(read_raw_mask(path).values) for path in paths])
    assert (drawn == np.stack(truths)).mean() > 0.99


def test_greys_in_a_tiff_of_jpeg_are_those_that_were_drawn(tmp_path: Path) -> None:
    path, truth = tmp_path / "m.tif", discs(0, 128, 12) > 0
    options: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": 100}}
    tifffile.imwrite(path, two(0, 255, truth), **options)
    labels = learn(path)
    assert labels.values == (0, 255)
    assert np.array_equal(labels.classes(read_raw_mask(path).values), truth)


@pytest.mark.parametrize("quality", [90, 100])
@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("step", [1, 10])
def test_class_numbers_that_were_compressed_are_refused(
    step: int, format: str, quality: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.img"
    Image.fromarray(step * discs(0, 128, 12)).save(path, format, quality=quality)
    with pytest.raises(InputError, match="saved as JPEG or WebP again, as PNG"):
        learn(path)
    classes = learn(path, foreground=f"{step},{2 * step}").classes(read_raw_mask(path).values)
    assert (classes == (discs(0, 128, 12) > 0)).mean() > 0.9


def test_colours_of_a_lossless_webp_are_what_they_were(tmp_path: Path) -> None:
    """A level apart, as compression would make of one."""
    path, numbers = tmp_path / "m.webp", discs(0, 64, 8)
    Image.fromarray(np.dstack([0 * numbers, 0 * numbers, numbers])).save(path, lossless=True)
    mask = read_raw_mask(path)
    assert (mask.kind, mask.lossy) == ("colour", False)
    assert learn(path).values == (0, 1, 2)


def test_a_photograph_with_few_colours_is_no_mask(tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.jpg" for index in range(4)]
    for index, path in enumerate(paths):
        rng = np.random.default_rng(index)
        small = Image.fromarray(rng.integers(118, 162, (12, 12, 3)).astype(np.uint8))
        small.resize((256, 256), Image.Resampling.NEAREST).save(path)
    with pytest.raises(InputError, match="do not look like labels") as caught:
        learn(*paths)
    assert "export them again, as PNG" in caught.value.message
    assert "--foreground '#ff0000'" in caught.value.message  # 255 would be a blue
    assert "255" not in caught.value.message


# Palettes that a program chose


def test_black_is_background_under_any_index(tmp_path: Path) -> None:
    truth = disc()
    path = tmp_path / "m.gif"
    Image.fromarray(RED_GREEN[truth.astype(int)]).save(path)
    save_palette(tmp_path / "m.png", two(1, 0), (255, 0, 0, 0, 0, 0))
    labels = learn(tmp_path / "m.png")
    assert labels.values == (1, 0)
    for file in (tmp_path / "m.png", path):
        assert np.array_equal(learn(file).classes(read_raw_mask(file).values), truth)


def test_rare_black_of_an_inverted_table_is_no_background(tmp_path: Path) -> None:
    palette = tuple(255 - level for level in range(256) for _ in range(3))
    path = save_palette(tmp_path / "m.png", two(0, 255), palette)
    assert learn(path).values == (0, 255)


# Numbered objects


def numbered(seed: int, count: int) -> Array:
    """Squares with the numbers 1 to `count`, in random order."""
    mask = np.zeros((40, 40), np.uint16)
    places = np.random.default_rng(seed).permutation(100)[:count]
    for number, place in enumerate(places, 1):
        y, x = divmod(int(place), 10)
        mask[4 * y : 4 * y + 3, 4 * x : 4 * x + 3] = number
    return mask


def test_numbered_objects_are_one_foreground(tmp_path: Path) -> None:
    masks = [numbered(seed, 8 + 3 * seed) for seed in range(6)]
    labels = learn(*(save(tmp_path / f"{i}.png", mask) for i, mask in enumerate(masks)))
    assert labels.names == ("background", "foreground")
    assert "instance ids" in labels.note
    for mask in masks:
        assert np.array_equal(labels.classes(mask), mask > 0)
    assert labels.classes(np.array([[0, 999]])).tolist() == [[0, 1]]  # ids not seen before
    assert labels.written(np.array([[0, 1]])).tolist() == [[0, 255]]


def test_more_objects_than_are_remembered_are_all_counted(tmp_path: Path) -> None:
    mask = np.zeros((150, 150), np.uint16)
    ids = np.arange(1, 901).reshape(30, 30)
    for y, x in np.ndindex(3, 3):
        mask[y::5, x::5] = ids
    fewer = np.where(mask > 300, 0, mask)
    labels = learn(*(save(tmp_path / f"{i}.png", m) for i, m in enumerate([mask, fewer, mask])))
    assert "instance ids up to 900" in labels.note
    share = 9 * (2 * 900 + 300) / (3 * 150 * 150)
    assert [row.share for row in labels.table] == pytest.approx([1 - share, share])


def test_few_objects_with_numbers_are_objects(tmp_path: Path) -> None:
    masks = [numbered(seed, 1 + seed % 6) for seed in range(12)]
    labels = learn(*(save(tmp_path / f"{i}.png", mask) for i, mask in enumerate(masks)))
    assert labels.others == "foreground"


def test_fewer_objects_with_numbers_may_be_classes(tmp_path: Path) -> None:
    masks = [numbered(seed, 1 + seed % 4) for seed in range(12)]
    labels = learn(*(save(tmp_path / f"{i}.png", mask) for i, mask in enumerate(masks)))
    assert len(labels.names) == 5
    assert "numbers of objects and no classes, --foreground nonzero" in labels.note


def test_many_classes_in_every_mask_are_no_objects(tmp_path: Path) -> None:
    masks = [numbered(seed, 9) for seed in range(6)]
    labels = learn(*(save(tmp_path / f"{i}.png", mask) for i, mask in enumerate(masks)))
    assert len(labels.names) == 10


@pytest.mark.parametrize(
    "options",
    [{"classes": "background=0,cell=1|2"}, {"foreground": "1,2"}],
    ids=["classes", "front"],
)
def test_the_share_told_is_that_of_the_class(options: dict[str, str]) -> None:
    labels = decide(counted({0: 700, 1: 100, 2: 200}), **options)  # type: ignore[arg-type]
    assert "(30% of the pixels)" in labels.note


@pytest.mark.parametrize("options", [{"classes": "background=0,cell=255"}, {"foreground": "255"}])
def test_the_share_told_has_soft_edges_in_it(tmp_path: Path, options: dict[str, str]) -> None:
    Image.fromarray(two(0, 255)).save(tmp_path / "m.jpg", quality=60)
    told = f"({100 * disc().mean():.3g}% of the pixels)"
    assert told in learn(tmp_path / "m.jpg").note
    assert told in learn(tmp_path / "m.jpg", **options).note


def test_nonzero_takes_all_numbers(tmp_path: Path) -> None:
    labels = decide(counted({0: 5000} | dict.fromkeys(range(1, 30), 40)), foreground="nonzero")
    values = np.arange(60)[None]
    assert np.array_equal(labels.classes(values), values != 0)


def test_thin_objects_with_numbers_are_objects() -> None:
    masks = []
    for seed in range(8):
        mask = np.zeros((64, 64), np.uint8)
        for number in range(1, 8 + 2 * seed):
            mask[2 * number, 5 : 20 + seed] = number  # one pixel wide
        masks.append(mask)
    labels = decide(gather([look_at(RawMask(mask)) for mask in masks]))
    assert labels.names == ("background", "foreground")
    assert "instance ids" in labels.note


def test_layers_that_are_missing_in_some_masks_are_classes() -> None:
    masks = []
    for seed in range(12):
        mask = np.zeros((64, 64), np.uint8)
        for layer in range(1, 8 + seed % 2):  # fluid, the eighth, in half of them
            mask[6 * layer : 6 * layer + 6] = layer
        masks.append(mask)
    labels = decide(gather([look_at(RawMask(mask)) for mask in masks]))
    assert len(labels.names) == 9


# Many classes, thin classes


def test_dense_class_numbers_of_a_street_scene_all_count() -> None:
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(34, 0.3), 20)
    masks = [
        np.kron(rng.choice(34, (16, 16), p=share), np.ones((8, 8), int)).astype(np.uint8)
        for share in shares
    ]
    for mask in masks:
        mask[:4] = 255
    labels = decide(gather([look_at(RawMask(mask)) for mask in masks]))
    assert set(labels.values) == set(np.unique(masks)) - {255}
    assert labels.ignored == (255,)


def test_a_border_one_pixel_wide_is_a_class(tmp_path: Path) -> None:
    mask = disc(25).astype(np.uint8) * 2
    inner = disc(24)
    mask[(mask > 0) & ~inner] = 1
    labels = learn(save(tmp_path / "m.png", mask))
    assert labels.values == (0, 1, 2)


@pytest.mark.parametrize("width", [1, 2])
def test_thin_lines_and_dots_of_another_grey_are_a_class(tmp_path: Path, width: int) -> None:
    mask = two(0, 255)
    mask[50 : 50 + width, 2:20] = 128
    labels = learn(save(tmp_path / "m.png", mask))
    assert labels.values == (0, 128, 255)


def test_a_thin_line_of_another_colour_is_a_class(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[disc()] = (255, 0, 0)
    picture[60, 5:40] = (0, 0, 255)
    assert len(learn(save(tmp_path / "m.png", picture)).values) == 3


def test_one_class_in_each_mask_stays_two_classes(tmp_path: Path) -> None:
    made = pairs(tmp_path, *[two(0, 1)] * 9, two(0, 2))
    dataset, problems = load(made, workers=0)
    assert not problems
    assert dataset.labels.values == (0, 1, 2)


def test_the_pet_of_a_trimap_is_no_background(tmp_path: Path) -> None:
    mask = np.full((SIZE, SIZE), 2, np.uint8)
    mask[disc(20)] = 3
    mask[disc(16)] = 1
    labels = learn(save(tmp_path / "m.png", mask))
    assert labels.values == (2, 1, 3)


def test_masks_that_are_coded_as_the_learnt_ones_are_known() -> None:
    soft = Labels(lookup=((0, 0), (255, 1)))  # greys between were seen
    for values, same in (
        ((0, 255), True),
        ((0,), True),
        ((0, 100, 255), True),
        ((100, 255), True),
        ((0, 100), False),  # no value of a foreground class
        ((0, 1), False),
        ((0, 255, 256), False),
    ):
        assert soft.reads(dict.fromkeys(values, 9)) == same, values
    numbered = Labels(lookup=((0, 0), (1, 1)), others="foreground")
    assert numbered.reads({0: 5, 70: 5})
    assert not numbered.reads({30: 5, 70: 5})
    hard = soft.model_copy(update={"kind": "palette"})
    assert hard.reads({0: 5, 255: 5})
    assert not hard.reads({0: 5, 100: 5, 255: 5})


def test_layers_of_many_classes_are_apart_and_none_is_of_ignored_pixels() -> None:
    """Class 3 is not classes 1 and 2, and 255 is not every class."""
    numbers = "none=0,a=1,b=2,c=3,d=4,e=5,f=6,g=7"
    labels = decide(counted(dict.fromkeys([*range(8), 9], 5)), classes=numbers, ignore="9")
    classes = labels.classes(np.array([[0, 1, 2, 3, 4, 5, 6, 7, 9]], np.uint8))
    assert classes.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, IGNORE]]
    for index, layer in enumerate(labels.layers(classes)):
        assert np.flatnonzero(layer).tolist() == [index + 1]
    valid = labels.valid(classes)
    assert valid is not None
    assert np.flatnonzero(~valid).tolist() == [8]
    assert labels.written(classes).tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 9]]


# Overlapping classes


def test_overlapping_classes(tmp_path: Path) -> None:
    first, second = disc(20), disc(12, 40, 40)
    parts = {
        "cell": decide(counted({0: 5, 255: 5})),
        "nucleus": decide(counted({0: 5, 1: 5})),
    }
    labels = overlap(parts)
    assert labels.multilabel
    assert labels.scored == ("cell", "nucleus")
    assert labels.channels == 2
    combined = labels.combined([first.astype(np.uint8), second.astype(np.uint8)])
    for layer, truth in zip(labels.layers(combined), (first, second), strict=True):
        assert np.array_equal(layer, truth)
    out = tmp_path / "p.png"
    write_prediction(out, combined, labels)
    paths = prediction_paths(out, labels)
    assert [path.parent.name for path in paths] == ["cell", "nucleus"]
    assert np.array_equal(read_raw_mask(paths[0]).values, first * 255)
    assert np.array_equal(read_raw_mask(paths[1]).values, second * 1)
    chances = np.stack([first, second]).astype(np.float32)
    assert np.array_equal(classify(chances, labels, 0.5), combined)


def test_too_many_layers_and_layers_of_three_values_are_refused() -> None:
    two_values, three = decide(counted({0: 5, 1: 5})), decide(counted({0: 5, 1: 5, 2: 5}))
    with pytest.raises(InputError, match="at most 8"):
        overlap({str(k): two_values for k in range(9)})
    with pytest.raises(InputError, match="each mask must hold two values"):
        overlap({"a": two_values, "b": three})


# What the user says


def test_dark_and_named_foreground() -> None:
    counts = counted({0: 30, 255: 70})
    assert decide(counts, foreground="dark").values == (255, 0)
    assert decide(counts, foreground="0").values == (255, 0)
    assert decide(counts, foreground=" 255 ").values == (0, 255)
    several = decide(counted({0: 50, 1: 5, 2: 20, 3: 25}), foreground="1, 2")
    assert several.values == (0, 2)  # the commoner of each side is what is written
    assert several.classes(np.array([[0, 1, 2, 3]])).tolist() == [[0, 1, 1, 0]]
    assert "as asked" in several.note


@pytest.mark.parametrize("words", ["white", "1.5", "", "#gg0000", "1;2"])
def test_foreground_words_that_mean_nothing(words: str) -> None:
    with pytest.raises(ConfigError, match=r"must be bright, dark, nonzero or values") as caught:
        decide(counted({0: 1, 255: 1}), foreground=words)
    assert repr(words) in str(caught.value)


@pytest.mark.parametrize("words", ["7", "0,255"])
def test_foreground_that_leaves_one_class(words: str) -> None:
    with pytest.raises(ConfigError, match=r"would leave one class only") as caught:
        decide(counted({0: 25, 255: 75}), foreground=words)
    assert "255 (75%)" in str(caught.value)


def test_nonzero_without_zeros_leaves_one_class() -> None:
    with pytest.raises(ConfigError, match="would leave one class only"):
        decide(counted({1: 25, 2: 75}), foreground="nonzero")


def test_more_foreground_than_background_says_how_to_swap() -> None:
    assert "--foreground dark" in decide(counted({0: 10, 255: 90})).note
    assert "--foreground" not in decide(counted({0: 60, 255: 40})).note
    assert "--foreground bright" in decide(counted({0: 90, 255: 10}), foreground="dark").note


def test_named_classes(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", blocks(0, 128, 255, 1))
    names = "background=0,nucleus=255,cytoplasm=128"
    with pytest.raises(InputError, match=r"value 1 .* is no declared class"):
        learn(path, classes=names)
    labels = learn(path, classes=names, ignore="1")
    assert labels.names == ("background", "nucleus", "cytoplasm")
    assert labels.values == (0, 255, 128)
    assert labels.classes(blocks(0, 128, 255, 1))[0, ::9].tolist() == [0, 2, 1, IGNORE]
    spaced = learn(path, classes="background = 0|1, cell = 128|255")
    assert spaced.names == ("background", "cell")
    joined = learn(path, classes="background=0|1,cell=128|255")
    assert joined.classes(blocks(0, 1, 128, 255))[0, ::9].tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("nucleus", "must look like"),
        ("background=0,nucleus=x", "such as 255"),
        ("background=0,nucleus=0", "two meanings"),
        ("background=0,nucleus=7", "no mask has any of these values"),
        ("background=0", "from 2 to"),
        ("a=0,a=255", "from 2 to"),
        ("background=0,../x=255", "must look like"),
    ],
)
def test_class_names_that_cannot_work(tmp_path: Path, words: str, message: str) -> None:
    path = save(tmp_path / "m.png", blocks(0, 255))
    with pytest.raises(ConfigError, match=message):
        learn(path, classes=words)


# Masks to evaluate on


def pairs(folder: Path, *masks: Array) -> list[Pair]:
    made = []
    for index, mask in enumerate(masks):
        image = save(folder / f"i{index}.png", np.zeros(mask.shape[:2], np.uint8))
        made.append(Pair(f"p{index}", (image,), (save(folder / f"m{index}.png", mask),)))
    return made


TRAINED = Labels()


@pytest.mark.parametrize(
    ("trained", "low", "high"),
    [
        (TRAINED, 0, 255),
        (TRAINED, 0, 1),
        (TRAINED, 7, 200),
        (TRAINED, 0, 128),
        (TRAINED, 3, 4),
        (decide(counted({0: 5, 1: 5})), 0, 255),
        (decide(counted({7: 5, 200: 5})), 0, 1),
        (decide(counted({0: 5, 2: 5}), kind="palette"), 0, 255),
        (decide(counted({0: 5, 9: 5}), foreground="9"), 0, 1),
    ],
)
def test_evaluation_masks_may_be_coded_otherwise(
    tmp_path: Path, trained: Labels, low: int, high: int
) -> None:
    dataset, problems = load(
        pairs(tmp_path, two(low, high), two(low, high, disc(5))), workers=0, labels=trained
    )
    assert not problems
    assert np.array_equal(dataset.read(0)[1], disc())
    assert np.array_equal(dataset.read(1)[1], disc(5))


def test_dark_foreground_stays_dark_in_another_coding(tmp_path: Path) -> None:
    trained = decide(counted({0: 5, 255: 5}), foreground="dark")
    dataset, _ = load(pairs(tmp_path, two(0, 1)), workers=0, labels=trained)
    assert np.array_equal(dataset.read(0)[1], ~disc())


def test_masks_of_one_value_are_read_as_the_model_learnt_them(tmp_path: Path) -> None:
    made = pairs(tmp_path, np.zeros((8, 8), np.uint8))
    dataset, _ = load(made, workers=0, labels=TRAINED)
    assert not dataset.read(0)[1].any()


def test_numbered_objects_are_read_as_trained(tmp_path: Path) -> None:
    trained = decide(counted({0: 50, 1: 5, 2: 6, 3: 4}), foreground="nonzero")
    mask = two(0, 1)
    mask[30:40] *= 9
    mask[40:] *= 4
    dataset, _ = load(pairs(tmp_path, mask), workers=0, labels=trained)
    assert np.array_equal(dataset.read(0)[1], disc())


def test_evaluation_masks_of_other_classes_are_refused(tmp_path: Path) -> None:
    mask = two(0, 2)
    mask[:9] = 1
    with pytest.raises(InputError, match=r"hold 3 classes .* the model has 2"):
        load(pairs(tmp_path, mask), workers=0, labels=decide(counted({0: 5, 1: 5})))


def test_other_values_are_not_paired_with_classes_by_their_order(tmp_path: Path) -> None:
    trained = decide(counted({0: 9, 1: 5, 2: 5, 5: 5}))
    mask = blocks(0, 1, 2, 3)
    with pytest.raises(InputError, match="which class, in the model's names and order: --classes"):
        load(pairs(tmp_path, mask), workers=0, labels=trained)
    other = blocks(0, 85, 170, 255)  # another coding altogether is paired in order
    dataset, _ = load(pairs(tmp_path / "o", other), workers=0, labels=trained)
    assert dataset.read(0)[1][0, ::9].tolist() == [0, 1, 2, 3]


def test_what_is_asked_for_wins_over_what_the_model_learnt(tmp_path: Path) -> None:
    trained = decide(counted({0: 5, 255: 5}), foreground="dark")
    made = pairs(tmp_path, two(0, 255))
    asked, _ = load(made, workers=0, labels=trained, reading=Reading(foreground="bright"))
    assert np.array_equal(asked.read(0)[1], disc())


def test_a_number_that_is_no_class_is_named_among_many(tmp_path: Path) -> None:
    good = blocks(*range(12))
    odd = blocks(*range(11), 27)
    names = ",".join(f"c{v}={v}" for v in range(12))
    made = pairs(tmp_path, good, good, odd, good)
    dataset, problems = load(made, workers=0, reading=Reading(classes=names))
    assert [p.kind for p in problems] == ["undeclared-value"]
    assert "27" in problems[0].what
    assert len(dataset) == 3


# Probabilities to classes


def test_classify_two_and_more_classes() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((1, 4, 5)).astype(np.float32)
    one[0, 0, 0] = 0.25
    assert np.array_equal(
        classify(one, Labels(), 0.25), one[0] >= 0.25
    )  # the threshold itself counts
    three = rng.random((3, 4, 5)).astype(np.float32)
    labels = decide(counted({0: 5, 1: 5, 2: 5}))
    for y in range(4):
        for x in range(5):
            assert classify(three, labels, 0.5)[y, x] == max(range(3), key=lambda k: three[k, y, x])
