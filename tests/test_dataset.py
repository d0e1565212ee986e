"""Decoding pairs: every problem at once, nothing changed, nothing depends on the cache."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pytest
from making import Array, digests, pictures, read_all, save, save_palette
from PIL import Image

from contorno.data.agreement import Reading
from contorno.data.dataset import Dataset, load
from contorno.data.demo import draw
from contorno.data.facts import LEVELS
from contorno.data.pairs import Pair, find_pairs
from contorno.errors import InputError, Problem
from contorno.images import ImageError

RNG = np.random.default_rng(0)


def picture(height: int = 24, width: int = 32, channels: int = 3, kind: type = np.uint8) -> Array:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return (RNG.random(shape) * 250).astype(kind)


def mask(height: int = 24, width: int = 32) -> Array:
    values = np.zeros((height, width), np.uint8)
    values[4:14, 6:20] = 255
    return values


def write(
    root: Path,
    name: str,
    image: Array | bytes,
    truth: Array | bytes | None = None,
    extension: str = ".png",
) -> None:
    for folder, content, suffix in (
        ("images", image, extension),
        ("masks", mask() if truth is None else truth, ".png"),
    ):
        path = root / folder / (name + suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            save(path, content)


def load_folder(root: Path, **options: object) -> tuple[Dataset, dict[str, Problem]]:
    found = find_pairs(root / "images", root / "masks")
    dataset, problems = load(found.pairs, **({"workers": 2} | options))  # type: ignore[arg-type]
    return dataset, {Path(problem.path).name: problem for problem in problems}


def test_all_problems_are_listed_and_good_pairs_go_on(tmp_path: Path) -> None:
    for name in ("good1", "good2", "good3"):
        write(tmp_path, name, picture())
    whole = (tmp_path / "images" / "good1.png").read_bytes()
    write(tmp_path, "size", picture(), mask(32, 24))
    write(tmp_path, "zero", b"")
    write(tmp_path, "html", b"<!DOCTYPE html><html>no</html>")
    write(tmp_path, "lfs", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    write(tmp_path, "cut", whole[: len(whole) // 2])
    write(tmp_path, "deep", picture(channels=1, kind=np.uint16))
    write(tmp_path, "bands", picture(channels=5), extension=".tif")
    write(tmp_path, "maskless", picture(), b"not a mask")
    fractions = tmp_path / "masks" / "fraction.tif"
    save(tmp_path / "images" / "fraction.png", picture())
    save(fractions, np.full((24, 32), 2.5, np.float32))
    os.mkfifo(tmp_path / "images" / "fifo.png")  # must not block
    save(tmp_path / "masks" / "fifo.png", mask())
    (tmp_path / "images" / "folder.png").mkdir()
    save(tmp_path / "masks" / "folder.png", mask())
    (tmp_path / "images" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    save(tmp_path / "masks" / "dangling.png", mask())
    before = digests(tmp_path / "masks")

    dataset, problems = load_folder(tmp_path)

    assert dataset.names == ["good1", "good2", "good3"]
    words = {name: f"{problem.what} | {problem.expected}" for name, problem in problems.items()}
    assert words.pop("size.png") == (
        "a mask of 24 x 32 pixels | 32 x 24 pixels, the size of size.png"
    )
    assert words.pop("deep.png") == "an image of type uint16 | uint8, as most of the others"
    assert words.pop("bands.tif") == "an image of 5 channel(s) | 3, as most of the others"
    expected = {
        "zero.png": "0 bytes",
        "html.png": "web page",
        "lfs.png": "git-lfs",
        "cut.png": "truncated",
        "maskless.png": "not an image",
        "fraction.tif": "fractional",
        "fifo.png": "regular file",
        "folder.png": "regular file",
        "dangling.png": "cannot be opened",
    }
    assert set(words) == set(expected)
    for name, part in expected.items():
        assert part in words[name], name
    assert all(problem.fix and Path(problem.path).is_absolute() for problem in problems.values())
    assert "git lfs pull" in problems["lfs.png"].fix
    assert "maskless" in problems["maskless.png"].path.split("masks/")[1]  # the mask is to blame
    assert digests(tmp_path / "masks") == before


def test_values_that_are_no_numbers(tmp_path: Path) -> None:
    for name, bad in (("good", 0.0), ("nan", np.nan), ("inf", -np.inf)):
        image = picture(kind=np.float32)
        image[3, 4, 1] = bad
        write(tmp_path, name, image, extension=".tif")
    dataset, problems = load_folder(tmp_path)
    assert dataset.names == ["good"]
    assert {name: problem.what for name, problem in problems.items()} == dict.fromkeys(
        ["nan.tif", "inf.tif"], "NaN or infinite values"
    )


def test_no_good_pair_lists_every_problem(tmp_path: Path) -> None:
    write(tmp_path, "a", b"")
    write(tmp_path, "b", picture(), mask(10, 10))
    with pytest.raises(InputError, match="no usable pair") as caught:
        load_folder(tmp_path)
    assert [Path(problem.path).name for problem in caught.value.problems] == ["a.png", "b.png"]
    assert "a.png" in str(caught.value)


def test_a_model_says_which_images_fit(tmp_path: Path) -> None:
    write(tmp_path, "colour", picture())
    write(tmp_path, "colour2", picture())
    write(tmp_path, "grey", picture(channels=1))
    write(tmp_path, "deep", picture(channels=1, kind=np.uint16))
    dataset, problems = load_folder(tmp_path, channels=1, dtype="uint16")
    assert dataset.names == ["deep"]
    assert set(problems) == {"colour.png", "colour2.png", "grey.png"}
    assert all("as the model was trained on" in problem.expected for problem in problems.values())


def test_inputs_stay_as_they_are(tmp_path: Path) -> None:
    pictures(tmp_path)
    before = digests(tmp_path)
    dataset = read_all(tmp_path)
    for index in range(len(dataset)):
        image, truth = dataset.read(index)
        assert image.dtype == truth.dtype == np.uint8
    assert digests(tmp_path) == before


# The cache


@pytest.mark.parametrize("limit", [0, 64 * 64 * 4, 2 * 64 * 64 * 4 + 1, 10**9])
def test_the_cache_changes_nothing_but_memory(tmp_path: Path, limit: int) -> None:
    pictures(tmp_path)
    dataset = read_all(tmp_path, cache_limit=limit)
    assert dataset.cached_bytes <= limit
    assert dataset.cached_bytes == min(limit // (64 * 64 * 4), 6) * 64 * 64 * 4
    for index, name in enumerate(dataset.names):
        image, truth = dataset.read(index)
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "images" / f"{name}.png")))
        drawn = np.asarray(Image.open(tmp_path / "masks" / f"{name}.png"))
        assert np.array_equal(truth, drawn == 255)


def test_workers_change_nothing(tmp_path: Path) -> None:
    pictures(tmp_path, 11)
    first, second = read_all(tmp_path), load_folder(tmp_path, workers=3)[0]
    assert first.names == second.names
    assert first.digest() == second.digest()
    seen = []
    load_folder(tmp_path, advance=lambda: seen.append(1))
    assert len(seen) == 11


def test_a_file_that_vanishes_later_is_named(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    dataset = read_all(tmp_path, cache_limit=0)
    (tmp_path / "images" / "p1.png").unlink()
    dataset.read(0)
    with pytest.raises(ImageError, match=r"p1\.png"):
        dataset.read(1)


def test_subset_keeps_order_facts_and_cache(tmp_path: Path) -> None:
    pictures(tmp_path)
    whole = read_all(tmp_path, cache_limit=3 * 64 * 64 * 4)  # p0, p1, p2 are kept
    part = whole.subset(["p4", "p1", "p0"])
    assert part.names == ["p4", "p1", "p0"]
    assert part.cached_bytes == 2 * 64 * 64 * 4
    for index, name in enumerate(part.names):
        mine, theirs = part.read(index), whole.read(whole.names.index(name))
        assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert part.facts[index] == whole.facts[whole.names.index(name)]


# Figures


@pytest.mark.parametrize(
    ("channels", "kind", "extension"),
    [
        (3, np.uint8, ".png"),
        (1, np.uint8, ".png"),
        (1, np.uint16, ".png"),
        (5, np.uint16, ".tif"),
        (2, np.float32, ".tif"),
        (3, np.int16, ".tif"),
        (1, np.float64, ".tif"),
    ],
)
def test_statistics_equal_numpy(tmp_path: Path, channels: int, kind: type, extension: str) -> None:
    images = [picture(20 + 3 * i, 17, channels, kind) for i in range(4)]
    if kind is np.int16:
        images = [image - np.int16(120) for image in images]
    for index, image in enumerate(images):
        write(tmp_path, f"p{index}", image, mask(*image.shape[:2]), extension)
    dataset, problems = load_folder(tmp_path)
    assert not problems
    pixels = np.concatenate([i.reshape(-1, channels) for i in images]).astype(np.float64)
    mean, std = dataset.statistics()
    assert mean == pytest.approx(pixels.mean(0), rel=1e-6)
    assert std == pytest.approx(pixels.std(0), rel=1e-6)
    assert dataset.dtype == ("float32" if kind is np.float64 else np.dtype(kind).name)
    truths = np.concatenate([mask(*i.shape[:2]).ravel() for i in images])
    assert dataset.foreground_share() == pytest.approx((truths == 255).mean())
    for index, image in enumerate(images):
        assert np.allclose(dataset.read(index)[0], image.reshape(*image.shape[:2], channels))


def test_grey_among_colour_is_colour(tmp_path: Path) -> None:
    images = [picture(), picture(channels=1), picture(channels=1)]
    for index, image in enumerate(images):
        write(tmp_path, f"p{index}", image)
    dataset, problems = load_folder(tmp_path, cache_limit=10**9)
    assert not problems
    assert dataset.channels == 3
    wide = [i if i.ndim == 3 else np.repeat(i[..., None], 3, 2) for i in images]
    for index, image in enumerate(wide):
        assert np.array_equal(dataset.read(index)[0], image)
    pixels = np.stack(wide).reshape(-1, 3).astype(np.float64)
    mean, std = dataset.statistics()
    assert mean == pytest.approx(pixels.mean(0))
    assert std == pytest.approx(pixels.std(0))


def test_a_constant_channel_is_not_divided_by_zero(tmp_path: Path) -> None:
    image = picture()
    image[..., 1] = 9
    write(tmp_path, "a", image)
    mean, std = load_folder(tmp_path)[0].statistics()
    assert mean[1] == 9
    assert std[1] == 1


# Masks of several kinds


@pytest.mark.parametrize("ground", [(255, 255, 255), (0, 0, 0), (128, 128, 128), (0, 0, 90)])
def test_a_colour_mask_without_objects_is_background(
    tmp_path: Path, ground: tuple[int, int, int]
) -> None:
    drawn = np.full((24, 32, 3), ground, np.uint8)
    write(tmp_path, "empty", picture(), drawn.copy())
    drawn[4:14, 6:20] = (255, 0, 0)
    write(tmp_path, "full", picture(), drawn)
    for limit in (0, 10**9):
        dataset, problems = load_folder(
            tmp_path, reading=Reading(foreground="#ff0000"), cache_limit=limit
        )
        assert not problems
        assert dataset.labels.kind == "colour"
        assert not dataset.read(0)[1].any()
        assert np.array_equal(dataset.read(1)[1], mask() > 0)
        assert dataset.foreground_share() == pytest.approx((mask() > 0).mean() / 2)
    black_red = load_folder(tmp_path)[0].labels  # two values in all, decided without being told
    assert set(black_red.values) == {int.from_bytes(bytes(ground)), 0xFF0000}


def test_colour_masks_are_kept_where_most_masks_are_empty(tmp_path: Path) -> None:
    drawn = np.zeros((24, 32, 3), np.uint8)
    for name in "abc":
        write(tmp_path, name, picture(), drawn)
    drawn[4:14, 6:20] = (0, 0, 255)
    write(tmp_path, "d", picture(), drawn)
    dataset, problems = load_folder(tmp_path)
    assert not problems
    assert [bool(dataset.read(index)[1].any()) for index in range(4)] == [False] * 3 + [True]
    trained = dataset.labels  # 0x0000ff is 255 as a number, but no grey
    (tmp_path / "masks" / "d.png").unlink()
    save(tmp_path / "masks" / "d.png", mask())
    again, problems = load_folder(tmp_path, labels=trained)
    assert not problems
    assert np.array_equal(again.read(3)[1], mask() > 0)


def test_a_mask_of_another_kind_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path, "a", picture())
    write(tmp_path, "b", picture())
    write(tmp_path, "c", picture())
    save_palette(tmp_path / "masks" / "c.png", mask() // 255, (0, 0, 0, 255, 0, 0))
    dataset, problems = load_folder(tmp_path)
    assert dataset.names == ["a", "b"]
    assert problems["c.png"].what == "a palette mask"
    assert problems["c.png"].expected == "a grey mask, as most of the others"


def test_a_mask_of_one_palette_colour_is_read_by_its_colour(tmp_path: Path) -> None:
    for name in "abcd":
        write(tmp_path, name, picture())
    nothing = np.zeros((24, 32), np.uint8)
    save_palette(tmp_path / "masks" / "b.png", nothing, (255, 255, 255))
    save_palette(tmp_path / "masks" / "c.png", nothing, (0, 0, 0))
    save_palette(tmp_path / "masks" / "d.png", nothing, (9, 200, 30))
    for options in ({"cache_limit": 10**9}, {"cache_limit": 0}):
        dataset, problems = load_folder(tmp_path, **options)
        assert [dataset.read(i)[1].mean() for i in range(3)] == [140 / 768, 1, 0]
        assert [dataset.class_pixels(i).tolist() for i in (1, 2)] == [[768], [0]]
        assert list(problems) == ["d.png"]
        assert problems["d.png"].what == "a palette mask"


@pytest.mark.parametrize("palette", [(255, 255, 255, 0, 0, 0), (0, 0, 0, 255, 255, 255)])
def test_a_black_mask_among_those_of_a_palette_is_not_read_as_white(
    palette: tuple[int, ...], tmp_path: Path
) -> None:
    """Programs that save space write it as grey, where 0 is black; for others it is index 0."""
    for name in "abcd":
        write(tmp_path, name, picture())
        save_palette(tmp_path / "masks" / f"{name}.png", mask() // 255, palette)
    write(tmp_path, "d", picture(), np.zeros((24, 32), np.uint8))
    dataset, problems = load_folder(tmp_path)
    if palette[0]:
        assert dataset.names == ["a", "b", "c"]
        assert problems["d.png"].kind == "mixed-kinds"
    else:
        assert not dataset.read(3)[1].any()


def test_deep_greys_among_colours_are_a_problem(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (255, 0, 0)], np.uint8)
    for name in "abc":
        write(tmp_path, name, picture(), colours[mask() // 255])
    write(tmp_path, "d", picture(), np.full((24, 32), 65535, np.uint16))
    dataset, problems = load_folder(tmp_path)
    assert dataset.names == ["a", "b", "c"]
    assert dataset.labels.values == (0, 0xFF0000)
    assert problems["d.png"].kind == "mixed-kinds"


def test_black_and_white_among_colours_are_colours(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (255, 255, 255), (255, 0, 0)], np.uint8)
    for index, name in enumerate("abcde"):
        write(tmp_path, name, picture(), colours[(mask() > 0) * (1 if index < 2 else 2)])
    asked = Reading(classes="no=#000000,white=#ffffff,red=#ff0000")
    for reading in (None, asked):
        dataset, problems = load_folder(tmp_path, reading=reading)
        assert not problems
        drawn = [dataset.labels.names[dataset.read(i)[1].max()] for i in range(5)]
        assert len(set(drawn[:2])) == len(set(drawn[2:])) == 1
        assert drawn[0] != drawn[2]
    assert drawn == ["white"] * 2 + ["red"] * 3


def test_floats_mean_the_same_in_soft_and_crisp_masks(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name, picture())
        (tmp_path / "masks" / f"{name}.png").unlink()
        save(tmp_path / "masks" / f"{name}.tif", (mask() > 0).astype(np.float32))
    crisp, _ = load_folder(tmp_path)
    assert crisp.labels.values == (0, 1)
    soft = (mask() > 0).astype(np.float32)
    soft[4] /= 4
    save(tmp_path / "masks" / "c.tif", soft)
    for options in ({"cache_limit": 10**9}, {"cache_limit": 0}):
        dataset, problems = load_folder(tmp_path, **options)
        assert not problems
        assert [dataset.read(i)[1].sum() for i in range(3)] == [140, 140, 126]
        assert [dataset.class_pixels(i).tolist() for i in range(3)] == [[140], [140], [126]]


def test_percentiles_see_every_column(tmp_path: Path) -> None:
    image = np.full((256, 1024), 100, np.uint16)
    image[:, 5::16] = image[:, 6::16] = 30_000  # no column of which is a multiple of 16
    write(tmp_path, "a", image, np.eye(256, 1024, dtype=np.uint8))
    statistics = load_folder(tmp_path)[0].facts[0].statistics
    assert statistics is not None
    known = dict(zip(LEVELS, statistics.levels[0].tolist(), strict=True))
    assert (known[50], known[95], known[99]) == (100, 30_000, 30_000)


# The digest


def test_the_digest_sees_every_change(tmp_path: Path) -> None:
    pictures(tmp_path, 3)
    seen = {read_all(tmp_path).digest()}
    assert {read_all(tmp_path, cache_limit=0).digest()} == seen
    for folder, pixel in (("images", (5, 6, 1)), ("masks", (7, 8))):
        path = tmp_path / folder / "p1.png"
        values = np.asarray(Image.open(path)).copy()
        values[pixel] = 255 - values[pixel]
        save(path, values)
        seen.add(read_all(tmp_path).digest())
    for folder in ("images", "masks"):
        (tmp_path / folder / "p2.png").rename(tmp_path / folder / "renamed.png")
    seen.add(read_all(tmp_path).digest())
    assert len(seen) == 4
    backwards = read_all(tmp_path)
    assert backwards.subset(backwards.names[::-1]).digest() not in seen


def test_the_digest_is_of_pixels_not_of_files(tmp_path: Path) -> None:
    pictures(tmp_path, 2)
    before = read_all(tmp_path).digest()
    path = tmp_path / "images" / "p0.png"
    Image.open(path).save(path, compress_level=0)
    assert read_all(tmp_path).digest() == before


def test_pairs_may_come_in_any_order(tmp_path: Path) -> None:
    pictures(tmp_path, 4)
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks").pairs
    backwards, _ = load([Pair(p.name, p.images, p.masks) for p in reversed(pairs)], workers=0)
    whole = read_all(tmp_path)
    assert backwards.subset(whole.names).digest() == whole.digest()
    assert backwards.labels == whole.labels


def test_masks_coded_unlike_the_others_are_named(tmp_path: Path) -> None:
    for index in range(6):
        image, mask = draw(index, size=64)
        save(tmp_path / "images" / f"p{index}.png", image)
        few = np.zeros_like(mask)
        few[:9, :9] = 1  # 0.3% of all pixels
        save(tmp_path / "masks" / f"p{index}.png", mask if index else few)
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    dataset, problems = load(found.pairs, workers=1)
    assert dataset.names == [f"p{index}" for index in range(1, 6)]
    assert [problem.what for problem in problems] == ["values 0, 1"]


def test_palettes_that_lack_unused_colours_are_one(tmp_path: Path) -> None:
    """Programs that save only the colours in use: the first mask's palette has no third one."""
    palette = (0, 0, 0, 255, 0, 0, 0, 255, 0)
    for index, most in enumerate((1, 2, 2)):
        picture, _ = draw(index, size=64)
        save(tmp_path / "images" / f"p{index}.png", picture)
        values = np.minimum(np.arange(64 * 64).reshape(64, 64) // 1300, most)
        save_palette(tmp_path / "masks" / f"p{index}.png", values, palette[: 3 * most + 3])
    assert read_all(tmp_path).labels.palette == palette


def test_palettes_in_another_order_are_named(tmp_path: Path) -> None:
    for index in range(3):
        image, mask = draw(index, size=64)
        save(tmp_path / "images" / f"p{index}.png", image)
        black_first = index > 0
        picture = Image.fromarray(((mask > 0) == black_first).astype(np.uint8))
        picture.putpalette([0, 0, 0, 255, 255, 255] if black_first else [255, 255, 255, 0, 0, 0])
        (tmp_path / "masks").mkdir(exist_ok=True)
        picture.save(tmp_path / "masks" / f"p{index}.png")
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    dataset, problems = load(found.pairs, workers=1)
    assert len(dataset) + len(problems) == 3
    assert all("palette in which colour" in problem.what for problem in problems)
    assert problems


def test_names_that_are_not_utf_8_have_a_digest(tmp_path: Path) -> None:
    image, mask = draw(0, size=64)
    name = os.fsdecode(b"ni\xf1o.png")
    save(tmp_path / "images" / name, image)
    save(tmp_path / "masks" / name, mask)
    dataset, _ = load(find_pairs(tmp_path / "images", tmp_path / "masks").pairs, workers=0)
    assert len(dataset.digest()) == 64


def test_the_table_of_a_model_is_told_with_the_shares_of_new_masks(tmp_path: Path) -> None:
    numbers = np.kron(np.arange(12, dtype=np.uint8).reshape(3, 4), np.ones((8, 8), np.uint8))
    for index in range(6):
        save(tmp_path / "images" / f"{index}.png", picture())
        save(tmp_path / "masks" / f"{index}.png", numbers * (numbers <= 6 + index))
    trained = read_all(tmp_path).labels
    assert trained.others == "foreground"

    for index in range(6):
        save(tmp_path / "masks" / f"{index}.png", numbers * (numbers <= 4))
    seen = read_all(tmp_path, labels=trained).labels
    assert [(row.value, row.share, row.images) for row in seen.table] == [
        ("0", pytest.approx(8 / 12), 6),
        ("every other value", pytest.approx(4 / 12), 6),
    ]
    assert "ids up to 4): every number is foreground (33.3% of the pixels)" in seen.note


def test_colours_as_jpeg_have_the_shares_of_their_classes(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)
    y, x = np.mgrid[:192, :256]
    for index in range(4):
        wave = np.sin(x / 11 + index) + np.sin(y / 9)
        classes = (wave > 1) + 2 * (wave < -1)
        save(tmp_path / "masks" / f"{index}.jpg", colours[classes])
        save(tmp_path / "images" / f"{index}.png", picture(192, 256))
    dataset = read_all(tmp_path)
    assert any(facts.masks[0].rest for facts in dataset.facts)
    for index in range(4):
        drawn = [int(layer.sum()) for layer in dataset.labels.layers(dataset.read(index)[1])]
        assert dataset.class_pixels(index) == pytest.approx(drawn, rel=0.02)
    share = 100 * float(np.mean([(dataset.read(i)[1] == 2).mean() for i in range(4)]))
    told = re.search(r"class #f\w+ \((.*?)%", dataset.labels.note)
    assert told is not None
    assert float(told[1]) == pytest.approx(share, rel=0.02)


def test_a_mask_that_is_resized_since_it_was_looked_at_is_told(tmp_path: Path) -> None:
    dataset = read_all(pictures(tmp_path, 2), cache_limit=0)
    save(tmp_path / "masks" / "p1.png", np.zeros((16, 16), np.uint8))
    dataset.read(0)
    with pytest.raises(ImageError) as caught:
        dataset.read(1)
    assert "another size than when it was first read" in str(caught.value.problem)
