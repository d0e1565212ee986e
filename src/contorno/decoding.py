"""The bytes of a file become an array: formats, limits, and what is wrong with a file that fails.

The content decides the format, not the file's extension, and the size is checked before anything
is decoded. PNG goes to libpng through imagecodecs, which keeps 16 bits and checks every byte
(Pillow cuts the one and fills up what a short stream lacks); TIFF to tifffile; the rest to Pillow.
What callers read, pictures and masks, is left to `images`.
"""

from __future__ import annotations

import io
import logging
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from contorno.errors import InputError, Problem

Array = NDArray[Any]

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB of RGB
MAX_BYTES = 4 * 2**30  # of the file, and decoded: 64 channels of 16 bits at 5,700 x 5,700
_FORMATS = ("JPEG", "BMP", "GIF", "WEBP")  # Pillow's others may start programs
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PNG_EDGE = 1_000_000  # libpng's own limit
_FOREIGN = (  # what people take for a picture: where its mark stands, the mark, what it is
    (0, b"%PDF", "a PDF"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"\x89HDF", "an HDF5 file"),
    (0, b"8BPS", "a Photoshop document"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML document"),
    (4, b"jP  ", "a JPEG 2000 picture"),
    (4, b"ftyphei", "a HEIC photograph"),
    (4, b"ftypavif", "an AVIF picture"),
    (128, b"DICM", "a DICOM file"),
)
_YCBCR = 6  # TIFF's photometric interpretation
_JPEG_IN_TIFF = (6, 7, 34892, 33007)  # TIFF's compressions
_TAG_SIZES = dict(
    zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True)
)
_SPARSE = {33550, 34264, 34735, 42112, 42113}  # tags of GDAL, which leaves out empty tiles
_BAND = 2**20  # pixels that Pillow hands over at a time: it keeps 4 bytes for each, and copies


class ImageError(InputError):
    """One file cannot be read as an image; `problem` says why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__("an image cannot be read", [problem])
        self.problem = problem


@dataclass(frozen=True)
class Decoded:
    """What a file holds.

    Args:
        array: (H, W, C) in the file's own type; one bit becomes 0 and 255.
        format: "PNG", "JPEG", "TIFF", "BMP", "GIF" or "WEBP".
        palette: (K, 3 or 4) uint8 colours that the values of `array` point to, if it has some.
        alpha: whether the last channel says how opaque a pixel is.
        orientation: of the EXIF data, 1 to 8; not applied.
        notes: "ink" where CMYK became RGB.
    """

    array: Array
    format: str
    palette: Array | None = None
    alpha: bool = False
    orientation: int = 1
    notes: tuple[str, ...] = ()


def decode(path: Path, *, pages: bool = False) -> Decoded:
    """Read and decode all of a file.

    Args:
        path: of the file.
        pages: take the pages of a TIFF as channels, also where the file does not name them so.

    Raises:
        ImageError: not a readable file, not an image, damaged, too large, or several pages.
    """
    try:
        data = read_bytes(path)
        if data[:4] in _TIFF_MAGIC:
            return _decode_tiff(path, data, pages=pages)
        if data[:8] == _PNG_MAGIC:
            return _decode_png(path, data)
        return _decode_with_pillow(path, data)
    except MemoryError:
        raise _too_large(path, "a picture that does not fit in memory", "a smaller one") from None


def read_bytes(path: Path) -> bytes:
    """All bytes of a regular file that is not empty; never waits, as opening a pipe would.

    Raises:
        ImageError: anything else.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            what = f"{_sort(found.st_mode)}, not a regular file"
            raise failure(path, "not-a-file", what, "an image file")
        if found.st_size > MAX_BYTES:
            raise _too_large(path, f"{found.st_size:,} bytes", f"at most {MAX_BYTES:,}")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise failure(
            path,
            "cannot-open",
            f"cannot be opened ({getattr(error, 'strerror', None) or error})",
            "a readable file",
            "check that it exists and that you may read it",
        ) from None
    if not data:
        raise failure(
            path, "empty-file", "an empty file (0 bytes)", "an image file", "copy it again"
        )
    return data


def failure(
    path: Path, kind: str, what: str, expected: str, fix: str = "replace or remove the file"
) -> ImageError:
    """The error to raise for one file; `kind` is its stable short name."""
    return ImageError(Problem(str(path), what, expected, fix, kind))


# --- PNG


