"""Pictures and masks keep every value through a file; a bad file says what is wrong with it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageOps

from contorno import decoded
from contorno.errors import InputError
from contorno.images import (
    ImageError,
    as_channels,
    encode_png,
    png_text,
    read_channels,
    read_image,
    read_mask,
    read_picture,
    read_raw_mask,
    turn_upright,
    unpack_colours,
    write_mask,
    write_probabilities,
    wrong_extension,
)

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (13, 17), dtype=np.uint8)
RGB = RANDOM.integers(0, 256, (13, 17, 3), dtype=np.uint8)
DEEP = RANDOM.integers(0, 65536, (13, 17), dtype=np.uint16)
DEEP_RGB = RANDOM.integers(0, 65536, (13, 17, 3), dtype=np.uint16)
SMOOTH = (np.add.outer(np.arange(40), np.arange(60))[:, :, None] * (1, 2, 2)).astype(np.uint8)
PALETTE = tuple(RANDOM.integers(0, 256, 3 * 256).tolist())


def pillow(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **options)
    return buffer.getvalue()


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def converted(mode: str, kind: str, array: np.ndarray = RGB) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, format=kind)
    return buffer.getvalue()


def stored(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def indexed(values: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = Image.fromarray(values, mode="P")
    picture.putpalette(list(PALETTE))
    picture.save(buffer, format="PNG", **options)
    return buffer.getvalue()


def with_alpha(array: np.ndarray, alpha: int | np.ndarray) -> np.ndarray:
    return np.dstack([array, np.full(array.shape[:2], alpha, array.dtype)])


# --- pictures


BITS = GREY > 127
EXACT: dict[str, tuple[bytes, np.ndarray]] = {
    "png 1 bit": (pillow(BITS), (BITS * 255).astype(np.uint8)[:, :, None]),
    "png 8 bit": (pillow(GREY), GREY[:, :, None]),
    "png 16 bit": (pillow(DEEP), DEEP[:, :, None]),
    "png rgb": (pillow(RGB), RGB),
    "png rgba, opaque": (pillow(with_alpha(RGB, 255)), RGB),
    "png rgba, half opaque all over": (pillow(with_alpha(RGB, 99)), RGB),
    "png rgba": (pillow(with_alpha(RGB, GREY)), with_alpha(RGB, GREY)),
    "png grey and alpha": (pillow(with_alpha(GREY, GREY)), with_alpha(GREY, GREY)),
    "png grey, opaque": (pillow(with_alpha(GREY, 7)), GREY[:, :, None]),
    "png rgb 16 bit": (imagecodecs.png_encode(DEEP_RGB), DEEP_RGB),
    "png rgba 16 bit": (
        imagecodecs.png_encode(with_alpha(DEEP_RGB, DEEP)),
        with_alpha(DEEP_RGB, DEEP),
    ),
    "png rgba 16 bit, opaque": (imagecodecs.png_encode(with_alpha(DEEP_RGB, 65535)), DEEP_RGB),
    "png grey and alpha 16 bit": (
        imagecodecs.png_encode(with_alpha(DEEP, DEEP[::-1])),
        with_alpha(DEEP, DEEP[::-1]),
    ),
    "png palette": (indexed(GREY), np.reshape(PALETTE, (256, 3)).astype(np.uint8)[GREY]),
    "bmp": (pillow(RGB, "BMP"), RGB),
    "bmp grey": (pillow(GREY, "BMP"), GREY[:, :, None]),
    "bmp one bit": (pillow(BITS, "BMP"), np.where(BITS, 255, 0).astype(np.uint8)[:, :, None]),
    "webp lossless": (pillow(RGB, "WEBP", lossless=True), RGB),
    "tiff uint8": (tiff(GREY), GREY[:, :, None]),
    "tiff uint16": (tiff(DEEP), DEEP[:, :, None]),
    "tiff int16": (tiff(DEEP.astype(np.int16)), DEEP.astype(np.int16)[:, :, None]),
    "tiff float32": (tiff(DEEP.astype(np.float32) / 7), (DEEP.astype(np.float32) / 7)[:, :, None]),
    "tiff rgb": (tiff(RGB, photometric="rgb"), RGB),
    "tiff rgb 16 bit": (tiff(DEEP_RGB, photometric="rgb"), DEEP_RGB),
    "tiff planar": (tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"), RGB),
    "tiff zlib": (tiff(RGB, photometric="rgb", compression="zlib"), RGB),
    "tiff lzw": (tiff(DEEP, compression="lzw", predictor=True), DEEP[:, :, None]),
    "tiff big endian": (tiff(DEEP, byteorder=">"), DEEP[:, :, None]),
    "tiff big": (tiff(GREY, bigtiff=True), GREY[:, :, None]),
    "tiff five bands": (
        tiff(
            np.dstack([GREY] * 4 + [BITS.astype(np.uint8)]),
            photometric="minisblack",
            planarconfig="contig",
        ),
        np.dstack([GREY] * 4 + [BITS.astype(np.uint8)]),
    ),
    "tiff white is zero": (tiff(GREY, photometric="miniswhite"), (255 - GREY)[:, :, None]),
    "tiff white is zero, deep": (tiff(DEEP, photometric="miniswhite"), (65535 - DEEP)[:, :, None]),
    "one pixel": (pillow(RGB[:1, :1]), RGB[:1, :1]),
    "one pixel, tiff": (tiff(RGB[:1, :1], photometric="rgb"), RGB[:1, :1]),
    "gif": (converted("L", "GIF", GREY), np.dstack([GREY] * 3)),
}


@pytest.mark.parametrize("name", EXACT)
def test_every_value_of_a_picture_is_read(name: str, tmp_path: Path) -> None:
    data, expected = EXACT[name]
    array = read_image(stored(tmp_path / "x", data))  # no extension: the content decides
    assert array.dtype == expected.dtype  # of this machine's byte order too
    assert np.array_equal(array, expected)
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("data", "reference"),
    [
        (pillow(SMOOTH, "JPEG", quality=97), SMOOTH),
        (pillow(SMOOTH[:, :, 0].copy(), "JPEG", quality=97), SMOOTH[:, :, :1]),
        (converted("CMYK", "JPEG", SMOOTH), SMOOTH),
        (converted("CMYK", "TIFF", SMOOTH), SMOOTH),
    ],
    ids=["jpeg", "grey jpeg", "cmyk jpeg", "cmyk tiff"],
)
def test_lossy_and_printing_formats(data: bytes, reference: np.ndarray, tmp_path: Path) -> None:
    array = read_image(stored(tmp_path / "x.jpg", data))
    assert array.dtype == np.uint8
    assert array.shape == reference.shape
    inner = np.abs(array.astype(int) - reference)[:, :50]  # SMOOTH wraps around further right
    assert np.median(inner) <= 4


def test_a_palette_with_transparency_keeps_its_alpha(tmp_path: Path) -> None:
    values = (GREY // 64).astype(np.uint8)
    array = read_image(stored(tmp_path / "x.png", indexed(values, transparency=2)))
    colours = np.reshape(PALETTE, (256, 3)).astype(np.uint8)
    assert np.array_equal(array[:, :, :3], colours[values])
    assert np.array_equal(array[:, :, 3], np.where(values == 2, 0, 255))


def test_ink_becomes_light_in_tiffs_as_in_pillow(tmp_path: Path) -> None:
    ink = with_alpha(RGB, GREY[::-1])  # (H, W, 4) of cyan, magenta, yellow and varying black
    light = np.asarray(Image.fromarray(ink, mode="CMYK").convert("RGB")).astype(int)
    path = stored(tmp_path / "x.tif", tiff(ink, photometric="separated"))
    assert np.abs(read_image(path) - light).max() <= 1
    deep = tiff(ink.astype(np.uint16) * 257, photometric="separated")
    assert np.abs(read_image(stored(path, deep)) - light * 257).max() <= 257


def test_a_palette_tiff_is_colours_as_a_picture_and_indices_as_a_mask(tmp_path: Path) -> None:
    values = (GREY // 64).astype(np.uint8)
    colours = np.reshape(PALETTE, (256, 3)).astype(np.uint16)
    data = tiff(values, photometric="palette", colormap=(colours * 257).T)
    path = stored(tmp_path / "x.tif", data)
    assert np.array_equal(read_image(path), colours[values])
    mask = read_raw_mask(path)
    assert mask.kind == "palette"
    assert np.array_equal(mask.values, values)
    assert mask.palette == PALETTE


@pytest.mark.parametrize("name", ["x.jpg", "x.TIF", "x.txt", "ünïcode %20\n-.png"])
def test_the_extension_does_not_matter(name: str, tmp_path: Path) -> None:
    assert np.array_equal(read_image(stored(tmp_path / name, pillow(RGB))), RGB)
    assert np.array_equal(
        read_image(stored(tmp_path / name, tiff(DEEP_RGB, photometric="rgb"))), DEEP_RGB
    )


# --- masks


def test_masks_of_every_kind(tmp_path: Path) -> None:
    classes = (GREY // 86).astype(np.uint8)
    cases: dict[str, tuple[bytes, np.ndarray, str]] = {
        "1 bit": (pillow(BITS), BITS * 255, "grey"),
        "0 and 1": (pillow(BITS.astype(np.uint8)), BITS * 1, "grey"),
        "16 bit": (pillow(DEEP), DEEP, "grey"),
        "palette": (indexed(classes), classes, "palette"),
        "grey as rgb": (pillow(np.dstack([GREY] * 3)), GREY, "grey"),
        "colours": (pillow(RGB), RGB.astype(int) @ (65536, 256, 1), "colour"),
        "opaque colours": (
            pillow(with_alpha(RGB, 255)),
            RGB.astype(int) @ (65536, 256, 1),
            "colour",
        ),
        "alpha only": (pillow(with_alpha(np.zeros_like(RGB), GREY)), GREY, "grey"),
        "alpha only, grey": (pillow(with_alpha(np.zeros_like(GREY), GREY)), GREY, "grey"),
        "opaque grey": (pillow(with_alpha(GREY, 255)), GREY, "grey"),
        "whole floats": (tiff(DEEP.astype(np.float32)), DEEP, "grey"),
        "negative": (tiff(DEEP.astype(np.int16)), DEEP.astype(np.int16), "grey"),
        "soft": (tiff((GREY / 255).astype(np.float32)), GREY, "grey"),
        "one band": (tiff(GREY[:, :, None], photometric="minisblack"), GREY, "grey"),
    }
    for name, (data, expected, kind) in cases.items():
        mask = read_raw_mask(stored(tmp_path / "m.png", data))
        assert mask.kind == kind, name
        assert mask.values.dtype.kind in "ui", name
        assert np.array_equal(mask.values, expected), name
        assert np.array_equal(read_mask(tmp_path / "m.png"), expected), name
    mask = read_raw_mask(stored(tmp_path / "m.png", indexed(classes)))
    assert mask.palette[:9] == PALETTE[:9]


def test_problems_of_masks_have_kinds(tmp_path: Path) -> None:
    for data, kind in [
        (pillow(with_alpha(RGB, GREY)), "both-vary"),
        (tiff(DEEP / np.float32(7)), "not-whole"),
        (imagecodecs.png_encode(DEEP_RGB), "not-labels"),
        (tiff(np.stack([GREY] * 5), metadata={"axes": "CYX"}), "not-labels"),
    ]:
        with pytest.raises(ImageError) as caught:
            read_mask(stored(tmp_path / "m", data))
        assert caught.value.problem.kind == kind


NAN = np.where(BITS, np.nan, 1).astype(np.float32)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (pillow(with_alpha(RGB, GREY)), "colours and alpha both vary"),
        (
            tiff(np.dstack([GREY] * 5), photometric="minisblack", planarconfig="contig"),
            "5 channels",
        ),
        (imagecodecs.png_encode(DEEP_RGB), "colour mask of type uint16"),
        (tiff(DEEP / np.float32(7)), "fractional values"),
        (tiff(NAN), "NaN or infinite"),
        (tiff(BITS * np.uint64(2**64 - 1)), "value 18446744073709551615"),
    ],
)
def test_masks_that_mean_nothing(data: bytes, words: str, tmp_path: Path) -> None:
    path = stored(tmp_path / "m.png", data)
    with pytest.raises(ImageError, match=words) as caught:
        read_mask(path)
    assert caught.value.problem.path == str(path)


def test_a_mask_of_half_floats_is_read_without_a_warning(tmp_path: Path) -> None:
    """2**31 is beyond their range."""
    mask = read_raw_mask(stored(tmp_path / "m.tif", tiff(BITS.astype(np.float16))))
    assert np.array_equal(mask.values, BITS)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)),
        arrays(np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=9)),
        arrays(
            np.int64,
            array_shapes(min_dims=2, max_dims=2, max_side=9),
            elements=st.integers(0, 65535),
        ),
    )
)
def test_masks_of_any_values_come_back(values: np.ndarray) -> None:
    path = Path(os.environ["CONTORNO_TEST_FOLDER"]) / "round.png"
    write_mask(path, values)
    mask = read_raw_mask(path)
    assert mask.kind == "grey"
    assert np.array_equal(mask.values, values)


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_palette_masks_come_back(values: np.ndarray) -> None:
    path = Path(os.environ["CONTORNO_TEST_FOLDER"]) / "palette.png"
    write_mask(path, values, kind="palette", palette=PALETTE)
    mask = read_raw_mask(path)
    assert mask.kind == "palette"
    assert np.array_equal(mask.values, values)
    assert mask.palette == PALETTE


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_empty_masks_are_as_deep_as_others(kind: type, tmp_path: Path) -> None:
    write_mask(tmp_path / "m.png", np.zeros((3, 4), kind))
    assert read_mask(tmp_path / "m.png").dtype == kind


def test_indices_beyond_a_palette_come_back(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [16, 1, 0]], np.uint8)
    write_mask(tmp_path / "m.png", values, kind="palette", palette=(0, 0, 0, 255, 0, 0))
    mask = read_raw_mask(tmp_path / "m.png")
    assert np.array_equal(mask.values, values)
    assert mask.palette == (0, 0, 0, 255, 0, 0, *[0] * 45)


@settings(max_examples=40, deadline=None)
@given(
    arrays(
        np.int32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.integers(0, 0xFFFFFF),
    )
)
def test_colour_masks_come_back(values: np.ndarray) -> None:
    path = Path(os.environ["CONTORNO_TEST_FOLDER"]) / "colour.png"
    write_mask(path, values, kind="colour")
    mask = read_raw_mask(path)
    colours = unpack_colours(values)
    if np.ptp(colours, axis=2).max() == 0:  # all grey: read as grey
        assert (mask.kind, mask.values.tolist()) == ("grey", colours[:, :, 0].tolist())
    else:
        assert mask.kind == "colour"
        assert np.array_equal(mask.values, values)


@pytest.fixture(scope="module", autouse=True)
def _folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One folder for hypothesis, which does not like a fixture per function."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTORNO_TEST_FOLDER", str(tmp_path_factory.mktemp("round")))
        yield


# --- what a file says about its picture


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})],
)
def test_exif_orientation_is_told_and_applied_when_asked(
    orientation: int, kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = stored(tmp_path / "x", pillow(SMOOTH, kind, exif=exif, **options))
    picture = read_picture(path)
    with Image.open(path) as opened:
        upright = np.asarray(ImageOps.exif_transpose(opened))
    assert (picture.orientation, picture.format) == (orientation, kind)
    assert picture.array.shape == SMOOTH.shape  # as it stands in the file
    assert np.array_equal(turn_upright(picture.array, orientation), upright)
    assert np.array_equal(read_image(path, upright=True), upright)
    assert np.array_equal(read_image(path), picture.array)
    assert np.array_equal(turn_upright(picture.array[..., 0], orientation), upright[..., 0])
    assert turn_upright(picture.array, orientation).flags.c_contiguous


@pytest.mark.parametrize(
    ("data", "format"),
    [
        (pillow(GREY), "PNG"),
        (imagecodecs.png_encode(DEEP_RGB), "PNG"),
        (pillow(GREY, "JPEG"), "JPEG"),
        (pillow(RGB, "BMP"), "BMP"),
        (converted("P", "GIF"), "GIF"),
        (pillow(RGB, "WEBP"), "WEBP"),
        (tiff(GREY), "TIFF"),
    ],
)
def test_a_picture_tells_its_format(data: bytes, format: str, tmp_path: Path) -> None:
    picture = read_picture(stored(tmp_path / "x", data))
    assert (picture.format, picture.orientation, picture.notes) == (format, 1, ())


def test_a_wrong_extension_is_a_warning() -> None:
    problem = wrong_extension(Path("a/b.JPG"), "PNG")
    assert problem is not None
    assert (problem.kind, problem.severity, problem.path) == (
        "wrong-extension",
        "warning",
        "a/b.JPG",
    )
    assert problem.fix == "rename it to b.png"
    for name, format in [
        ("a.png", "PNG"),
        ("a.JPEG", "JPEG"),
        ("a.jfif", "JPEG"),
        ("a.ome.tif", "TIFF"),
        ("a", "PNG"),  # announces nothing
        ("a.txt", "PNG"),
        ("a.v2", "TIFF"),
        ("a.png", ""),
    ]:
        assert wrong_extension(Path(name), format) is None


def test_channels_in_several_files_become_one_picture(tmp_path: Path) -> None:
    paths = [
        stored(tmp_path / "x_a.png", pillow(GREY)),
        stored(tmp_path / "x_b.tif", tiff(RGB, photometric="rgb")),
        stored(tmp_path / "x_c.png", pillow(GREY[::-1].copy())),
    ]
    picture = read_channels(paths)
    assert np.array_equal(picture.array, np.dstack([GREY, RGB, GREY[::-1]]))
    assert (picture.format, picture.orientation, picture.notes) == ("PNG", 1, ())
    assert np.array_equal(read_channels(paths[:1]).array, GREY[:, :, None])
    pages = stored(tmp_path / "x_d.tif", tiff(np.stack([GREY] * 5), photometric="minisblack"))
    assert read_channels([paths[0], pages], pages=True).array.shape == (13, 17, 6)


def test_channels_that_differ_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    first = stored(tmp_path / "a.png", pillow(GREY))
    small = stored(tmp_path / "b.png", pillow(GREY[:5]))
    deep = stored(tmp_path / "c.png", pillow(DEEP))
    turned = stored(tmp_path / "d.png", pillow(GREY, exif=exif))
    for other, kind, words in [
        (small, "size-mismatch", ("17 x 13 pixels", "17 x 5 pixels")),
        (deep, "mixed-type", ("uint8", "uint16")),
        (turned, "exif-rotation", ("orientation 1", "orientation 6")),
    ]:
        with pytest.raises(ImageError) as caught:
            read_channels([first, other])
        assert caught.value.problem.kind == kind
        assert all(word in str(caught.value) for word in (str(first), str(other), *words))
    with pytest.raises(ImageError, match="13 x 17 pixels"):
        read_channels([first, turned], upright=True)
    both = read_channels([turned, turned], upright=True)
    assert np.array_equal(both.array, np.dstack([np.rot90(GREY, -1)] * 2))
    assert both.orientation == 1


# --- damaged files


def raised(path: Path) -> str:
    """The words that reading a file fails with, as a picture and as a mask."""
    with pytest.raises(ImageError) as caught:
        read_image(path)
    with pytest.raises(ImageError) as again:
        read_mask(path)
    assert again.value.problem.what == caught.value.problem.what
    assert again.value.problem.kind == caught.value.problem.kind != ""
    assert caught.value.problem.path == str(path)
    assert caught.value.problem.fix
    assert caught.value.exit_code == 2
    return caught.value.problem.what


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "an empty file (0 bytes)"),
        (b"<!DOCTYPE html>\n<html></html>", "a web page"),
        (b"\n <html><body>404</body>", "a web page"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n",
            "a git-lfs pointer",
        ),
        (b"notes", "not an image in a format known here"),
        (bytes(1000), "not an image in a format known here"),
        (b"II*\0" + bytes(20), "damaged or truncated"),
        (b"\x89PNG\r\n\x1a\n", "damaged or truncated"),
    ],
)
def test_files_that_are_no_image(data: bytes, words: str, tmp_path: Path) -> None:
    assert words in raised(stored(tmp_path / "x.png", data))


def test_things_that_are_no_regular_file(tmp_path: Path) -> None:
    (tmp_path / "x.png").mkdir()
    assert raised(tmp_path / "x.png") == "a folder, not a regular file"
    assert "No such file" in raised(tmp_path / "none.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    assert "cannot be opened" in raised(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none.png")
    assert "No such file" in raised(tmp_path / "dangling.png")


def test_a_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    words: list[str] = []
    reader = threading.Thread(target=lambda: words.append(raised(tmp_path / "x.png")), daemon=True)
    reader.start()
    reader.join(timeout=20)
    assert words == ["a pipe, not a regular file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = stored(tmp_path / "x.png", pillow(GREY))
    path.chmod(0)
    assert "Permission denied" in raised(path)


WHOLE: dict[str, bytes] = {
    "png": pillow(RGB),
    "png 16 bit": imagecodecs.png_encode(DEEP_RGB),
    "png palette": indexed(GREY),
    "jpeg": pillow(SMOOTH, "JPEG"),
    "gif": converted("L", "GIF", GREY),
    "bmp": pillow(RGB, "BMP"),
    "webp": pillow(SMOOTH, "WEBP"),
    "tiff": tiff(DEEP),
    "tiff zlib": tiff(SMOOTH, photometric="rgb", compression="zlib"),
    "tiff palette": tiff(
        GREY,
        photometric="palette",
        colormap=(np.reshape(PALETTE, (256, 3)).astype(np.uint16) * 257).T,
    ),
    "tiff cmyk": tiff(with_alpha(RGB, GREY), photometric="separated"),
    "tiff by Pillow": pillow(SMOOTH, "TIFF"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_never_half_a_picture(name: str, tmp_path: Path) -> None:
    """Wherever it was cut: an error, or (where only the end marker is lost) the whole picture."""
    data, path = WHOLE[name], tmp_path / "x"
    whole = read_image(stored(path, data))
    cuts = sorted({*range(1, len(data), max(1, len(data) // 60)), *range(len(data) - 9, len(data))})
    errors = []
    for cut in cuts:
        path.write_bytes(data[:cut])
        try:
            assert np.array_equal(read_image(path), whole), cut
        except ImageError as error:
            errors.append(error.problem.what)
    assert len(errors) > 0.7 * len(cuts)
    assert all(words.startswith(("damaged", "not an image")) for words in errors)
    path.write_bytes(data[: len(data) * 9 // 10])
    assert "damaged or truncated" in raised(path)


@pytest.mark.parametrize("name", WHOLE)
def test_changed_bytes_give_a_picture_or_an_image_error(name: str, tmp_path: Path) -> None:
    """Nothing else escapes: no warning, no error of a decoder's own kind."""
    data, path, random = WHOLE[name], tmp_path / "x", np.random.default_rng(5)
    errors = []
    for _ in range(120):
        damaged = bytearray(data)
        for place in random.integers(0, random.choice([40, len(data)]), random.integers(1, 5)):
            damaged[place] = random.integers(0, 256)
        path.write_bytes(damaged)
        for read in (read_image, read_mask):
            try:
                assert read(path).size > 0
            except ImageError as error:
                errors.append(error.problem.path)
    assert errors
    assert set(errors) == {str(path)}


