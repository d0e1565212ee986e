"""Which mask belongs to which image: every way in which names go wrong."""

from __future__ import annotations

import re
import shlex
import time
import unicodedata
from pathlib import Path

import pytest

from contorno.data.names import find_images, names_listed, read_list
from contorno.data.pairs import SUFFIXES, Found, find_pairs
from contorno.errors import ConfigError, InputError, Problem

# pairs looks at names only, so files may be empty


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


def wrong(found: Found) -> list[Problem]:
    """Everything but notes."""
    return [problem for problem in found.problems if problem.severity != "note"]


def matched(found: object) -> list[tuple[str, str, str]]:
    return [(p.name, p.image.name, p.mask.name) for p in found.pairs]  # type: ignore[attr-defined]


# Two folders


def test_two_folders_match_by_stem(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "b.jpg", "a.png", "c.tif")
    masks = touch(tmp_path / "m", "a.png", "c.png", "b.gif")
    found = find_pairs(images, masks)
    assert matched(found) == [
        ("a", "a.png", "a.png"),
        ("b", "b.jpg", "b.gif"),
        ("c", "c.tif", "c.png"),
    ]
    assert found.problems == ()
    assert found.rule == "masks are matched by stem"


def test_missing_partners_are_listed_both_ways(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "only-image.png")
    masks = touch(tmp_path / "m", "a.png", "only-mask.png")
    found = find_pairs(images, masks)
    assert [p.name for p in found.pairs] == ["a"]
    assert {(Path(p.path).name, p.what) for p in wrong(found)} == {
        ("only-image.png", "an image without mask"),
        ("only-mask.png", "a mask without image"),
    }
    looked_for = next(p for p in found.problems if p.what == "an image without mask").expected
    assert str(masks / "only-image") in looked_for  # says where it looked


def test_suffix_in_the_second_folder_is_guessed(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "b.png")
    masks = touch(tmp_path / "m", "a_mask.png", "b_mask.png")
    found = find_pairs(images, masks)
    assert matched(found) == [("a", "a.png", "a_mask.png"), ("b", "b.png", "b_mask.png")]
    assert "'_mask'" in found.rule