@dataclass
class _Chunks:
    """The parts of a PNG: what libpng needs, and what is read here."""

    kept: list[memoryview | bytes] = field(default_factory=list)
    dropped: bool = False
    palette: bytes = b""
    opacities: bytes = b""
    exif: bytes = b""
    frames: int = 1


def _decode_png(path: Path, data: bytes) -> Decoded:
    import imagecodecs

    if len(data) < 33 or data[8:16] != b"\0\0\0\x0dIHDR":
        raise _damaged(path, "PNG", "its header is not whole")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    _check_size(path, width, height, _PNG_SAMPLES.get(colour, 4) * (2 if depth == 16 else 1))
    if max(width, height) > _PNG_EDGE:
        raise _too_large(path, f"{width} x {height} pixels", f"at most {_PNG_EDGE:,} along an edge")
    chunks = _png_chunks(path, data)
    if chunks.frames > 1:
        raise _animation(path, chunks.frames)
    indexed = colour == 3 and bool(chunks.palette)
    if indexed:  # told that they are grey, libpng gives the indices themselves
        chunks.kept[0] = _as_grey(bytes(chunks.kept[0]))
    if indexed or chunks.dropped:
        data = b"".join([_PNG_MAGIC, *chunks.kept])
    try:
        array = np.asarray(imagecodecs.png_decode(data))
    except MemoryError:
        raise
    except Exception as error:  # imagecodecs raises its own kinds, all meaning damaged data
        raise _damaged(path, "PNG", error) from None
    if indexed and depth < 8:
        array //= np.uint8(255 // (2**depth - 1))  # undo how libpng stretches grey
    return Decoded(
        array.reshape(height, width, -1),
        "PNG",
        _table(chunks.palette, chunks.opacities) if indexed else None,
        alpha=colour in (4, 6),
        orientation=_orientation(chunks.exif),
    )


def _png_chunks(path: Path, data: bytes) -> _Chunks:
    """Take a PNG apart; only the chunks that make up the pixels are kept for libpng.

    It would print a warning about each of the others that it does not like.
    """
    view, chunks, at, name = memoryview(data), _Chunks(), 8, b""
    while at + 8 <= len(data) and name != b"IEND":
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if name[:1].isupper() and name != b"PLTE":
            chunks.kept.append(view[at:end])  # libpng checks these, whole or not
        else:
            body = view[at + 8 : end - 4]
            crc = int.from_bytes(view[end - 4 : end], "big")
            if zlib.crc32(body, zlib.crc32(name)) != crc:
                raise _damaged(path, "PNG", f"CRC error in chunk {name.decode('latin-1')!r}")
            chunks.dropped = True
            _note_chunk(chunks, name, bytes(body))
        at = end
    return chunks