def test_several_pages_are_refused_with_a_way_to_go_on(tmp_path: Path) -> None:
    path = stored(
        tmp_path / "x.tif", tiff(np.stack([GREY, GREY]), photometric="minisblack", metadata=None)
    )
    assert raised(path) == "a TIFF of 2 pages of 17 x 13 pixels"
    with pytest.raises(ImageError, match="on its own, or train with --pages, for pages as"):
        read_image(path)
    with pytest.raises(ImageError, match="Fix: save the page of interest on its own"):
        read_mask(path)
    assert np.array_equal(read_image(path, pages=True), np.dstack([GREY, GREY]))
    volume = tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16))
    assert raised(stored(path, volume)) == "a TIFF of 16 pages of 16 x 16 pixels"


@pytest.mark.parametrize(
    "data", [pillow(GREY), imagecodecs.png_encode(DEEP_RGB), tiff(GREY), pillow(RGB, "BMP")]
)
def test_a_picture_that_is_too_large_is_not_decoded(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoded, "MAX_PIXELS", 220)
    assert raised(stored(tmp_path / "x", data)) == "17 x 13 pixels"
    monkeypatch.setattr(decoded, "MAX_PIXELS", 221)
    read_image(tmp_path / "x")


def test_a_decompression_bomb(tmp_path: Path) -> None:
    header = bytearray(pillow(np.zeros((1, 1), np.uint8)))
    header[16:24] = (60_000).to_bytes(4, "big") * 2  # 60000 x 60000 in the PNG's first chunk
    header[29:33] = imagecodecs.zlib_crc32(bytes(header[12:29])).to_bytes(4, "big")
    assert "pixels" in raised(stored(tmp_path / "x.png", bytes(header)))


