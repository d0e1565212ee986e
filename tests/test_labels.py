"""What the numbers in masks mean: every coding that people use, and the ones to refuse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from making import Array, save, save_palette
from PIL import Image

from contorno.data.dataset import load
from contorno.data.labels import (
    Labels,
    add_counts,
    classify,
    count_values,
    decide,
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


def learn(*paths: Path, foreground: str = "bright") -> Labels:
    """The decision on mask files."""
    counts: dict[int, int] = {}
    masks = [read_raw_mask(path) for path in paths]
    for mask in masks:
        add_counts(counts, count_values(mask))
    return decide(counts, foreground=foreground, kind=masks[0].kind, palette=masks[0].palette)


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
    labels = decide(count_values(mask), foreground="bright" if bright else "dark")
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
    labels = decide(count_values(mask), kind="colour")
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
    assert "anti-aliased" in labels.note
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


@pytest.mark.parametrize("stray", [{}, {1: 3, 127: 2, 130: 4, 254: 3}])
def test_three_drawn_classes_are_named_with_their_shares(
    tmp_path: Path, stray: dict[int, int]
) -> None:
    mask = two(0, 255)
    mask[:20, :20] = 128
    flat = mask.reshape(-1)
    for value, count in stray.items():
        flat[1000 + 10 * value : 1000 + 10 * value + count] = value
    path = save(tmp_path / "m.png", mask)
    with pytest.raises(InputError, match=r"not of two classes") as caught:
        learn(path)
    words = str(caught.value)
    for value in (0, 128, 255):
        assert f"{value} ({100 * (mask == value).mean():.3g}%)" in words
    assert "--foreground 255" in words
    assert "--foreground nonzero" in words
    assert ("more value" in words) == (len(np.unique(mask)) > 6)
    chosen = learn(path, foreground="128,255")
    assert np.array_equal(chosen.classes(mask), np.isin(mask, (128, 255)))


@pytest.mark.parametrize(
    "values",
    [
        (0, 1, 2),
        (1, 2, 3),
        (0, 1, 2, 3),
        (0, 50, 100),
        (0, 1, 255),
        (0, 2, 4, 6, 8),
        (0, 85, 170, 255),
    ],
)
@pytest.mark.parametrize("share", [0.05, 0.3])
def test_classes_coded_as_numbers_are_never_taken_for_soft_edges(
    tmp_path: Path, values: tuple[int, ...], share: float
) -> None:
    mask = np.full((SIZE, SIZE), values[0], np.uint8)
    rows = max(1, int(SIZE * share / (len(values) - 1)))
    for place, value in enumerate(values[1:]):
        mask[10 + place * rows : 10 + (place + 1) * rows] = value
    path = save(tmp_path / "m.png", mask)
    with pytest.raises(InputError, match="not of two classes"):
        learn(path)


@settings(max_examples=80, deadline=None)
@given(sizes=st.lists(st.integers(20, 400), min_size=2, max_size=30))
@example(sizes=[100, 100, 200])
@example(sizes=[20, 20, 20, 400])
@example(sizes=[50] * 200)
def test_numbered_objects_are_refused_and_nonzero_takes_them(sizes: list[int]) -> None:
    counts = {0: 5000} | dict(enumerate(sizes, start=1))
    with pytest.raises(InputError, match=r"--foreground nonzero"):
        decide(counts)
    labels = decide(counts, foreground="nonzero")
    values = np.arange(len(sizes) + 20)[None]
    assert np.array_equal(labels.classes(values), values != 0)  # also ids not seen before
    assert labels.values[0] == 0
    assert labels.values[1] == 1 + int(np.argmax(sizes))


def test_several_colours_are_refused(tmp_path: Path) -> None:
    picture = np.zeros((SIZE, SIZE, 3), np.uint8)
    picture[disc()] = (255, 0, 0)
    picture[:8] = (0, 0, 255)
    path = save(tmp_path / "m.png", picture)
    with pytest.raises(InputError, match="#0000ff"):
        learn(path)
    assert np.array_equal(
        learn(path, foreground="#ff0000").classes(read_raw_mask(path).values),
        (picture == (255, 0, 0)).all(-1),
    )


def test_greys_without_two_heaps_are_no_mask(tmp_path: Path) -> None:
    path = save(
        tmp_path / "photo.png", np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    )
    with pytest.raises(InputError, match="not of two classes"):
        learn(path)


# What the user says


def test_dark_and_named_foreground() -> None:
    counts = {0: 30, 255: 70}
    assert decide(counts, foreground="dark").values == (255, 0)
    assert decide(counts, foreground="0").values == (255, 0)
    assert decide(counts, foreground=" 255 ").values == (0, 255)
    several = decide({0: 50, 1: 5, 2: 20, 3: 25}, foreground="1, 2")
    assert several.values == (0, 2)  # the commoner of each side is what is written
    assert several.classes(np.array([[0, 1, 2, 3]])).tolist() == [[0, 1, 1, 0]]
    assert "as asked" in several.note


@pytest.mark.parametrize("words", ["white", "1.5", "", "#gg0000", "1;2"])
def test_foreground_words_that_mean_nothing(words: str) -> None:
    with pytest.raises(ConfigError, match=r"must be bright, dark, nonzero or values") as caught:
        decide({0: 1, 255: 1}, foreground=words)
    assert repr(words) in str(caught.value)


@pytest.mark.parametrize("words", ["7", "0,255"])
def test_foreground_that_leaves_one_class(words: str) -> None:
    with pytest.raises(ConfigError, match=r"would leave one class only") as caught:
        decide({0: 25, 255: 75}, foreground=words)
    assert "255 (75%)" in str(caught.value)


def test_nonzero_without_zeros_leaves_one_class() -> None:
    with pytest.raises(ConfigError, match="would leave one class only"):
        decide({1: 25, 2: 75}, foreground="nonzero")


def test_more_foreground_than_background_says_how_to_swap() -> None:
    assert "--foreground dark" in decide({0: 10, 255: 90}).note
    assert "--foreground" not in decide({0: 60, 255: 40}).note
    assert "--foreground bright" in decide({0: 90, 255: 10}, foreground="dark").note


# Masks to evaluate on


def pairs(folder: Path, *masks: Array) -> list[Pair]:
    made = []
    for index, mask in enumerate(masks):
        image = save(folder / f"i{index}.png", np.zeros(mask.shape[:2], np.uint8))
        made.append(Pair(f"p{index}", image, save(folder / f"m{index}.png", mask)))
    return made


TRAINED = Labels(values=(0, 255), threshold=127.5)


@pytest.mark.parametrize(
    ("trained", "low", "high"),
    [
        (TRAINED, 0, 255),
        (TRAINED, 0, 1),
        (TRAINED, 7, 200),
        (TRAINED, 0, 128),
        (TRAINED, 3, 4),
        (decide({0: 5, 1: 5}), 0, 255),
        (decide({7: 5, 200: 5}), 0, 1),
        (decide({0: 5, 2: 5}, kind="palette"), 0, 255),
        (decide({0: 5, 9: 5}, foreground="9"), 0, 1),
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
    trained = decide({0: 5, 255: 5}, foreground="dark")
    dataset, _ = load(pairs(tmp_path, two(0, 1)), workers=0, labels=trained)
    assert np.array_equal(dataset.read(0)[1], ~disc())


def test_masks_of_one_value_are_read_as_the_model_learnt_them(tmp_path: Path) -> None:
    made = pairs(tmp_path, np.zeros((8, 8), np.uint8))
    dataset, _ = load(made, workers=0, labels=TRAINED)
    assert not dataset.read(0)[1].any()


def test_numbered_objects_are_read_as_trained(tmp_path: Path) -> None:
    trained = decide({0: 50, 1: 5, 2: 6, 3: 4}, foreground="nonzero")
    mask = two(0, 1)
    mask[30:40] *= 9
    mask[40:] *= 4
    dataset, _ = load(pairs(tmp_path, mask), workers=0, labels=trained)
    assert np.array_equal(dataset.read(0)[1], disc())


def test_evaluation_masks_of_three_classes_are_refused(tmp_path: Path) -> None:
    mask = two(0, 2)
    mask[:9] = 1
    with pytest.raises(InputError, match="not of two classes"):
        load(pairs(tmp_path, mask), workers=0, labels=decide({0: 5, 1: 5}))


# Probabilities to classes


def test_classify_two_and_more_classes() -> None:
    rng = np.random.default_rng(0)
    one = rng.random((1, 4, 5)).astype(np.float32)
    one[0, 0, 0] = 0.25
    assert np.array_equal(classify(one, 0.25), one[0] >= 0.25)  # the threshold itself counts
    three = rng.random((3, 4, 5)).astype(np.float32)
    for y in range(4):
        for x in range(5):
            assert classify(three, 0.5)[y, x] == max(range(3), key=lambda k: three[k, y, x])