def _note_chunk(chunks: _Chunks, name: bytes, body: bytes) -> None:
    if name == b"PLTE":
        chunks.palette = body[: len(body) // 3 * 3]
    elif name == b"tRNS":
        chunks.opacities = body
    elif name == b"eXIf":
        chunks.exif = body
    elif name == b"acTL":
        chunks.frames = int.from_bytes(body[:4], "big")


def _as_grey(header: bytes) -> bytes:
    """An IHDR chunk with the colour type grey; its CRC stays wrong where it was."""
    changed = header[4:17] + b"\0" + header[18:21]
    crc = int.from_bytes(header[21:], "big") ^ zlib.crc32(header[4:21]) ^ zlib.crc32(changed)
    return header[:4] + changed + crc.to_bytes(4, "big")


def _table(colours: bytes, opacities: bytes) -> Array:
    """Colours (K, 3), or (K, 4) where some of them are not opaque, from their bytes."""
    table = np.frombuffer(colours, np.uint8).reshape(-1, 3)
    if not opacities:
        return table
    alpha = np.frombuffer((opacities + b"\xff" * len(table))[: len(table)], np.uint8)
    return np.column_stack([table, alpha])


# --- JPEG, BMP, GIF, WebP


def _decode_with_pillow(path: Path, data: bytes) -> Decoded:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large sizes, checked below, and of odd EXIF data
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_size(path, *picture.size, len(picture.getbands()))
                frames = getattr(picture, "n_frames", 1)
                if frames > 1 and picture.format != "MPO":  # a photo with a preview
                    raise _animation(path, frames)
                return _from_pillow(picture)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _not_an_image(path, data) from None
    except Image.DecompressionBombError:
        raise _too_large(path, f"more than {MAX_PIXELS:,} pixels", "a smaller image") from None
    except Exception as error:  # Pillow raises many kinds on damaged data
        if name := _known(data):
            raise _damaged(path, name, error) from None
        raise _not_an_image(path, data) from None


def _from_pillow(picture: Image.Image) -> Decoded:
    ink = picture.mode == "CMYK"
    array = _pixels(picture, "RGB" if ink else None)
    palette = None
    if picture.mode == "P":
        palette = _table(bytes(picture.getpalette("RGB") or ()), _opacities(picture))
    return Decoded(
        _bytes_of_bits(array),
        "JPEG" if picture.format == "MPO" else str(picture.format),
        palette,
        alpha=picture.mode in ("LA", "RGBA"),
        orientation=_orientation(picture),
        notes=("ink",) if ink else (),
    )


def _pixels(picture: Image.Image, mode: str | None) -> Array:
    """(H, W, C) of a picture, copied and converted in bands: Pillow takes 4 bytes a pixel."""
    width, height = picture.size
    rows = max(_BAND // width, 1)
    array = np.empty(0)
    for top in range(0, height, rows):
        band = picture if rows >= height else picture.crop((0, top, width, min(top + rows, height)))
        part = np.asarray(band.convert(mode) if mode else band)
        part = part.reshape(*part.shape[:2], -1)
        if rows >= height:
            return part
        if top == 0:
            array = np.empty((height, *part.shape[1:]), part.dtype)
        array[top : top + rows] = part
    return array


def _opacities(picture: Image.Image) -> bytes:
    """Of the palette entries; Pillow tells all of them, or the one that is transparent."""
    found = picture.info.get("transparency", b"")
    return found if isinstance(found, bytes) else b"\xff" * int(found) + b"\0"


def _bytes_of_bits(array: Array) -> Array:
    return array.view(np.uint8) * np.uint8(255) if array.dtype == np.bool_ else array


def _orientation(source: Image.Image | bytes) -> int:
    """EXIF orientation of a picture, or of bare EXIF data; 1 where there is none."""
    try:
        if isinstance(source, bytes):
            exif = Image.Exif()
            exif.load(source)
        else:
            exif = source.getexif()
        return _valid(exif.get(274))
    except Exception:  # broken EXIF data say nothing about the pixels
        return 1


def _valid(orientation: Any) -> int:
    return int(orientation) if orientation in range(1, 9) else 1


# --- TIFF


@dataclass(frozen=True)
class _Layout:
    """How the pages of a TIFF make up one array.

    Args:
        pages: in the order of `axes`.
        axes: one letter for each axis of the stacked planes, samples left out.
        shape: its lengths.
        series: of tifffile, where one page stands for several that follow it without tags.
    """

    pages: list[Any]
    axes: str
    shape: tuple[int, ...]
    series: Any = None

    def length(self, axis: str) -> int:
        return self.shape[self.axes.index(axis)]

    @property
    def unnamed(self) -> int:
        """Pages that the file does not call channels."""
        return prod(n for a, n in zip(self.axes, self.shape, strict=True) if a not in "YXC")


def _decode_tiff(path: Path, data: bytes, *, pages: bool) -> Decoded:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said once, below
    others = ("mmstack", "ndtiff", "scanimage", "ndpi", "mdgel")  # other files, other pixels
    flags: Any = {f"is_{kind}": False for kind in others}
    try:
        with tifffile.TiffFile(io.BytesIO(data), name=path.name, _multifile=False, **flags) as tiff:
            _check_chain(data, tiff.tiff)
            chain = list(tiff.pages)
            _check_numbers(chain)
            layout = _layout(tiff, _main_pages(chain))
            _check_layout(path, layout, pages=pages)
            for page in layout.pages:
                _check_segments(page, data)
            return _stack(layout, data)
    except (ImageError, MemoryError):
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds on damaged data
        raise _damaged(path, "TIFF", error) from None


def _check_chain(data: bytes, form: Any) -> None:
    """Follow the pages to their end; tifffile leaves out what a truncated file lacks.

    Raises:
        ValueError: a page or one of its tags lies beyond the end, or the pages run in a circle.
    """
    (offset,) = struct.unpack_from(form.offsetformat, data, 8 if form.offsetsize == 8 else 4)
    seen: set[int] = set()
    while offset:
        if offset in seen or offset + form.tagnosize > len(data):
            raise ValueError(f"page {len(seen) + 1} is not in the file")
        seen.add(offset)
        (tags,) = struct.unpack_from(form.tagnoformat, data, offset)
        first = offset + form.tagnosize
        after = first + tags * form.tagsize
        if after + form.offsetsize > len(data):
            raise ValueError(f"the tags of page {len(seen)} are not whole")
        for at in range(first, after, form.tagsize):
            _check_tag(data, form, at)
        (offset,) = struct.unpack_from(form.offsetformat, data, after)


def _check_tag(data: bytes, form: Any, at: int) -> None:
    """See that the value of a tag that pixels depend on is there; private ones do not matter."""
    order, big = form.byteorder, form.offsetsize == 8
    code, kind, count = struct.unpack_from(f"{order}HH{'Q' if big else 'I'}", data, at)
    size = count * _TAG_SIZES.get(kind, 0)
    if code < 700 and size > form.offsetsize:
        (offset,) = struct.unpack_from(form.offsetformat, data, at + form.tagsize - form.offsetsize)
        if offset + size > len(data):
            raise ValueError(f"the value of tag {code} is not in the file")


def _check_numbers(chain: list[Any]) -> None:
    """See that sizes are numbers: multiplied, a tuple from a damaged tag would fill the memory."""
    for page in chain:
        for size in (*page.shaped, page.tilewidth, page.tilelength, page.tiledepth):
            if not isinstance(size, int):
                raise ValueError("a size that is no number")


def _main_pages(chain: list[Any]) -> list[Any]:
    """The pages that are pictures, not smaller copies or transparency masks of another one."""
    main = [page for page in chain if not page.subfiletype & 0b101] or chain[:1]
    return main[:1] if all(_is_level(small, large) for large, small in pairwise(main)) else main


def _is_level(small: Any, large: Any) -> bool:
    """Whether a page is the next level of a pyramid: 2 to 4 times smaller in both directions."""
    return any(
        abs(large.imagewidth / factor - small.imagewidth) < 1
        and abs(large.imagelength / factor - small.imagelength) < 1
        for factor in (2, 3, 4)
    )


def _layout(tiff: Any, main: list[Any]) -> _Layout:
    """The layout that the file names (OME, ImageJ and others), or else page after page."""
    page = main[0]
    plane = page.shaped[1:4]  # depth, length, width
    plain = _Layout(main, "IZYX", (len(main), *plane))
    try:
        series = tiff.series[0]
        order = [each.index for each in series.pages]
    except Exception:  # names that make no sense; the pages speak for themselves
        return plain
    named = [(axis, n) for axis, n in zip(series.axes, series.shape, strict=True) if axis != "S"]
    axes, shape = "".join(axis for axis, _ in named), tuple(n for _, n in named)
    pages = {each.index: each for each in main}
    if "Y" not in axes or "X" not in axes or sorted(order) != sorted(pages):
        return plain  # of several series, or of other files
    if len(main) == 1:
        planes, rest = divmod(series.nbytes, page.nbytes)
        virtual = planes > 1 and not rest and prod(shape) == planes * prod(plane)
        return _Layout(main, axes, shape, series) if virtual else plain
    if prod(shape) != prod(plain.shape):
        return plain
    if axes == "QYX" and 4 * shape[2] <= min(shape[:2]) and shape[2] <= 64:
        axes = "YXI"  # an array (H, W, C) that tifffile stored row by row, and says no more about
    return _Layout([pages[index] for index in order], axes, shape)


def _check_layout(path: Path, layout: _Layout, *, pages: bool) -> None:
    """Refuse several pictures, pages that differ, and what is too large or of no known type."""
    page = layout.pages[0]
    if layout.unnamed > 1 and not pages:
        count = prod(layout.shape) // max(page.imagewidth * page.imagelength, 1)
        raise failure(
            path,
            "several-pages",
            f"a TIFF of {count} pages of {_size(page)}",
            "one picture",
            "give --pages to take the pages as channels, or save the page of interest on its own",
        )
    for other in layout.pages:
        if (other.shaped, other.dtype) != (page.shaped, page.dtype):
            raise failure(
                path,
                "several-pages",
                f"a TIFF whose pages differ: page {page.index + 1} is {_size(page)} of "
                f"{page.dtype}, page {other.index + 1} is {_size(other)} of {other.dtype}",
                "pages of one size and type",
                "save the page of interest on its own",
            )
    if page.dtype is None or page.dtype.kind not in "buif":
        raise failure(
            path,
            "not-an-image",
            f"a TIFF of {page.dtype or f'{page.bitspersample} bits a sample'}",
            "whole or floating-point numbers of 8 to 64 bits",
            "convert it to 8 or 16 bits, or to float32",
        )
    samples = page.shaped[0] * page.shaped[4] * page.dtype.itemsize
    height, width = layout.length("Y"), layout.length("X")
    _check_size(path, width, height, prod(layout.shape) * samples // max(height * width, 1))
    if page.is_tiled:
        _check_size(path, page.tilewidth, page.tilelength, page.tiledepth * samples)


def _check_segments(page: Any, data: bytes) -> None:
    """See that all strips or tiles are there; decoders fill up some of what is missing.

    Raises:
        ValueError: some are missing or cut.
    """
    if page.is_contiguous and not _for_pillow(
        page
    ):  # read in one piece, which fails where it is short
        if page.dataoffsets[0] == 0:
            raise ValueError("its pixels were never written")
        return
    needed = prod(page.chunked)
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    beyond = sum(offset + count > len(data) for offset, count in segments)
    if beyond:
        raise ValueError(f"{beyond} of {needed} strips or tiles lie beyond the end of the file")
    written = sum(bool(offset and count) for offset, count in segments)
    if written < needed and not _SPARSE & set(page.tags.keys()):
        raise ValueError(f"{needed - written} of {needed} strips or tiles were never written")
    if page.compression in _JPEG_IN_TIFF:
        for offset, count in segments:
            end = offset + count
            if count and data.rfind(b"\xff\xd9", max(offset, end - 64), end) < 0:
                raise ValueError("a strip or tile of JPEG data lacks its end")


def _stack(layout: _Layout, data: bytes) -> Decoded:
    """Decode the pages of a layout and bring its axes into the order Y, X, all others."""
    page = layout.pages[0]
    count = prod(layout.shape) // prod(page.shaped[1:4])
    palette = _tiff_palette(page)
    stack = np.empty(0)
    for index, raw in enumerate(_raw_pages(layout, data)):
        part = _light(layout.pages[index if layout.series is None else 0], raw)  # (D, H, W, S)
        if palette is not None and count > 1:
            part = coloured(part[..., 0], palette)
        if count == 1:
            stack = part
        elif index == 0:
            stack = np.empty((count, *part.shape), part.dtype)
        if count > 1:
            stack[index] = part
    y, x = layout.axes.index("Y"), layout.axes.index("X")
    order = [y, x, *(i for i in range(len(layout.axes)) if i not in (y, x)), len(layout.axes)]
    stack = stack.reshape(*layout.shape, -1).transpose(order)
    indexed = palette is not None and count == 1
    return Decoded(
        _bytes_of_bits(stack.reshape(*stack.shape[:2], -1)),
        "TIFF",
        palette if indexed else None,
        alpha=count == 1 and _has_alpha(page),
        orientation=_valid(page.tags.valueof(274)),
        notes=("ink",) if _is_ink(page) else (),
    )


def _raw_pages(layout: _Layout, data: bytes) -> Iterator[Array]:
    """The pages as tifffile gives them: (separate samples, D, H, W, contiguous samples)."""
    page = layout.pages[0]
    if layout.series is not None:
        yield from layout.series.asarray().reshape(-1, *page.shaped)
        return
    for each in layout.pages:
        if _for_pillow(each):
            with Image.open(io.BytesIO(data), formats=("TIFF",)) as picture:
                picture.seek(each.index)
                yield _pixels(picture, "RGB")[None, None]
        else:
            yield each.asarray(squeeze=False)


def _for_pillow(page: Any) -> bool:
    """Whether the colours are such as tifffile hands over unchanged."""
    return page.photometric == _YCBCR and page.compression not in _JPEG_IN_TIFF


def _light(page: Any, raw: Array) -> Array:
    """(D, H, W, S) of a page in which large values are bright."""
    planes = np.moveaxis(raw, 0, -1)
    planes = planes.reshape(*planes.shape[:3], -1)
    if _is_ink(page):
        return _from_ink(planes)
    if page.photometric == 0 and planes.dtype.kind == "b":  # MinIsWhite
        return np.asarray(~planes)
    if page.photometric == 0 and planes.dtype.kind == "u" and isinstance(page.bitspersample, int):
        return np.asarray(planes.dtype.type(2**page.bitspersample - 1) - planes)
    if page.photometric == 3 and planes.dtype.kind == "b":  # indices of a palette of two
        return planes.view(np.uint8)
    return planes


def _tiff_palette(page: Any) -> Array | None:
    """(K, 3) uint8; None where there is none, or one that does not fit the page."""
    colours = page.colormap if page.photometric == 3 else None  # (3, 2**bits) uint16
    if colours is None or page.samplesperpixel != 1 or page.dtype.kind not in "bu":
        return None
    if colours.ndim != 2 or len(colours) != 3:
        return None
    wide = colours.max() > 255  # some programs write 8 bits into the 16
    return np.ascontiguousarray((colours.T >> 8 if wide else colours.T).astype(np.uint8))


def _is_ink(page: Any) -> bool:
    cmyk = page.photometric == 5 and page.tags.valueof(332, 1) == 1
    return bool(cmyk and page.samplesperpixel == 4 and page.dtype.kind == "u")


def _from_ink(planes: Array) -> Array:
    """CMYK to RGB as Pillow does it: what the colour lets through of what the black does."""
    most = int(np.iinfo(planes.dtype).max)
    light = np.empty((*planes.shape[:-1], 3), planes.dtype)
    flat, out = planes.reshape(-1, 4), light.reshape(-1, 3)
    for start in range(0, len(flat), 2**16):  # in pieces: the product needs wider numbers
        wide = most - flat[start : start + 2**16].astype(np.uint64)
        out[start : start + 2**16] = (wide[:, :3] * wide[:, 3:] + most // 2) // most
    return light


def _has_alpha(page: Any) -> bool:
    if page.samplesperpixel not in (2, 4) or page.photometric == 5:
        return False
    if not page.extrasamples:
        return bool(page.photometric == 2 and page.samplesperpixel == 4)
    return page.extrasamples[-1] in (1, 2)  # associated, unassociated


def coloured(indices: Array, palette: Array) -> Array:
    """Colours (..., 3 or 4) of palette indices; an index beyond the palette is black."""
    missing = int(indices.max()) + 1 - len(palette)
    if missing > 0:
        palette = np.pad(palette, ((0, missing), (0, 0)))
    return palette[indices]


# --- what is wrong


def _check_size(path: Path, width: int, height: int, depth: int) -> None:
    """Refuse to decode more than the limits; `depth` is in bytes a pixel."""
    size = f"{width} x {height} pixels"
    if width < 1 or height < 1:
        raise _damaged(path, "image", size)
    if width * height > MAX_PIXELS:
        raise _too_large(path, size, f"at most {MAX_PIXELS:,} in all")
    if width * height * depth > MAX_BYTES:
        what = f"{width * height * depth:,} bytes when decoded"
        raise _too_large(path, what, f"at most {MAX_BYTES:,}")


def _too_large(path: Path, what: str, expected: str) -> ImageError:
    return failure(path, "too-large", what, expected, "cut it into pieces or scale it down")


def _damaged(path: Path, name: str, reason: object) -> ImageError:
    return failure(
        path,
        "damaged",
        f"damaged or truncated ({str(reason) or type(reason).__name__})",
        f"a whole {name} file",
        "copy or export it again, or remove it",
    )


def _animation(path: Path, frames: int) -> ImageError:
    return failure(
        path,
        "several-pages",
        f"an animation of {frames} frames",
        "one picture",
        "save the frame of interest on its own",
    )


def _not_an_image(path: Path, data: bytes) -> ImageError:
    """Say what a file is instead of a picture, as far as its first bytes tell."""
    if name := _known(data):
        return _damaged(path, name, "its header cannot be read")
    head = data[:200].lstrip().lower()
    wanted = "PNG, JPEG, TIFF, BMP, GIF or WebP"
    if head.startswith(b"version https://git-lfs"):
        what, fix = "a git-lfs pointer, not the image itself", "run `git lfs pull`"
    elif head.startswith((b"<!doctype", b"<html")):
        what, fix = "a web page, not an image", "download it again"
    elif name := next((name for at, mark, name in _FOREIGN if data.startswith(mark, at)), ""):
        what, fix = f"{name}, not an image", "convert it to PNG or TIFF"
    else:
        what, fix = "not an image in a format known here", "convert it, or remove it"
    return failure(path, "not-an-image", what, wanted, fix)


def _known(data: bytes) -> str:
    """The format that the first bytes announce to Pillow, or nothing."""
    if data[:3] == b"\xff\xd8\xff":
        return "JPEG"
    if data[:2] == b"BM" and data[6:10] == bytes(4):
        return "BMP"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "GIF"
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _sort(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _size(page: Any) -> str:
    return f"{page.imagewidth} x {page.imagelength} pixels"