# --- writing


def read_16(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        return np.asarray(picture)


def test_probabilities_as_png_have_steps_of_1_in_65535(tmp_path: Path) -> None:
    values = np.linspace(-0.1, 1.1, 7 * 11, dtype=np.float32).reshape(7, 11)
    write_probabilities(tmp_path / "p.png", values, text={"model": "abc"})
    expected = [[round(min(max(float(v), 0), 1) * 65535) for v in row] for row in values]
    assert np.abs(read_16(tmp_path / "p.png").astype(int) - expected).max() <= 1
    assert read_16(tmp_path / "p.png").max() == 65535
    assert read_16(tmp_path / "p.png").min() == 0
    assert png_text(tmp_path / "p.png") == {"model": "abc"}
    exact = np.arange(60000, 60077).reshape(7, 11) / 65535
    write_probabilities(tmp_path / "p.png", exact)
    assert np.array_equal(read_16(tmp_path / "p.png").ravel(), np.arange(60000, 60077))


@pytest.mark.parametrize("suffix", [".tif", ".TIFF"])
def test_probabilities_as_tiff_are_float32(suffix: str, tmp_path: Path) -> None:
    values = RANDOM.random((7, 11)).astype(np.float32)
    path = tmp_path / f"p{suffix}"
    write_probabilities(path, values, text={"model": "abc"})
    assert np.array_equal(tifffile.imread(path), values)
    assert tifffile.imread(path).dtype == np.float32
    assert b"abc" in path.read_bytes()
    write_probabilities(path, values)
    assert np.array_equal(read_image(path)[:, :, 0], values)


def test_png_text_of_a_large_mask_is_read_without_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path / "x.png", encode_png(Image.fromarray(GREY), text={"model": "abc"}))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", GREY.size - 1)  # of Pillow: more is a warning
    monkeypatch.setattr(Image.Image, "load", None)
    assert png_text(path) == {"model": "abc"}


