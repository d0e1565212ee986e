"""The bytes of a file become an array: formats, limits, and what is wrong with a file that fails.

The content decides the format, not the file's extension, and the size is checked before anything
is decoded. PNG goes to libpng through imagecodecs, which keeps 16 bits and checks every byte
(Pillow cuts the one and fills up what a short stream lacks); TIFF to tifffile; the rest to Pillow.
What callers read, pictures and masks, is left to `images`.
"""

from __future__ import annotations

import io
import stat
import struct
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from contorno import decoded
from contorno.decoded import (
    Decoded,
    ImageError,
    bytes_of_bits,
    check_size,
    damaged,
    failure,
    orientation,
    pixels_of,
    too_large,
)
from contorno.hush import hushed
from contorno.tiff import decode_tiff

Array = NDArray[Any]

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
            return decode_tiff(path, data, pages=pages)
        if data[:8] == _PNG_MAGIC:
            return _decode_png(path, data)
        return _decode_with_pillow(path, data)
    except MemoryError:
        raise too_large(path, "a picture that does not fit in memory", "a smaller one") from None


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
        if found.st_size > decoded.MAX_BYTES:
            raise too_large(path, f"{found.st_size:,} bytes", f"at most {decoded.MAX_BYTES:,}")
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
        raise damaged(path, "PNG", "its header is not whole")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    check_size(path, width, height, _PNG_SAMPLES.get(colour, 4) * (2 if depth == 16 else 1))
    if max(width, height) > _PNG_EDGE:
        raise too_large(path, f"{width} x {height} pixels", f"at most {_PNG_EDGE:,} along an edge")
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
        raise damaged(path, "PNG", error) from None
    if indexed and depth < 8:
        array //= np.uint8(255 // (2**depth - 1))  # undo how libpng stretches grey
    return Decoded(
        array.reshape(height, width, -1),
        "PNG",
        _table(chunks.palette, chunks.opacities) if indexed else None,
        alpha=colour in (4, 6),
        orientation=orientation(chunks.exif),
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
                raise damaged(path, "PNG", f"CRC error in chunk {name.decode('latin-1')!r}")
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
        # Warnings of large sizes, which are checked here, and of odd EXIF data.
        with hushed(), Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            check_size(path, *picture.size, len(picture.getbands()))
            frames = getattr(picture, "n_frames", 1)
            if frames > 1 and picture.format != "MPO":  # a photo with a preview
                raise _animation(path, frames)
            if _is_misread(picture, data):
                return _few_greys(data, picture.mode)
            return _from_pillow(picture, data)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise _not_an_image(path, data) from None
    except Image.DecompressionBombError:
        raise too_large(
            path, f"more than {decoded.MAX_PIXELS:,} pixels", "a smaller image"
        ) from None
    except Exception as error:  # Pillow raises many kinds on damaged data
        if name := _known(data):
            raise damaged(path, name, error) from None
        raise _not_an_image(path, data) from None


def _from_pillow(picture: Image.Image, data: bytes) -> Decoded:
    ink = picture.mode == "CMYK"
    array = pixels_of(picture, "RGB" if ink else None)
    palette = None
    if picture.mode == "P":
        palette = _table(bytes(picture.getpalette("RGB") or ()), _opacities(picture))
    return Decoded(
        bytes_of_bits(array),
        "JPEG" if picture.format == "MPO" else str(picture.format),
        palette,
        alpha=picture.mode in ("LA", "RGBA"),
        orientation=orientation(picture),
        notes=("ink",) if ink else (),
        lossy=_is_lossy(picture, data),
    )


def _is_lossy(picture: Image.Image, data: bytes) -> bool:
    """Whether values are not those that were saved; a WebP file tells by the name of a chunk."""
    if picture.format != "WEBP":
        return picture.format in ("JPEG", "MPO")
    at, name = 12, b""
    while at + 8 <= len(data) and name not in (b"VP8 ", b"VP8L"):
        name, length = struct.unpack_from("<4sI", data, at)
        at += 8 + length + length % 2
    return name == b"VP8 "


def _is_misread(picture: Image.Image, data: bytes) -> bool:
    """Whether a BMP is one of 4 or 8 bits that Pillow takes for one of 1 or 8, by its palette."""
    if picture.format != "BMP" or picture.info.get("compression"):
        return False
    at = 24 if _bmp_header(data) == 12 else 28
    bits = int.from_bytes(data[at : at + 2], "little")
    return (picture.mode == "1" and bits > 1) or (picture.mode == "L" and bits < 8)


def _few_greys(data: bytes, mode: str) -> Decoded:
    """Such a BMP: of black and white (mode "1"), or of the greys 0, 1, 2 ... 15.

    With another colour in the place of its first one, which is black, Pillow gives the indices.
    """
    first = 14 + _bmp_header(data)
    changed = data[:first] + b"\1" + data[first + 1 :]
    with Image.open(io.BytesIO(changed), formats=["BMP"]) as picture:
        indices = pixels_of(picture, None)
    return Decoded(bytes_of_bits(indices == 1) if mode == "1" else indices, "BMP")


def _bmp_header(data: bytes) -> int:
    """Length of the second header of a BMP, which the palette follows."""
    return int.from_bytes(data[14:18], "little")


def _opacities(picture: Image.Image) -> bytes:
    """Of the palette entries; Pillow tells all of them, or the one that is transparent."""
    found = picture.info.get("transparency", b"")
    return found if isinstance(found, bytes) else b"\xff" * int(found) + b"\0"


# --- what is wrong


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
        kinds = ", or it is one of 12 bits or without loss" if name == "JPEG" else ""
        return damaged(path, name, f"its header cannot be read{kinds}")
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
