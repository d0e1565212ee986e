"""What a file holds comes out bit by bit, as independent decoders read it; half files do not."""

from __future__ import annotations

import io
import itertools
import os
import socket
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from contorno import decoded
from contorno.decoding import ImageError, decode
from contorno.images import read_image, read_picture, read_raw_mask

RANDOM = np.random.default_rng(0)
PLANES = RANDOM.integers(0, 256, (5, 22, 30), dtype=np.uint8)  # (C, H, W)
PICTURE = np.moveaxis(PLANES, 0, -1)
RGB = RANDOM.integers(0, 256, (40, 48, 3), dtype=np.uint8)
SMOOTH = (np.add.outer(np.arange(64), np.arange(80))[:, :, None] * (1, 2, 3) % 256).astype(np.uint8)
quick = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stored(folder: Path, data: bytes) -> Path:
    path = folder / "x"
    path.write_bytes(data)
    return path


def tiff(array: np.ndarray, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def pillow(picture: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + zlib.crc32(name + body).to_bytes(4, "big")


def png(
    rows: bytes,
    width: int,
    height: int,
    depth: int,
    colour: int,
    *chunks: bytes,
    interlace: int = 0,
) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), *chunks, data, chunk(b"IEND", b"")]
    )


def with_chunk(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with further chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def problem(path: Path, **options: Any) -> tuple[str, str]:
    """Kind and words of the error that reading a file ends in."""
    with pytest.raises(ImageError) as caught:
        read_picture(path, **options)
    found = caught.value.problem
    assert found.path == str(path)
    assert found.severity == "error"
    assert found.fix
    return found.kind, found.what


# --- TIFF


@st.composite
def arrays(draw: st.DrawFn, types: tuple[str, ...], channels: int) -> np.ndarray:
    """(H, W, C) of random numbers over the whole range of a type."""
    shape = draw(st.tuples(*[st.integers(1, 40)] * 2, st.integers(1, channels)))
    dtype = np.dtype(draw(st.sampled_from(types)))
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    if dtype.kind == "f":
        return random.normal(0, 100, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(limits.min, limits.max, shape, dtype, endpoint=True)


@quick
@given(
    array=arrays(
        ("uint8", "uint16", "int16", "float32", "float64", "float16", "int32", "uint32"), 64
    ),
    compression=st.sampled_from([None, "lzw", "zlib", "zstd", "packbits", "lzma"]),
    separate=st.booleans(),
    tiled=st.booleans(),
    rows=st.integers(1, 40),
    predictor=st.booleans(),
    byteorder=st.sampled_from("<>"),
    big=st.booleans(),
)
def test_a_tiff_of_any_kind_comes_back(
    array: np.ndarray,
    compression: str | None,
    separate: bool,
    tiled: bool,
    rows: int,
    predictor: bool,
    byteorder: str,
    big: bool,
    tmp_path: Path,
) -> None:
    several: dict[str, Any] = {}
    stack = array[..., 0]
    if array.shape[2] > 1:
        several = {"planarconfig": "separate" if separate else "contig"}
        stack = np.moveaxis(array, -1, 0) if separate else array
    data = tiff(
        stack,
        photometric="minisblack",
        metadata=None,
        **several,
        compression=compression,
        predictor=predictor and compression in ("lzw", "zlib", "zstd"),
        byteorder=byteorder,
        bigtiff=big,
        **({"tile": (16, 32)} if tiled else {"rowsperstrip": rows}),
    )
    read = read_image(stored(tmp_path, data))
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)
    libtiff = compression not in ("lzma", "zstd") and not (predictor and array.dtype == np.float16)
    if libtiff and not separate:
        assert np.array_equal(imagecodecs.tiff_decode(data).reshape(array.shape), read)


@quick
@given(
    array=arrays(("uint8", "uint16", "float32"), 1),
    count=st.integers(2, 64),
    axes=st.sampled_from(["CYX", "YXC", "TYX", None]),
    compression=st.sampled_from([None, "zlib"]),
    truncate=st.booleans(),
)
def test_pages_are_channels_when_asked_or_named(
    array: np.ndarray,
    count: int,
    axes: str | None,
    compression: str | None,
    truncate: bool,
    tmp_path: Path,
) -> None:
    assume(min(array.shape[:2]) > 1)
    picture = np.dstack([array[..., 0] + array.dtype.type(i) for i in range(count)])
    stack = picture if axes == "YXC" else np.moveaxis(picture, -1, 0)
    metadata = {"axes": axes} if axes else None
    assume(stack.shape[-1] > 1 and stack.shape[0] > 1)
    options: dict[str, Any] = {"truncate": truncate and compression is None and axes is not None}
    data = tiff(
        stack, photometric="minisblack", compression=compression, metadata=metadata, **options
    )
    path = stored(tmp_path, data)
    assert np.array_equal(read_image(path, pages=True), picture)
    if axes in ("CYX", "YXC"):
        assert np.array_equal(read_image(path), picture)
    else:
        width, height = picture.shape[1::-1]
        words = f"a TIFF of {count} pages of {width} x {height} pixels"
        assert problem(path) == ("several-pages", words)


STACKS: dict[str, tuple[bytes, np.ndarray]] = {
    "ome": (tiff(PLANES, ome=True, metadata={"axes": "CYX"}), PICTURE),
    "ome in tiles": (
        tiff(PLANES, ome=True, metadata={"axes": "CYX"}, tile=(16, 16), compression="lzw"),
        PICTURE,
    ),
    "ome of five axes": (
        tiff(PLANES[None, :, None], ome=True, metadata={"axes": "TCZYX"}),
        PICTURE,
    ),
    "ome of colours": (
        tiff(np.stack([RGB, 255 - RGB]), ome=True, photometric="rgb", metadata={"axes": "CYXS"}),
        np.dstack([RGB, 255 - RGB]),
    ),
    "imagej": (tiff(PLANES, imagej=True, metadata={"axes": "CYX"}), PICTURE),
    "white is zero": (
        tiff(PLANES, photometric="miniswhite", metadata={"axes": "CYX"}),
        255 - PICTURE,
    ),
    "separate samples": (
        tiff(PLANES, photometric="minisblack", planarconfig="separate"),
        PICTURE,
    ),
}


@pytest.mark.parametrize("name", STACKS)
def test_axes_that_a_file_names_are_channels(name: str, tmp_path: Path) -> None:
    data, expected = STACKS[name]
    path = stored(tmp_path, data)
    assert np.array_equal(read_image(path), expected)
    assert np.array_equal(read_image(path, pages=True), expected)


UNNAMED: dict[str, tuple[bytes, np.ndarray]] = {
    "written by tifffile": (tiff(PLANES, photometric="minisblack"), PICTURE),
    "in one page": (tiff(PLANES, photometric="minisblack", truncate=True), PICTURE),
    "rows as pages": (tiff(PICTURE, photometric="minisblack"), PICTURE),
    "imagej slices": (tiff(PLANES, imagej=True, metadata={"axes": "ZYX"}), PICTURE),
    "ome times": (tiff(PLANES, ome=True, metadata={"axes": "TYX"}), PICTURE),
    "written by Pillow": (
        pillow(PLANES[0], "TIFF", save_all=True, append_images=map(Image.fromarray, PLANES[1:])),
        PICTURE,
    ),
    "colours": (
        tiff(np.stack([RGB, 255 - RGB]), photometric="rgb"),
        np.dstack([RGB, 255 - RGB]),
    ),
    "palettes": (
        pillow(
            Image.fromarray(RGB).convert("P"),
            "TIFF",
            save_all=True,
            append_images=[Image.fromarray(RGB).convert("P")],
        ),
        np.dstack([np.asarray(Image.fromarray(RGB).convert("P").convert("RGB"))] * 2),
    ),
}


@pytest.mark.parametrize("name", UNNAMED)
def test_other_pages_are_channels_only_when_asked(name: str, tmp_path: Path) -> None:
    data, expected = UNNAMED[name]
    path = stored(tmp_path, data)
    assert problem(path)[0] == "several-pages"
    assert np.array_equal(read_image(path, pages=True), expected)


def test_pages_that_differ_are_no_channels(tmp_path: Path) -> None:
    for other, words in [
        (PLANES[1, :9], "page 2 is 30 x 9 pixels of uint8"),
        (PLANES[1].astype(np.uint16), "page 2 is 30 x 22 pixels of uint16"),
    ]:
        buffer = io.BytesIO()
        with tifffile.TiffWriter(buffer) as writer:
            writer.write(PLANES[0])
            writer.write(other)
        kind, what = problem(stored(tmp_path, buffer.getvalue()), pages=True)
        assert kind == "several-pages"
        assert "page 1 is 30 x 22 pixels of uint8" in what
        assert words in what


@pytest.mark.parametrize("flag", [0, 1])
@pytest.mark.parametrize("order", [1, -1])
def test_a_pyramid_is_one_picture(flag: int, order: int, tmp_path: Path) -> None:
    levels = [(RGB, 0), (RGB[::2, ::2], flag), (RGB[::4, ::4], flag)]
    if flag:
        levels.append((RGB[::7, ::5], 1))  # a thumbnail of another shape
    if order < 0 and not flag:
        return  # nothing tells which one it is
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for level, kind in levels[::order]:
            writer.write(level, photometric="rgb", subfiletype=kind, metadata=None)
    path = stored(tmp_path, buffer.getvalue())
    for pages in (False, True):
        assert np.array_equal(read_image(path, pages=pages), RGB)


def test_smaller_copies_in_sub_images(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(RGB, photometric="rgb", subifds=1)
        writer.write(RGB[::2, ::2], photometric="rgb", subfiletype=1)
    assert np.array_equal(read_image(stored(tmp_path, buffer.getvalue())), RGB)


@pytest.mark.parametrize(
    "compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]
)
@pytest.mark.parametrize("mode", ["L", "RGB", "YCbCr", "CMYK", "P", "1", "I;16", "F"])
def test_tiffs_as_pillow_reads_them(mode: str, compression: str | None, tmp_path: Path) -> None:
    if compression == "jpeg" and mode in ("P", "1", "I;16", "F"):
        return  # cannot be
    grey = Image.fromarray(SMOOTH[..., 0])
    picture = Image.fromarray(SMOOTH).convert(mode) if mode[0] in "LRYCP" else grey.convert(mode)
    path = stored(tmp_path, pillow(picture, "TIFF", compression=compression))
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB") if mode in ("YCbCr", "CMYK", "P") else opened)
    if mode == "1":
        expected = expected * np.uint8(255)
    read = read_picture(path)
    assert read.notes == (("ink",) if mode == "CMYK" else ())
    assert np.array_equal(np.squeeze(read.array), expected)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_faxes(compression: str, tmp_path: Path) -> None:
    bits = SMOOTH[..., 0] > 100
    path = stored(tmp_path, pillow(bits, "TIFF", compression=compression))
    assert np.array_equal(read_image(path)[..., 0], bits * 255)
    assert np.array_equal(read_raw_mask(path).values, bits * 255)


def test_jpeg_in_tiff_is_close(tmp_path: Path) -> None:
    data = tiff(SMOOTH, photometric="rgb", compression="jpeg", tile=(32, 32))
    path = stored(tmp_path, data)
    with Image.open(path) as opened:
        assert np.abs(read_image(path).astype(int) - np.asarray(opened)).max() <= 2


@pytest.mark.parametrize("bits", [2, 4, 12])
def test_white_is_zero_in_few_bits(bits: int, tmp_path: Path) -> None:
    dtype = np.uint8 if bits <= 8 else np.uint16
    values = RANDOM.integers(0, 2**bits, (9, 16)).astype(dtype)
    data = tiff(values, photometric="miniswhite", bitspersample=bits)
    assert np.array_equal(read_image(stored(tmp_path, data))[..., 0], 2**bits - 1 - values)


def test_alpha_stays_where_white_is_zero(tmp_path: Path) -> None:
    grey, alpha = PLANES[:2]
    both = np.dstack([grey, alpha])
    options: dict[str, Any] = {"planarconfig": "contig", "extrasamples": ["unassalpha"]}
    data = tiff(both, photometric="miniswhite", **options)
    assert np.array_equal(read_image(stored(tmp_path, data)), np.dstack([255 - grey, alpha]))


@pytest.mark.parametrize("options", [{}, {"photometric": "minisblack"}, {"compression": "zlib"}])
def test_bits_that_tifffile_wrote_are_what_they_were(
    options: dict[str, str], tmp_path: Path
) -> None:
    """Of bool it makes white-is-zero, unless told otherwise; others mean it."""
    mask = RANDOM.integers(0, 2, (9, 16)).astype(bool)
    assert np.array_equal(read_raw_mask(stored(tmp_path, tiff(mask, **options))).values, 255 * mask)
    meant = tiff(mask, photometric="miniswhite", software="scanner")
    assert np.array_equal(read_raw_mask(stored(tmp_path, meant)).values, 255 * ~mask)


def packed_tiff(values: np.ndarray, bits: int, colormap: bytes) -> bytes:
    """A palette TIFF of one strip; rows must fill whole bytes."""
    shifts = np.arange(bits)[::-1]
    pixels = np.packbits((values[..., None] >> shifts & 1).astype(np.uint8)).tobytes()
    tags = [
        (256, 1, values.shape[1]),
        (257, 1, values.shape[0]),
        (258, 1, bits),
        (259, 1, 1),
        (262, 1, 3),
        (273, 1, 8),
        (277, 1, 1),
        (278, 1, values.shape[0]),
        (279, 1, len(pixels)),
        (320, len(colormap) // 2, 8 + len(pixels)),
    ]
    entries = [struct.pack("<HHII", code, 3 if n > 1 else 4, n, value) for code, n, value in tags]
    start = 8 + len(pixels) + len(colormap)
    tail = struct.pack("<H", len(tags)) + b"".join(entries) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + pixels + colormap + tail


@pytest.mark.parametrize("deep", [True, False])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_in_tiffs(bits: int, deep: bool, tmp_path: Path) -> None:
    values = RANDOM.integers(0, 2**bits, (9, 16)).astype(np.uint8)
    colours = RANDOM.integers(0, 256, (2**bits, 3)).astype(np.uint16)
    colours[0, 0] = 255
    table = colours * 257 if deep else colours  # some programs write 8 bits into the 16
    data = packed_tiff(values, bits, table.T.astype("<u2").tobytes())
    path = stored(tmp_path, data)
    assert np.array_equal(read_image(path), colours[values])
    mask = read_raw_mask(path)
    assert mask.kind == "palette"
    assert np.array_equal(mask.values, values)
    assert mask.palette == tuple(colours.ravel().tolist())


@pytest.mark.parametrize("opaque", [True, False])
def test_a_palette_with_alpha_beside_it(opaque: bool, tmp_path: Path) -> None:
    """As GIMP writes indexed pictures with transparency."""
    indices, alpha = PLANES[0] % 4, np.full_like(PLANES[1], 255) if opaque else PLANES[1]
    picture = Image.fromarray(indices, mode="P")
    picture.putpalette(bytes(RANDOM.integers(0, 256, 12, dtype=np.uint8)))
    both = picture.convert("PA")
    both.putalpha(Image.fromarray(alpha))
    colours = np.asarray(picture.convert("RGB"))
    read = read_image(stored(tmp_path, pillow(both, "TIFF")))
    assert np.array_equal(read, colours if opaque else np.dstack([colours, alpha]))


def test_only_alpha_that_is_the_same_everywhere_is_dropped(tmp_path: Path) -> None:
    array = np.dstack([PICTURE[..., :3], np.full(PICTURE.shape[:2], 7, np.uint8)])
    for extra, channels in (("unassalpha", 3), ("assocalpha", 3), ("unspecified", 4)):
        data = tiff(array, photometric="rgb", extrasamples=[extra])
        assert read_image(stored(tmp_path, data)).shape[2] == channels
    bands = tiff(array, photometric="minisblack", planarconfig="contig")
    assert np.array_equal(read_image(stored(tmp_path, bands)), array)


def test_orientation_of_a_tiff(tmp_path: Path) -> None:
    for value, expected in [(6, 6), (1, 1), (0, 1), (77, 1)]:
        data = tiff(RGB, photometric="rgb", extratags=[(274, 3, 1, value, True)])
        assert read_picture(stored(tmp_path, data)).orientation == expected


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_colours_that_pillow_reads_are_not_turned_twice(
    orientation: int, compression: str | None, tmp_path: Path
) -> None:
    picture = Image.fromarray(SMOOTH).convert("YCbCr")
    plain = read_image(stored(tmp_path, pillow(picture, "TIFF", compression=compression)))
    data = pillow(picture, "TIFF", compression=compression, tiffinfo={274: orientation})
    read = read_picture(stored(tmp_path, data))
    assert read.orientation == orientation
    assert np.array_equal(read.array, plain)  # as it is stored


def test_numbers_that_are_no_pixels(tmp_path: Path) -> None:
    kind, what = problem(stored(tmp_path, tiff(np.zeros((4, 4), np.complex64))))
    assert (kind, what) == ("not-an-image", "a TIFF of complex64")
    lab = pillow(Image.frombytes("LAB", (8, 8), bytes(192)), "TIFF")
    kind, what = problem(stored(tmp_path, lab))
    assert (kind, what[:20]) == ("not-an-image", "a TIFF of Lab colour")


# --- PNG and others


@quick
@given(array=arrays(("uint8", "uint16"), 4), level=st.integers(0, 9))
def test_a_png_of_any_kind_comes_back(array: np.ndarray, level: int, tmp_path: Path) -> None:
    data = imagecodecs.png_encode(
        np.squeeze(array, 2) if array.shape[2] == 1 else array, level=level
    )
    path = stored(tmp_path, data)
    if array.shape[2] in (2, 4) and np.ptp(array[..., -1]) == 0:
        array = array[..., :-1]
    read = read_image(path)
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)
    if array.dtype == np.uint8:
        with Image.open(path) as opened:
            assert np.array_equal(
                np.asarray(opened).reshape(*array.shape[:2], -1)[..., : array.shape[2]], read
            )


@quick
@given(
    depth=st.sampled_from([1, 2, 4, 8]),
    colour=st.sampled_from([0, 3]),
    width=st.integers(1, 40),
    height=st.integers(1, 9),
    seed=st.integers(0, 100),
)
def test_png_of_few_bits_as_pillow_reads_it(
    depth: int, colour: int, width: int, height: int, seed: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    row = (width * depth + 7) // 8
    rows = b"".join(b"\0" + random.bytes(row) for _ in range(height))
    palette = chunk(b"PLTE", random.bytes(3 * 2**depth))
    path = stored(tmp_path, png(rows, width, height, depth, colour, *[palette] * (colour == 3)))
    mask = read_raw_mask(path)
    with Image.open(path) as opened:
        factor = 255 if opened.mode == "1" else 1
        assert np.array_equal(mask.values, np.asarray(opened) * factor)
        assert mask.kind == ("palette" if colour == 3 else "grey")
        assert mask.palette == tuple(opened.getpalette() or ())[: 3 * 2**depth]
        expected = np.asarray(opened.convert("RGB" if colour == 3 else "L"))
    assert np.array_equal(
        np.squeeze(read_image(path), 2) if colour == 0 else read_image(path), expected
    )


def test_png_transparency(tmp_path: Path) -> None:
    table = RANDOM.bytes(12)
    rows = b"\0\0\1\2\3" * 5
    path = stored(
        tmp_path, png(rows, 4, 5, 8, 3, chunk(b"PLTE", table), chunk(b"tRNS", b"\x05\x80"))
    )
    with Image.open(path) as opened:
        assert np.array_equal(read_image(path), np.asarray(opened.convert("RGBA")))
    assert read_raw_mask(path).palette == tuple(table)
    deep = imagecodecs.png_encode(np.arange(60, dtype=np.uint16).reshape(4, 5, 3))
    for data in (pillow(RGB, "PNG"), deep):  # one colour that is to be transparent: left as it is
        plain = read_image(stored(tmp_path, data))
        keyed = with_chunk(data, chunk(b"tRNS", bytes([0, 0, 0, 1, 0, 2])))
        assert np.array_equal(read_image(stored(tmp_path, keyed))[..., :3], plain)


def bmp(indices: np.ndarray, bits: int, palette: list[int], *, height: int = 1) -> bytes:
    """A BMP of 4 or 8 bits with a palette of greys; `height` -1: its first row is the upper one."""
    rows = indices[::-height].astype(np.uint8)
    if bits == 4:
        rows = np.pad(rows, ((0, 0), (0, rows.shape[1] % 2)))
        rows = rows[:, ::2] << 4 | rows[:, 1::2]
    pixels = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).tobytes()
    table = b"".join(bytes([grey, grey, grey, 0]) for grey in palette)
    offset = 54 + len(table)
    size = (indices.shape[1], height * indices.shape[0])
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, 0, len(pixels), 0, 0, len(palette), 0)
    return b"BM" + struct.pack("<III", offset + len(pixels), 0, offset) + header + table + pixels


@pytest.mark.parametrize("height", [1, -1])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("palette", [[0, 255], [255, 0], [0], [*range(16)], [7, 9, 200]])
def test_a_bmp_of_few_greys(palette: list[int], bits: int, height: int, tmp_path: Path) -> None:
    """Pillow takes some of them for pictures of one bit a pixel, or of bytes."""
    indices = RANDOM.integers(0, len(palette), (7, 13))
    path = stored(tmp_path, bmp(indices, bits, palette, height=height))
    grey = np.array(palette, np.uint8)[indices]
    read = read_image(path)
    assert np.array_equal(read, np.repeat(grey[..., None], read.shape[2], axis=2))
    mask = read_raw_mask(path)
    assert np.array_equal(mask.values, indices if mask.kind == "palette" else grey)


def test_an_index_beyond_the_palette_is_black(tmp_path: Path) -> None:
    path = stored(tmp_path, png(b"\0\0\1\2\3" * 5, 4, 5, 8, 3, chunk(b"PLTE", b"abcdef")))
    assert read_image(path)[0].tolist() == [list(b"abc"), list(b"def"), [0] * 3, [0] * 3]
    assert read_raw_mask(path).values[0].tolist() == [0, 1, 2, 3]


def test_orientation_of_a_deep_png(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 8
    deep = imagecodecs.png_encode(RANDOM.integers(0, 65536, (5, 6, 3), dtype=np.uint16))
    for body, expected in [(exif.tobytes()[6:], 8), (exif.tobytes(), 8), (b"junk", 1), (b"", 1)]:
        path = stored(tmp_path, with_chunk(deep, chunk(b"eXIf", body)))
        assert read_picture(path).orientation == expected


def test_chunks_beside_the_pixels_do_not_speak(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """libpng writes a warning to stderr for each chunk that it does not like."""
    odd = [chunk(b"iCCP", b"x\0\0junk"), chunk(b"gAMA", b"\1"), chunk(b"quRK", b"?")]
    data = with_chunk(pillow(RGB, "PNG"), *odd)
    assert np.array_equal(read_image(stored(tmp_path, data)), RGB)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_ink_is_what_pillow_makes_of_it(kind: str, tmp_path: Path) -> None:
    ink = Image.fromarray(np.dstack([SMOOTH, SMOOTH[::-1, :, 0]]), mode="CMYK")
    path = stored(tmp_path, pillow(ink, kind))
    picture = read_picture(path)
    with Image.open(path) as opened:
        assert np.array_equal(picture.array, np.asarray(opened.convert("RGB")))
    assert picture.notes == ("ink",)


def test_large_pictures_are_copied_in_bands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ink = Image.fromarray(SMOOTH).convert("CMYK")
    bits = Image.fromarray(SMOOTH[..., 0] > 9)
    for data in (pillow(SMOOTH, "BMP"), pillow(ink, "JPEG"), pillow(bits, "BMP")):
        path = stored(tmp_path, data)
        whole = read_image(path)
        for band in (1, 80, 999, 80 * 64):
            monkeypatch.setattr(decoded, "_BAND", band)
            assert np.array_equal(read_image(path), whole)


# --- limits


@pytest.mark.parametrize(
    "data",
    [
        pillow(SMOOTH, "PNG"),
        pillow(SMOOTH, "JPEG"),
        pillow(SMOOTH, "WEBP"),
        pillow(Image.fromarray(SMOOTH).convert("P"), "GIF"),
        pillow(SMOOTH, "BMP"),
        tiff(SMOOTH, photometric="rgb", tile=(32, 32)),
        tiff(np.moveaxis(SMOOTH, -1, 0), photometric="minisblack", metadata={"axes": "CYX"}),
    ],
    ids=["png", "jpeg", "webp", "gif", "bmp", "tiled tiff", "pages"],
)
def test_size_is_checked_first(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(tmp_path, data)
    for decoder in ("png_decode", "tiff_decode"):
        monkeypatch.setattr(imagecodecs, decoder, None)
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", None)
    monkeypatch.setattr(decoded, "MAX_PIXELS", 80 * 64 - 1)
    assert problem(path) == ("too-large", "80 x 64 pixels")
    monkeypatch.setattr(decoded, "MAX_PIXELS", 80 * 64)
    monkeypatch.setattr(decoded, "MAX_BYTES", len(data))
    if len(data) < 80 * 64:
        assert problem(path)[0] == "too-large"


def test_pages_together_are_checked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tiff(np.zeros((9, 64, 80), np.uint8), photometric="minisblack", compression="zlib")
    path = stored(tmp_path, data)
    monkeypatch.setattr(decoded, "MAX_BYTES", 9 * 64 * 80 - 1)
    assert problem(path, pages=True) == ("too-large", "46,080 bytes when decoded")
    monkeypatch.setattr(decoded, "MAX_BYTES", 9 * 64 * 80)
    assert read_image(path, pages=True).shape == (64, 80, 9)
    monkeypatch.setattr(decoded, "MAX_BYTES", len(data) - 1)
    assert problem(path) == ("too-large", f"{len(data):,} bytes")


def test_a_tile_larger_than_its_picture(tmp_path: Path) -> None:
    data = bytearray(tiff(np.zeros((16, 16), np.uint8), tile=(16, 16), compression="zlib"))
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        places = [opened.pages[0].tags[code].valueoffset for code in (322, 323)]
        formats = [opened.pages[0].tags[code].dtype for code in (322, 323)]
    for place, kind in zip(places, formats, strict=True):
        size = 2 if kind == 3 else 4
        data[place : place + size] = (65520).to_bytes(size, "little")
    assert problem(stored(tmp_path, bytes(data))) == ("too-large", "65520 x 65520 pixels")


def test_an_edge_beyond_the_limit_of_libpng(tmp_path: Path) -> None:
    path = stored(tmp_path, png(bytes(126), 1_000_001, 1, 1, 0))
    assert problem(path) == ("too-large", "1000001 x 1 pixels")


@pytest.mark.parametrize(
    ("array", "options", "copies"),
    [
        (np.zeros((3000, 1000, 3), np.uint8), {"photometric": "rgb", "compression": "zlib"}, 1),
        (np.zeros((3000, 1000, 4), np.uint8), {"photometric": "separated"}, 2.5),
        (np.zeros((3, 3000, 1000), np.uint8), {"metadata": {"axes": "CYX"}}, 2),
        (np.zeros((3000, 3000), np.uint8), {"photometric": "miniswhite"}, 2),
    ],
    ids=["plain", "ink", "pages", "white is zero"],
)
def test_memory_of_a_file_and_two_copies(
    array: np.ndarray, options: dict[str, Any], copies: float, tmp_path: Path
) -> None:
    options.setdefault("photometric", "minisblack")
    path = stored(tmp_path, tiff(array, **options))
    read_image(path)  # what is imported on the way does not count
    tracemalloc.start()
    try:
        read_image(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size + (copies + 0.2) * array.nbytes


def test_what_does_not_fit_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: bytes) -> None:
        raise MemoryError

    monkeypatch.setattr(imagecodecs, "png_decode", full)
    assert problem(stored(tmp_path, pillow(RGB, "PNG")))[0] == "too-large"


# --- damaged files


def test_a_png_that_ends_early_is_not_filled_up(tmp_path: Path) -> None:
    """Pillow gives black rows for data like these."""
    rows = (b"\0" + bytes(range(90))) * 20
    whole = png(rows, 30, 20, 8, 2)
    assert read_image(stored(tmp_path, whole)).shape == (20, 30, 3)
    assert read_image(stored(tmp_path, whole[:-12])).shape == (20, 30, 3)  # only IEND is lost
    assert problem(stored(tmp_path, png(rows[:-91], 30, 20, 8, 2)))[0] == "damaged"
    assert problem(stored(tmp_path, png(rows[:-1], 30, 20, 8, 2)))[0] == "damaged"
    assert problem(stored(tmp_path, png(b"", 30, 20, 8, 2)))[0] == "damaged"
    assert problem(stored(tmp_path, png(rows, 30, 0, 8, 2)))[0] == "damaged"
    assert problem(stored(tmp_path, png(rows, 30, 20, 8, 3)))[0] == "damaged"  # no palette


@pytest.mark.parametrize("name", [b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"tEXt"])
def test_every_crc_of_a_png_counts(name: bytes, tmp_path: Path) -> None:
    extra = [chunk(b"PLTE", b"abcdef"), chunk(b"tRNS", b"\5"), chunk(b"tEXt", b"a\0b")]
    data = bytearray(png(b"\0\0\1\1\0" * 5, 4, 5, 8, 3, *extra))
    assert read_image(stored(tmp_path, bytes(data))).shape == (5, 4, 4)
    place = data.index(name)
    length = int.from_bytes(data[place - 4 : place], "big")
    data[place + 4 + length] ^= 1
    kind, what = problem(stored(tmp_path, bytes(data)))
    assert kind == "damaged"
    assert "CRC" in what


PARTS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 16},
    "tiles": {"tile": (32, 32)},
    "planes": {"planarconfig": "separate", "rowsperstrip": 32},
}
COMPRESSIONS = (None, "lzw", "zlib", "zstd", "packbits", "jpeg")


def in_parts(compression: str | None, part: str) -> bytes:
    array = np.moveaxis(SMOOTH, -1, 0) if part == "planes" else SMOOTH
    return tiff(array, photometric="rgb", compression=compression, **PARTS[part])


def without_second(data: bytes) -> bytes:
    """A TIFF in which the second strip or tile has no place and no size."""
    changed = bytearray(data)
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        for code in (273, 279, 324, 325):
            if tag := opened.pages[0].tags.get(code):
                size = tag.valuebytecount // tag.count
                changed[tag.valueoffset + size : tag.valueoffset + 2 * size] = bytes(size)
    return bytes(changed)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_tiff_that_was_cut_is_damaged(compression: str | None, part: str, tmp_path: Path) -> None:
    """tifffile's and libjpeg's way is to fill up with zeros or grey."""
    data = in_parts(compression, part)
    path = stored(tmp_path, data)
    read_image(path)
    for cut in (*range(9, len(data), len(data) // 12), len(data) - 4, len(data) - 30):
        assert problem(stored(tmp_path, data[:cut]))[0] == "damaged"


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_a_strip_that_was_never_written(compression: str | None, part: str, tmp_path: Path) -> None:
    data = without_second(in_parts(compression, part))
    kind, what = problem(stored(tmp_path, data))
    assert kind == "damaged"
    assert "never written" in what


def test_tiles_that_gdal_leaves_out_are_empty(tmp_path: Path) -> None:
    nodata = [(42113, 2, 2, "7", True)]
    tiles = tiff(SMOOTH, photometric="rgb", compression="zlib", tile=(32, 32), extratags=nodata)
    path = stored(tmp_path, without_second(tiles))
    expected = SMOOTH.copy()
    expected[:32, 32:64] = 7
    assert np.array_equal(read_image(path), expected)


def test_the_chain_of_pages_has_an_end(tmp_path: Path) -> None:
    data = tiff(SMOOTH[..., 0], metadata=None)
    start = int.from_bytes(data[4:8], "little")
    after = start + 2 + 12 * int.from_bytes(data[start : start + 2], "little")
    assert data[after : after + 4] == bytes(4)
    for offset in (start, len(data) - 1, len(data) + 99, 2**32 - 1):
        changed = data[:after] + offset.to_bytes(4, "little") + data[after + 4 :]
        assert problem(stored(tmp_path, changed))[0] == "damaged"


def with_tag(data: bytes, code: int, *, count: int | None = None, value: int = 0) -> bytes:
    """A TIFF of little-endian tags one of which says something else."""
    with tifffile.TiffFile(io.BytesIO(data)) as opened:
        tag = opened.pages[0].tags[code]
    changed = bytearray(data)
    if count is not None:
        changed[tag.offset + 4 : tag.offset + 8] = count.to_bytes(4, "little")
    else:
        width = 2 if tag.dtype == 3 else 4
        changed[tag.valueoffset : tag.valueoffset + width] = value.to_bytes(width, "little")
    return bytes(changed)


@pytest.mark.parametrize("code", [256, 257, 277])
def test_sizes_that_are_no_numbers(code: int, tmp_path: Path) -> None:
    """A tuple times a large number would fill the memory."""
    data = with_tag(tiff(SMOOTH, photometric="rgb", compression="zlib"), code, count=5)
    assert problem(stored(tmp_path, data))[0] == "damaged"


@pytest.mark.parametrize("mode", ["RGB", "YCbCr", "CMYK"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw", "jpeg"])
def test_rows_without_strips(mode: str, compression: str | None, tmp_path: Path) -> None:
    """Pillow gives black rows for what no strip holds."""
    picture = Image.fromarray(SMOOTH).convert(mode)
    data = with_tag(pillow(picture, "TIFF", compression=compression), 257, value=9999)
    assert problem(stored(tmp_path, data))[0] == "damaged"


HALF: dict[str, bytes] = {
    "jpeg": pillow(SMOOTH, "JPEG"),
    "progressive jpeg": pillow(SMOOTH, "JPEG", progressive=True),
    "bmp": pillow(SMOOTH, "BMP"),
    "gif": pillow(Image.fromarray(SMOOTH).convert("P"), "GIF"),
    "webp": pillow(SMOOTH, "WEBP"),
    "webp lossless": pillow(SMOOTH, "WEBP", lossless=True),
    "fax": pillow(SMOOTH[..., 0] > 100, "TIFF", compression="group4"),
    "lzw by Pillow": pillow(SMOOTH, "TIFF", compression="tiff_lzw"),
    "ycbcr": pillow(Image.fromarray(SMOOTH).convert("YCbCr"), "TIFF"),
    "ome": STACKS["ome"][0],
    "one page for five": tiff(
        PLANES, photometric="minisblack", truncate=True, metadata={"axes": "CYX"}
    ),
}


@pytest.mark.parametrize("name", HALF)
def test_half_a_file_is_damaged(name: str, tmp_path: Path) -> None:
    data = HALF[name]
    whole = read_image(stored(tmp_path, data))
    kinds = set()
    for cut in (*range(40, len(data), max(1, len(data) // 40)), *range(len(data) - 20, len(data))):
        try:
            assert np.array_equal(read_image(stored(tmp_path, data[:cut])), whole)
            assert cut > len(data) - 16  # only an end marker is lost
        except ImageError as error:
            kinds.add(error.problem.kind)
    assert kinds == {"damaged"}


@pytest.mark.parametrize("name", [*STACKS, *UNNAMED])
def test_changed_bytes_in_stacks_give_a_picture_or_an_error(name: str, tmp_path: Path) -> None:
    data, _ = (STACKS | UNNAMED)[name]
    random, kinds = np.random.default_rng(3), set()
    for pages, _ in itertools.product((False, True), range(40)):
        damaged = bytearray(data)
        for place in random.integers(0, random.choice([400, len(data)]), random.integers(1, 5)):
            damaged[place] = random.integers(0, 256)
        try:
            assert read_image(stored(tmp_path, bytes(damaged)), pages=pages).ndim == 3
        except ImageError as error:
            kinds.add(error.problem.kind)
    assert "damaged" in kinds
    assert "" not in kinds


# --- things that are no image

DEEP_JPEG = imagecodecs.jpeg_encode(8 * SMOOTH[..., 0].astype(np.uint16), bitspersample=12)


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        (b"", "empty-file", "an empty file"),
        (b"%PDF-1.4\n", "not-an-image", "a PDF, not an image"),
        (b"\x93NUMPY\1\0", "not-an-image", "a numpy array"),
        (bytes(128) + b"DICM", "not-an-image", "a DICOM file"),
        (b"\0\0\0\x18ftypheic" + bytes(20), "not-an-image", "a HEIC photograph"),
        (b"<html>", "not-an-image", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "not-an-image", "a git-lfs pointer"),
        (b"BM is how this text begins", "not-an-image", "not an image"),
        (b"\xff\xd8\xff\xe0\0", "damaged", "header"),
        (DEEP_JPEG, "damaged", "or it is one of 12 bits or without loss"),
        (b"GIF89a", "damaged", "header"),
        (b"BM" + bytes(9), "damaged", "header"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "damaged", ""),
    ],
)
def test_what_a_file_is_instead(data: bytes, kind: str, words: str, tmp_path: Path) -> None:
    found = problem(stored(tmp_path, data))
    assert found[0] == kind
    assert words in found[1]


def test_things_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    (tmp_path / "dangling.png").symlink_to(tmp_path / "none")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # the names of sockets are short
        listener.bind("socket.png")
        os.chdir(here)
        for name, kind in [
            ("pipe.png", "not-a-file"),
            ("folder.png", "not-a-file"),
            ("socket.png", "not-a-file"),
            ("/dev/zero", "not-a-file"),
            ("loop.png", "cannot-open"),
            ("dangling.png", "cannot-open"),
            ("none.png", "cannot-open"),
            ("a\0b.png", "cannot-open"),
            ("x" * 300, "cannot-open"),
        ]:
            assert problem(tmp_path / name)[0] == kind, name


def test_decoded_says_what_it_is(tmp_path: Path) -> None:
    found = decode(stored(tmp_path, pillow(Image.fromarray(RGB).convert("P"), "PNG")))
    assert found.format == "PNG"
    assert found.palette is not None
    assert found.array.shape == (40, 48, 1)
    assert decode(stored(tmp_path, pillow(np.dstack([RGB, RGB[..., 0]]), "PNG"))).alpha