def test_png_text(tmp_path: Path) -> None:
    data = encode_png(Image.fromarray(GREY), text={"model": "abc", "note": "two\nlines"})
    path = stored(tmp_path / "x.png", data)
    assert png_text(path) == {"model": "abc", "note": "two\nlines"}
    for cut in (1, 4, 11, 12, 13, len(data) - 60, len(data) - 10, len(data)):
        path.write_bytes(data[:-cut])
        assert png_text(path) == {}  # not whole: says nothing
    path.write_bytes(data[:8] + b"x" * 40 + data[-12:])
    assert png_text(path) == {}
    assert png_text(tmp_path / "none.png") == {}
    assert png_text(tmp_path) == {}
    assert png_text(stored(tmp_path / "x.jpg", pillow(SMOOTH, "JPEG"))) == {}
    assert png_text(stored(tmp_path / "plain.png", pillow(GREY))) == {}


# --- channels


def refused(call: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


def test_channels_that_fit() -> None:
    grey_as_colour = np.dstack([GREY] * 3)
    assert np.array_equal(as_channels(RGB, 3), RGB)
    assert np.array_equal(as_channels(GREY, 1), GREY[:, :, None])
    assert np.array_equal(as_channels(GREY[:, :, None], 3), grey_as_colour)
    assert np.array_equal(as_channels(GREY, 3), grey_as_colour)
    assert np.array_equal(as_channels(with_alpha(RGB, 255), 3), RGB)
    assert np.array_equal(as_channels(with_alpha(RGB, GREY), 4), with_alpha(RGB, GREY))
    assert np.array_equal(as_channels(grey_as_colour, 1), GREY[:, :, None])
    assert np.array_equal(as_channels(with_alpha(grey_as_colour, 9), 1), GREY[:, :, None])
    five = np.dstack([GREY] * 5)
    assert as_channels(five, 5) is five


@pytest.mark.parametrize(
    ("array", "channels", "have"),
    [
        (RGB, 1, 3),
        (GREY, 2, 1),
        (GREY, 4, 1),
        (with_alpha(RGB, GREY), 3, 4),
        (with_alpha(RGB, 255), 1, 3),
        (np.dstack([GREY] * 5), 3, 5),
        (RGB, 4, 3),
        (GREY[0], 1, 0),
        (RGB[None], 3, 0),
    ],
)
def test_channels_that_do_not_fit(array: np.ndarray, channels: int, have: int) -> None:
    words = refused(lambda: as_channels(array, channels, path="photo.png"))
    assert "photo.png" in words
    assert f"{have} channel(s)" in words
    assert f"{channels}, as the model" in words


def test_an_empty_mask_on_opaque_black_is_empty(tmp_path: Path) -> None:
    drawn = np.zeros((8, 8, 4), np.uint8)
    drawn[..., 3] = 255
    Image.fromarray(drawn).save(tmp_path / "empty.png")
    assert not read_raw_mask(tmp_path / "empty.png").values.any()
    drawn[2:4, 2:4, :3] = 255
    Image.fromarray(drawn).save(tmp_path / "drawn.png")
    assert read_raw_mask(tmp_path / "drawn.png").values.sum() == 4 * 255


def test_objects_in_the_alpha_of_one_colour(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 4), np.uint8)
    red[..., 0] = 200
    Image.fromarray(red).save(tmp_path / "none.png")
    assert not read_raw_mask(tmp_path / "none.png").values.any()
    red[1:3, 1:3, 3] = 255
    Image.fromarray(red).save(tmp_path / "some.png")
    assert np.array_equal(read_raw_mask(tmp_path / "some.png").values, red[..., 3])


def test_one_bit_tiff_with_white_as_zero(tmp_path: Path) -> None:
    white = np.zeros((8, 16), bool)
    white[2:5, 3:9] = True
    # by itself, tifffile writes so what is not meant so
    tifffile.imwrite(tmp_path / "m.tif", ~white, photometric="miniswhite", software="a scanner")
    assert np.array_equal(read_raw_mask(tmp_path / "m.tif").values, white * 255)


def test_animations_and_formats_that_start_programs_are_refused(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (0, 200)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(ImageError, match="animation of 2 frames"):
        read_image(tmp_path / "a.gif", pages=True)
    (tmp_path / "b.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(ImageError, match="not an image in a format known here"):
        read_image(tmp_path / "b.png")
