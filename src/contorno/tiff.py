"""The bytes of a TIFF become an array: pages, channels, compressions, and every kind of damage.

tifffile reads the structure and most of the pixels; it fills with zeros what is missing, so what
must be there is checked before.
"""

from __future__ import annotations

import io
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contorno.decoded import (
    Decoded,
    ImageError,
    bytes_of_bits,
    check_size,
    coloured,
    damaged,
    failure,
    pixels_of,
    valid_orientation,
)

Array = NDArray[Any]

_YCBCR = 6  # TIFF's photometric interpretation
_LAB = (8, 9, 10)
_JPEG_IN_TIFF = (6, 7, 34892, 33007)  # TIFF's compressions
_TAG_SIZES = dict(
    zip(range(1, 19), (1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8, 8, 8), strict=True)
)
_SPARSE = {33550, 34264, 34735, 42112, 42113}  # tags of GDAL, which leaves out empty tiles


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


def decode_tiff(path: Path, data: bytes, *, pages: bool) -> Decoded:
    """Decode all of a TIFF; see `decoding.decode`."""
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
        raise damaged(path, "TIFF", error) from None


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
            "save the page of interest on its own, or train with --pages, for pages as channels",
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
    if page.photometric in _LAB and page.samplesperpixel > 1:
        raise failure(
            path,
            "not-an-image",
            "a TIFF of Lab colours, whose numbers jump where a colour is nearly grey",
            "grey, RGB, CMYK or a palette",
            "convert it to RGB",
        )
    samples = page.shaped[0] * page.shaped[4] * page.dtype.itemsize
    height, width = layout.length("Y"), layout.length("X")
    check_size(path, width, height, prod(layout.shape) * samples // max(height * width, 1))
    if page.is_tiled:
        check_size(path, page.tilewidth, page.tilelength, page.tiledepth * samples)


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
    indexed = palette is not None and count == 1 and page.samplesperpixel == 1
    stack = np.empty(0)
    for index, raw in enumerate(_raw_pages(layout, data)):
        part = _light(layout.pages[index if layout.series is None else 0], raw)  # (D, H, W, S)
        if palette is not None and not indexed:
            part = np.concatenate([coloured(part[..., 0], palette), part[..., 1:]], axis=-1)
        if count == 1:
            stack = part
        elif index == 0:
            stack = np.empty((count, *part.shape), part.dtype)
        if count > 1:
            stack[index] = part
    y, x = layout.axes.index("Y"), layout.axes.index("X")
    order = [y, x, *(i for i in range(len(layout.axes)) if i not in (y, x)), len(layout.axes)]
    stack = stack.reshape(*layout.shape, -1).transpose(order)
    return Decoded(
        bytes_of_bits(stack.reshape(*stack.shape[:2], -1)),
        "TIFF",
        palette if indexed else None,
        alpha=count == 1 and _has_alpha(page),
        orientation=valid_orientation(page.tags.valueof(274)),
        notes=("ink",) if _is_ink(page) else ("negative",) if _is_negative(page) else (),
        lossy=page.compression in _JPEG_IN_TIFF,
    )


def _raw_pages(layout: _Layout, data: bytes) -> Iterator[Array]:
    """The pages as tifffile gives them: (separate samples, D, H, W, contiguous samples)."""
    page = layout.pages[0]
    if layout.series is not None:
        yield from layout.series.asarray().reshape(-1, *page.shaped)
        return
    for each in layout.pages:
        if _for_pillow(each):
            with Image.open(io.BytesIO(_as_stored(each, data)), formats=("TIFF",)) as picture:
                picture.seek(each.index)
                yield pixels_of(picture, "RGB")[None, None]
        else:
            yield each.asarray(squeeze=False)


def _for_pillow(page: Any) -> bool:
    """Whether the colours are such as tifffile hands over unchanged."""
    return page.photometric == _YCBCR and page.compression not in _JPEG_IN_TIFF


def _as_stored(page: Any, data: bytes) -> bytes:
    """The file without the orientation of a page: Pillow turns what it reads, here callers do."""
    tag = page.tags.get(274)
    if tag is None or tag.value == 1:
        return data
    at, size = tag.valueoffset, _TAG_SIZES[tag.dtype]
    order: Any = "little" if page.parent.byteorder == "<" else "big"
    return data[:at] + (1).to_bytes(size, order) + data[at + size :]


def _light(page: Any, raw: Array) -> Array:
    """(D, H, W, S) of a page in which large values are bright."""
    planes = np.moveaxis(raw, 0, -1)
    planes = planes.reshape(*planes.shape[:3], -1)
    if _is_ink(page):
        return _from_ink(planes)
    if page.photometric == 0 and planes.dtype.kind == "b":  # MinIsWhite
        # What tifffile writes for an array of bool, although its True is meant to be 1.
        return planes if page.software == "tifffile.py" else np.asarray(~planes)
    if _is_negative(page):
        light = np.asarray(planes.dtype.type(2**page.bitspersample - 1) - planes)
        if _has_alpha(page):
            light[..., -1] = planes[..., -1]
        return light
    if page.photometric == 3 and planes.dtype.kind == "b":  # indices of a palette of two
        return planes.view(np.uint8)
    return planes


def _tiff_palette(page: Any) -> Array | None:
    """(K, 3) uint8; None where there is none, or one that does not fit the page."""
    colours = page.colormap if page.photometric == 3 else None  # (3, 2**bits) uint16
    with_alpha = page.samplesperpixel == 2 and page.dtype == np.uint8 and _has_alpha(page)
    if colours is None or page.dtype.kind not in "bu":
        return None
    if page.samplesperpixel != 1 and not with_alpha:
        return None
    if colours.ndim != 2 or len(colours) != 3:
        return None
    wide = colours.max() > 255  # some programs write 8 bits into the 16
    return np.ascontiguousarray((colours.T >> 8 if wide else colours.T).astype(np.uint8))


def _is_negative(page: Any) -> bool:
    """Whether whole numbers of several bits are stored with 0 for white."""
    deep = page.dtype.kind == "u" and isinstance(page.bitspersample, int)
    return bool(page.photometric == 0 and deep)


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


def _size(page: Any) -> str:
    return f"{page.imagewidth} x {page.imagelength} pixels"