def test_a_given_suffix_wins_over_equal_stems(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png")
    masks = touch(tmp_path / "m", "a.png", "a-truth.png")
    found = find_pairs(images, masks, suffix="-truth")
    assert matched(found) == [("a", "a.png", "a-truth.png")]
    assert [Path(p.path).name for p in wrong(found)] == ["a.png"]


# One folder


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_one_folder_with_a_known_suffix(tmp_path: Path, suffix: str) -> None:
    folder = touch(tmp_path / "all", "a.jpg", f"a{suffix}.png", "b.jpg", f"b{suffix}.png", "c.jpg")
    found = find_pairs(folder)
    assert matched(found) == [("a", "a.jpg", f"a{suffix}.png"), ("b", "b.jpg", f"b{suffix}.png")]
    assert repr(suffix) in found.rule
    assert [Path(p.path).name for p in wrong(found)] == ["c.jpg"]


def test_one_folder_given_twice_is_one_folder(tmp_path: Path) -> None:
    folder = touch(tmp_path / "all", "a.jpg", "a_gt.png")
    assert matched(find_pairs(folder, tmp_path / "." / "all")) == [("a", "a.jpg", "a_gt.png")]


def test_one_folder_with_a_suffix_of_ones_own(tmp_path: Path) -> None:
    folder = touch(tmp_path / "all", "a.jpg", "a.truth.png", "b.jpg", "orphan.truth.png")
    found = find_pairs(folder, suffix=".truth")
    assert matched(found) == [("a", "a.jpg", "a.truth.png")]
    assert {(Path(p.path).name, p.what) for p in wrong(found)} == {
        ("b.jpg", "an image without mask"),
        ("orphan.truth.png", "a mask without image"),
    }


def test_one_folder_without_any_suffix_says_what_to_do(tmp_path: Path) -> None:
    folder = touch(tmp_path / "all", "a.jpg", "b.jpg")
    with pytest.raises(InputError, match=r"folder of masks too, or --suffix"):
        find_pairs(folder)


@pytest.mark.parametrize("ending", ["_manual1", "-truth", ".jpg", " seg"])
def test_a_suffix_that_is_not_known_is_named(tmp_path: Path, ending: str) -> None:
    stems = [f"s{index}" for index in range(12)]
    images = touch(tmp_path / "i", *(f"{stem}.png" for stem in stems))
    masks = touch(tmp_path / "m", *(f"{stem}{ending}.png" for stem in stems))
    found = find_pairs(images, masks)
    assert [problem.kind for problem in found.problems] == ["no-names"]
    assert found.problems[0].fix == f"add --suffix {shlex.quote(ending)}"
    assert len(find_pairs(images, masks, suffix=ending).pairs) == 12
    together = touch(tmp_path / "t", *(f"{s}{e}.png" for s in stems for e in ("", ending)))
    with pytest.raises(InputError, match=f"--suffix {re.escape(shlex.quote(ending))}$"):
        find_pairs(together)


@pytest.mark.parametrize(
    ("endings", "mask", "option"),
    [
        (["_0000"], "", "_0000"),  # nnU-Net
        (["_0000", "_0001", "_0002"], "", "_0000,_0001,_0002"),
        ([".raw"], "", ".raw"),
        (["_img"], "_masks", "_img"),  # Cellpose
        ([f"_t{time}" for time in range(9)], "", ""),  # a series, and one mask for all of it
    ],
)
def test_endings_of_images_that_would_pair_are_named(
    tmp_path: Path, endings: list[str], mask: str, option: str
) -> None:
    for index in range(3):
        for ending in endings:
            touch(tmp_path / "images", f"p{index}{ending}.png")
        touch(tmp_path / "masks", f"p{index}{mask}.png")
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    (problem,) = found.problems
    assert not found.pairs
    assert problem.kind == "no-names"
    assert ("--channels" in problem.fix) == bool(option)
    assert f"--channels {option}," in problem.fix or not option
    if option:
        channels = option.split(",")
        assert (
            len(find_pairs(tmp_path / "images", tmp_path / "masks", channels=channels).pairs) == 3
        )


def test_endings_of_images_in_one_folder_are_named(tmp_path: Path) -> None:
    for index in range(3):
        touch(tmp_path, f"x{index}_img.png", f"x{index}_masks.png")
    with pytest.raises(InputError, match="--channels _img"):
        find_pairs(tmp_path)
    found = find_pairs(tmp_path, channels=["_img"])
    assert [(pair.name, pair.mask.name) for pair in found.pairs] == [
        (f"x{index}", f"x{index}_masks.png") for index in range(3)
    ]
    for index in range(3):
        touch(tmp_path, f"x{index}_flows.png")  # which of them are channels, nobody knows
    with pytest.raises(InputError, match="or --suffix"):
        find_pairs(tmp_path)


def test_strange_names_in_one_folder_hide_no_lonely_files_of_another(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "b.png", "c.png")
    cells = touch(tmp_path / "cells", "a.png", "b.png", "orphan.png")
    walls = touch(tmp_path / "walls", "t1.png", "t2.png", "t3.png")
    found = find_pairs(images, {"cell": cells, "wall": walls})
    assert [(Path(p.path).name, p.kind) for p in found.problems] == [
        ("walls", "no-names"),
        ("c.png", "image-without-mask"),
        ("orphan.png", "mask-without-image"),
    ]


def test_names_that_have_nothing_in_common(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", *(f"image_{index}.png" for index in range(300)))
    masks = touch(tmp_path / "m", *(f"mask_{index}.png" for index in range(300)))
    (problem,) = find_pairs(images, masks).problems
    assert problem.path == str(masks)
    assert "the first image is image_0, the first mask mask_0" in problem.what
    assert problem.fix == "rename the masks after their images"
    good = touch(tmp_path / "good", *(f"image_{index}.png" for index in range(300)))
    found = find_pairs(images, {"cell": good, "nucleus": masks})
    assert [p.path for p in found.problems] == [str(masks)]


def test_a_suffix_that_no_mask_has(tmp_path: Path) -> None:
    folder = touch(tmp_path / "all", "a.png", "a_mask.png")
    for masks in (None, folder, touch(tmp_path / "m", "a.png")):
        with pytest.raises(InputError, match="no stem of a mask ends in the suffix '_wrong'"):
            find_pairs(folder, masks, suffix="_wrong")


def test_the_commonest_suffix_is_guessed(tmp_path: Path) -> None:
    folder = touch(tmp_path / "all", "a.png", "a_gt.png", "b.png", "b_gt.png", "b_mask.png")
    found = find_pairs(folder)
    assert {p.mask.name for p in found.pairs} >= {"a_gt.png", "b_gt.png"}


# Names


@pytest.mark.parametrize(
    "stem",
    [
        "two words",
        "50%",
        "100%s",
        "line\nbreak",
        "-rf",
        "--help",
        "a.b",
        "a.b.c",
        "[x]",
        "a*b",
        "$HOME",
        "quote'\"",
        "tab\there",
        "naïve",
        "图像",
        "x" * 200,
        " padded ",
    ],
)
def test_awkward_names(tmp_path: Path, stem: str) -> None:
    images = touch(tmp_path / "i", f"{stem}.png", "plain.png")
    masks = touch(tmp_path / "m", f"{stem}.png", "plain.png")
    found = find_pairs(images, masks)
    assert sorted(p.name for p in found.pairs) == sorted([stem, "plain"])
    assert found.problems == ()
    assert all(p.image.exists() and p.mask.exists() for p in found.pairs)


@pytest.mark.parametrize(("image", "mask"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_names_are_one(tmp_path: Path, image: str, mask: str) -> None:
    name = "Zürich-é.png"
    images = touch(tmp_path / "i", unicodedata.normalize(image, name))
    masks = touch(tmp_path / "m", unicodedata.normalize(mask, name))
    (pair,) = find_pairs(images, masks).pairs
    assert pair.name == unicodedata.normalize("NFC", "Zürich-é")
    assert pair.image.exists()
    assert pair.mask.exists()  # the files keep the names they have
    listing = tmp_path / "list.txt"
    listing.write_text(unicodedata.normalize("NFD", "Zürich-é"), encoding="utf-8")
    assert len(find_pairs(images, masks, files=listing).pairs) == 1


@pytest.mark.parametrize("image", ["p0.ome.tif", "p0.ome.tiff", "p0.OME.TIF"])
@pytest.mark.parametrize(
    "mask", ["p0.png", "p0.ome.png", "p0.ome.tif", "p0_mask.png", "p0.ome_mask.png"]
)
def test_ome_is_no_part_of_a_stem(tmp_path: Path, image: str, mask: str) -> None:
    images, masks = touch(tmp_path / "i", image), touch(tmp_path / "m", mask)
    for listed in (None, "p0", "p0.ome", image):
        listing = tmp_path / "list.txt"
        listing.write_text(listed or "")
        found = find_pairs(images, masks, files=listing if listed else None)
        assert matched(found) == [("p0", image, mask)]


@pytest.mark.parametrize("extension", [".PNG", ".Jpg", ".JPEG", ".TIF", ".Tiff", ".BMP", ".WEBP"])
def test_upper_case_extensions(tmp_path: Path, extension: str) -> None:
    images = touch(tmp_path / "i", f"a{extension}")
    masks = touch(tmp_path / "m", "a.png")
    assert matched(find_pairs(images, masks)) == [("a", f"a{extension}", "a.png")]


def test_names_that_differ_by_case_are_two(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "A.png")
    if len(list(images.iterdir())) < 2:
        pytest.skip("this file system does not tell them apart")
    masks = touch(tmp_path / "m", "a.png", "A.png")
    assert matched(find_pairs(images, masks)) == [("A", "A.png", "A.png"), ("a", "a.png", "a.png")]


def test_one_stem_with_two_extensions_is_a_problem(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.jpg", "a.png", "a.tif", "b.png", "c.png")
    masks = touch(tmp_path / "m", "a.png", "b.png", "c.gif", "c.png")
    found = find_pairs(images, masks)
    assert [p.name for p in found.pairs] == ["b"]  # which of two is meant is not guessed
    twice = {Path(p.path): p.what for p in found.problems if "same stem" in p.what}
    assert twice == {
        images / "a.png": "the same stem as a.jpg",
        images / "a.tif": "the same stem as a.jpg",
        masks / "c.png": "the same stem as c.gif",
    }


def test_hidden_and_other_files_are_not_looked_at(tmp_path: Path) -> None:
    images = touch(
        tmp_path / "i", "a.png", ".hidden.png", "._a.png", "Thumbs.db", "notes.txt", ".DS_Store"
    )
    masks = touch(tmp_path / "m", "a.png", "._a.png", "desktop.ini")
    found = find_pairs(images, masks)
    assert matched(found) == [("a", "a.png", "a.png")]
    assert {(p.kind, p.severity) for p in found.problems} == {("hidden-file", "note")}


# Folders


def test_an_empty_folder_hints_at_its_subfolders(tmp_path: Path) -> None:
    touch(tmp_path / "set" / "train", "a.png")
    touch(tmp_path / "set" / "test", "a.png")
    masks = touch(tmp_path / "m", "a.png")
    with pytest.raises(InputError, match=r"no image in this folder.*sub-folders: test, train"):
        find_pairs(tmp_path / "set", masks)
    empty = touch(tmp_path / "empty")
    with pytest.raises(InputError, match="no image in this folder") as caught:
        find_pairs(empty, masks)
    assert "sub-folders" not in str(caught.value)


def test_images_in_subfolders_that_are_not_read_are_counted(tmp_path: Path) -> None:
    images = touch(tmp_path / "set", "a.png", "b.png")
    masks = touch(images / "masks", "a.png", "b.png")
    assert find_pairs(images, masks).problems == ()
    touch(images / "site 2" / "deep", "c.png", "d.PNG", "notes.txt", "._c.png")
    touch(images / "site 1", "e.tif")
    touch(images / ".cache", "f.png")
    (found,) = find_pairs(images, masks).problems
    assert (found.kind, found.severity, found.path) == ("sub-folders", "warning", str(images))
    assert found.what == (
        "3 image(s) in sub-folders, which are not read: site 1 (1), site 2/deep (2)"
    )
    listing = tmp_path / "list.txt"
    listing.write_text("a\n")
    assert find_pairs(images, masks, files=listing).problems == ()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png")
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        find_pairs(tmp_path / "nowhere", images)
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        find_pairs(images, tmp_path / "nowhere")
    with pytest.raises(InputError, match="there is no such folder, but a file"):
        find_pairs(images / "a.png", images)


def test_masks_that_are_no_images_are_named(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png")
    masks = touch(tmp_path / "m", "a.npy", "b.npy", ".DS_Store")
    with pytest.raises(InputError, match=r"2 file\(s\) of other kinds: a\.npy, b\.npy;.* as PNG"):
        find_pairs(images, masks)


# Lists


@pytest.mark.parametrize(
    "lines",
    [
        "a\nc\n",
        "a.png\nc.jpg\n",
        "some/where/a.png\n/abs/c.tif",
        "\r\na\r\n\r\n  c  \r\n",
        "\ufeffa\nc\n",
    ],
)
def test_lists_of_stems_and_paths(tmp_path: Path, lines: str) -> None:
    images = touch(tmp_path / "i", "a.png", "b.png", "c.png")
    masks = touch(tmp_path / "m", "a.png", "b.png", "c.png", "of-no-interest.png")
    listing = tmp_path / "list.txt"
    listing.write_bytes(lines.encode())
    found = find_pairs(images, masks, files=listing)
    assert [p.name for p in found.pairs] == ["a", "c"]
    assert found.problems == ()


def test_a_list_may_name_the_files_of_channels(tmp_path: Path) -> None:
    stems, channels = ("a", "b", "c_x"), ("_x", "_y")
    images = touch(tmp_path / "i", *(f"{stem}{end}.png" for stem in stems for end in channels))
    masks = touch(tmp_path / "m", *(f"{stem}.png" for stem in stems))
    listing = tmp_path / "list.txt"
    listing.write_text("i/a_x.png\ni/a_y.png\nc_x\nb_z\n")
    found = find_pairs(images, masks, files=listing, channels=channels)
    assert [pair.name for pair in found.pairs] == ["a", "c_x"]
    assert [problem.path for problem in wrong(found)] == ["b_z"]
    pictures, problems = find_images([images], files=listing, channels=channels)
    assert [files[0].name for files in pictures] == ["a_x.png", "c_x_x.png"]
    assert [problem.path for problem in problems] == ["b_z"]
    names = names_listed(read_list(listing), {"a", "b"}, channels)
    assert names == ["a", "c_x", "b_z"]


def test_a_list_keeps_dots_in_stems(tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("a.b\nc.d.png\ne.PNG\n")
    assert read_list(listing) == ["a.b", "c.d", "e"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_list_in_the_encodings_of_editors_and_shells(tmp_path: Path, encoding: str) -> None:
    listing = tmp_path / "list.txt"
    listing.write_bytes("ä.png\r\nb.png\r\n".encode(encoding))
    assert read_list(listing) == ["ä", "b"]


def test_a_list_that_names_what_is_not_there(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "b.png")
    masks = touch(tmp_path / "m", "a.png")
    listing = tmp_path / "list.txt"
    listing.write_text("a\nb\nzzz\n")
    found = find_pairs(images, masks, files=listing)
    assert [p.name for p in found.pairs] == ["a"]
    problems = {Path(p.path).name: p.what for p in wrong(found)}
    assert problems["b.png"] == "an image without mask"
    assert str(listing) in problems["zzz"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty list"),
        (b"\n  \n", "an empty list"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path: Path, content: bytes | None, words: str) -> None:
    listing = tmp_path / "list.txt"
    if content is not None:
        listing.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read_list(listing)
    assert str(listing) in str(caught.value)


# Images to predict


def test_files_folders_and_patterns_each_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = touch(tmp_path / "set", "a.png", "b.JPG", "notes.txt")
    touch(tmp_path / "more", "c.tif", "d.png")
    monkeypatch.chdir(tmp_path)
    found, problems = find_images(
        [folder, folder / "a.png", "more/*.tif", str(tmp_path / "m*/d.*")]
    )
    assert [p[0].name for p in found] == ["a.png", "b.JPG", "c.tif", "d.png"]
    assert [(p.kind, p.severity) for p in problems] == [("other-files", "note")]  # notes.txt
    up, _ = find_images(["../" + tmp_path.name + "/more/*.png"])
    assert [p[0].name for p in up] == ["d.png"]
    (tmp_path / "link").symlink_to(tmp_path / "more")
    (folder / "e.png").symlink_to(folder / "a.png")
    ways = ["more/c.tif", tmp_path / "more" / "c.tif", "set/../more/d.png", "link", folder]
    found, _ = find_images(ways)  # a link of another name is another picture
    assert [p[0].name for p in found] == ["c.tif", "d.png", "a.png", "b.JPG", "e.png"]


def test_patterns_find_hidden_files_only_where_they_say_so(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a.png", "._a.png")  # as macOS leaves them on other disks
    found, _ = find_images([folder / "*.png"])
    assert [p[0].name for p in found] == ["a.png"]
    found, _ = find_images([folder / "._*.png"])
    assert [p[0].name for p in found] == ["._a.png"]


def test_inputs_that_are_not_there(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a.png")
    found, problems = find_images([folder / "a.png", folder / "z.png", folder / "*.tif"])
    assert [p[0].name for p in found] == ["a.png"]
    assert [Path(p.path).name for p in problems] == ["z.png", "*.tif"]


def test_a_name_with_pattern_marks_is_that_file(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a[1].png", "a1.png")
    found, problems = find_images([folder / "a[1].png"])
    assert [p[0].name for p in found] == ["a[1].png"]
    assert problems == []


def test_a_list_restricts_images(tmp_path: Path) -> None:
    folder = touch(tmp_path / "set", "a.png", "b.png", "c.png")
    listing = tmp_path / "list.txt"
    listing.write_text("c\na\nmissing\n")
    found, problems = find_images([folder], files=listing)
    assert [p[0].name for p in found] == ["a.png", "c.png"]
    assert [p.path for p in problems] == ["missing"]


# Channels in files of their own, classes in folders of their own


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a_dapi.tif", "a_gfp.tif", "b_dapi.tif", "c_dapi.tif", "x.tif")
    touch(images, "b_gfp.tif")
    masks = touch(tmp_path / "m", "a.png", "b.png", "c.png")
    found = find_pairs(images, masks, channels=("_dapi", "_gfp"))
    assert [(p.name, [f.name for f in p.images]) for p in found.pairs] == [
        ("a", ["a_dapi.tif", "a_gfp.tif"]),
        ("b", ["b_dapi.tif", "b_gfp.tif"]),
    ]
    kinds = {(Path(p.path).name, p.kind) for p in wrong(found)}
    assert {("c_dapi.tif", "channel-missing"), ("x.tif", "channel-missing")} <= kinds
    pictures, problems = find_images([images], channels=("_dapi", "_gfp"))
    assert [[f.name for f in files] for files in pictures] == [
        ["a_dapi.tif", "a_gfp.tif"],
        ["b_dapi.tif", "b_gfp.tif"],
    ]
    assert len(problems) == 2
    assert any("train with its ending" in p.fix for p in problems)  # predict has no such option


def test_a_folder_of_masks_for_each_class(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.png", "b.png")
    folders = {
        "nucleus": touch(tmp_path / "n", "a.png", "b.png"),
        "membrane": touch(tmp_path / "r", "a.png", "z.png"),
    }
    found = find_pairs(images, folders)
    assert [(p.name, [f.parent.name for f in p.masks]) for p in found.pairs] == [("a", ["n", "r"])]
    kinds = {(Path(p.path).name, p.kind) for p in wrong(found)}
    assert kinds == {("b.png", "image-without-mask"), ("z.png", "mask-without-image")}


def test_each_class_folder_has_its_own_ending(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.tif", "b.tif")
    masks = {
        "cells": touch(tmp_path / "c", "a_cells.png", "b_cells.png"),
        "nuclei": touch(tmp_path / "n", "a_nuclei.png", "b_nuclei.png"),
        "rims": touch(tmp_path / "r", "a.png", "b.png"),
    }
    found = find_pairs(images, masks)
    assert not found.pairs
    assert {(p.path, p.fix) for p in found.problems} == {
        (str(tmp_path / name), "add --suffix _cells,_nuclei,") for name in "cn"
    }
    found = find_pairs(images, masks, suffix="_cells,_nuclei,")
    assert [[mask.name for mask in pair.masks] for pair in found.pairs] == [
        [f"{stem}_cells.png", f"{stem}_nuclei.png", f"{stem}.png"] for stem in "ab"
    ]
    assert {p.kind for p in found.problems} == {"suffix-rule"}
    assert found.rule == "masks are matched by stem + '_cells', '_nuclei', ''"
    with pytest.raises(ConfigError, match="2 suffixes for 3 folders"):
        find_pairs(images, masks, suffix="_cells,_nuclei")
    with pytest.raises(InputError, match="r: no stem of a mask ends in the suffix '_rims'"):
        find_pairs(images, masks, suffix="_cells,_nuclei,_rims")


def test_known_endings_of_class_folders_are_found(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "a.tif", "b.tif")
    masks = {
        "cells": touch(tmp_path / "c", "a_mask.png", "b_mask.png"),
        "nuclei": touch(tmp_path / "n", "a.png", "b.png"),
        "rims": touch(tmp_path / "r", "a_seg.png", "b_seg.png"),
    }
    found = find_pairs(images, masks)
    assert [[mask.name for mask in pair.masks] for pair in found.pairs] == [
        [f"{stem}_mask.png", f"{stem}.png", f"{stem}_seg.png"] for stem in "ab"
    ]


def test_names_that_differ_by_case_are_paired_with_a_warning(tmp_path: Path) -> None:
    images = touch(tmp_path / "i", "Cell1.png", "b.png")
    masks = touch(tmp_path / "m", "cell1.png", "b.png")
    found = find_pairs(images, masks)
    assert matched(found) == [("Cell1", "Cell1.png", "cell1.png"), ("b", "b.png", "b.png")]
    assert [(p.kind, p.severity) for p in wrong(found)] == [("case-names", "warning")]


def test_many_images_without_a_mask_take_no_time_to_compare(tmp_path: Path) -> None:
    count = 10_000
    images = touch(tmp_path / "i", *(f"p{number}.png" for number in range(count)))
    masks = touch(tmp_path / "m", *(f"p{number}.png" for number in range(0, count, 100)))
    began = time.process_time()
    found = find_pairs(images, masks)
    assert time.process_time() - began < 5  # each compared with each takes far longer
    assert len(found.pairs) == count // 100
    assert len(found.problems) == count - count // 100


def test_pictures_of_many_folders_are_found_in_no_time(tmp_path: Path) -> None:
    folders = [touch(tmp_path / f"d{number}", "x_a.png", "x_b.png") for number in range(1500)]
    began = time.process_time()
    found, problems = find_images(folders, channels=("_a", "_b"))
    assert time.process_time() - began < 3
    assert [[path.name for path in picture] for picture in found] == [["x_a.png", "x_b.png"]] * 1500
    assert not problems
