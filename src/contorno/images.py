"""Reading and writing pictures and masks.

A picture is (H, W, C) in the file's own type (uint8, uint16, int16 or float32), a mask is (H, W) of
integers: grey value, palette index, or a colour packed as 0xRRGGBB. What the numbers of a mask
mean is left to `data.labels`, the formats of files to `decoding`.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from contorno.decoded import Decoded, coloured, failure
from contorno.decoded import ImageError as ImageError
from contorno.decoding import decode, read_bytes
from contorno.errors import Problem
from contorno.files import sha256, write_bytes

Array = NDArray[Any]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".jfif", ".tif", ".tiff", ".bmp", ".gif", ".webp")
_SUFFIXES = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "TIFF": (".tif", ".tiff"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "WEBP": (".webp",),
}
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Picture:
    """A picture as it stands in its file.

    Args:
        array: (H, W, C), C = 1 for grey, in the file's own type.
        orientation: of the EXIF data, 1 to 8 (1 when there is none); not applied.
        format: "PNG", "JPEG", "TIFF", "BMP", "GIF" or "WEBP".
        notes: what was done to it; as of `Decoded`.
    """

    array: Array
    orientation: int = 1
    format: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawMask:
    """A mask as it stands in its file.

    Args:
        values: (H, W) integers.
        kind: "grey", "palette" (values are indices) or "colour" (values are 0xRRGGBB).
        palette: RGB triples of a palette image, flattened.
        format: as of a `Picture`.
        coloured: whether the file has channels of colour, also where they are equal everywhere.
        unit: 0 for whole numbers, else what 1 became of a mask of floats from 0 to 1: 255 where it
            has soft edges, 1 where it holds only 0 and 1, which may number classes.
        negative: whether the file has 0 for white; the values are those of 0 for black.
        lossy: whether compression changed the values.
    """

    values: Array
    kind: str = "grey"
    palette: tuple[int, ...] = ()
    format: str = ""
    coloured: bool = False
    unit: int = 0
    negative: bool = False
    lossy: bool = False


def read_picture(path: Path, *, pages: bool = False) -> Picture:
    """Read a picture and what its file says about it.

    Alpha is dropped when it is the same everywhere (it says nothing), else kept as last channel.

    Args:
        path: of the file.
        pages: take the pages of a TIFF as channels, also where the file does not name them so.

    Raises:
        ImageError: not a file, not an image, damaged, several pages, or larger than the limits of
            `decoding`.
    """
    found = decode(path, pages=pages)
    array, alpha = found.array, found.alpha
    if found.palette is not None:
        array, alpha = coloured(array[..., 0], found.palette), found.palette.shape[1] == 4
    if alpha and np.ptp(array[:, :, -1]) == 0:
        array = array[:, :, :-1]
    return Picture(np.ascontiguousarray(array), found.orientation, found.format, found.notes)


def read_image(path: Path, *, pages: bool = False, upright: bool = False) -> Array:
    """The array of `read_picture`, turned as its EXIF data ask for where `upright`."""
    picture = read_picture(path, pages=pages)
    return turn_upright(picture.array, picture.orientation) if upright else picture.array


def read_channels(paths: Sequence[Path], *, pages: bool = False, upright: bool = False) -> Picture:
    """One picture from one file, or from several whose channels are put one after the other.

    Raises:
        ImageError: as `read_picture`; or the files differ in size, type or orientation.
    """
    pictures = [read_picture(path, pages=pages) for path in paths]
    if upright:
        pictures = [
            replace(one, array=turn_upright(one.array, one.orientation), orientation=1)
            for one in pictures
        ]
    first = pictures[0]
    if len(pictures) == 1:
        return first
    for path, other in zip(paths[1:], pictures[1:], strict=True):
        _check_alike(paths[0], first, path, other)
    notes = dict.fromkeys(note for one in pictures for note in one.notes)
    array = np.concatenate([one.array for one in pictures], axis=2)
    return replace(first, array=array, notes=tuple(notes))


def _check_alike(path: Path, picture: Picture, other_path: Path, other: Picture) -> None:
    """The channels of one picture have one size, type and orientation, or an error names both."""
    checks = (
        ("size-mismatch", _size(other.array), _size(picture.array)),
        ("mixed-type", f"type {other.array.dtype}", f"type {picture.array.dtype}"),
        (
            "exif-rotation",
            f"EXIF orientation {other.orientation}",
            f"EXIF orientation {picture.orientation}",
        ),
    )
    for kind, found, wanted in checks:
        if found != wanted:
            raise failure(
                other_path,
                kind,
                f"a channel of {found}",
                f"{wanted}, as {path}: they are channels of one picture",
                "export the channels of a picture alike",
            )


def turn_upright(array: Array, orientation: int) -> Array:
    """Turn and mirror (H, W[, C]) as an EXIF orientation asks for; 1 leaves it as it is."""
    if orientation in (5, 6, 7, 8):
        array = array.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[::-1]
    return np.ascontiguousarray(array)


def wrong_extension(path: Path, format: str) -> Problem | None:
    """A warning where the extension announces another format than the content has."""
    suffix = path.suffix.lower()
    announced = next((name for name, some in _SUFFIXES.items() if suffix in some), format)
    if announced == format or format not in _SUFFIXES:
        return None
    return Problem(
        str(path),
        f"{format} data in a file that ends in {path.suffix}",
        f"the extension {_SUFFIXES[format][0]} (the content decides, so it is read)",
        f"rename it to {path.stem}{_SUFFIXES[format][0]}",
        "wrong-extension",
        "warning",
    )


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of an image file.

    Raises:
        ImageError: not a readable file.
    """
    return sha256(read_bytes(path))


def read_mask(path: Path) -> Array:
    """The integers of a mask file, (H, W); see `read_raw_mask`."""
    return read_raw_mask(path).values


def read_raw_mask(path: Path) -> RawMask:
    """Read a mask: raw palette index, grey value, or packed colour where channels differ.

    Raises:
        ImageError: as `read_image`, and for masks of fractions or with a varying alpha channel.
    """
    found = _decode_mask(path)
    array = found.array
    if found.palette is not None:
        palette = tuple(found.palette[:, :3].ravel().tolist())
        return RawMask(array[..., 0], "palette", palette, found.format)
    if found.alpha:
        array = _without_alpha(path, array)
    if array.shape[2] not in (1, 3):
        raise failure(
            path,
            "not-labels",
            f"a mask of {array.shape[2]} channels",
            "1 or 3 channels",
            "export the mask as one channel of class values",
        )
    within = int(found.lossy)  # level: WebP rounds
    if array.shape[2] == 3 and not _is_grey(array, within=within):
        return RawMask(_pack_colours(path, array), "colour", (), found.format, lossy=found.lossy)
    values, unit = _integers(path, np.ascontiguousarray(array[:, :, 0]))
    coloured, negative = array.shape[2] == 3, "negative" in found.notes
    return RawMask(values, "grey", (), found.format, coloured, unit, negative, found.lossy)


def _decode_mask(path: Path) -> Decoded:
    try:
        return decode(path)
    except ImageError as error:
        if error.problem.kind != "several-pages":
            raise
        fix = "save the page of interest on its own"  # --pages is for images
        raise ImageError(replace(error.problem, fix=fix)) from None


def _is_grey(array: Array, *, within: int = 0) -> bool:
    if within:
        return bool((np.ptp(array, axis=2) <= within).all())
    first = array[..., 0]
    return np.array_equal(first, array[..., 1]) and np.array_equal(first, array[..., 2])


def _without_alpha(path: Path, array: Array) -> Array:
    """Colours of a mask, or its alpha channel where that holds the objects (or says: none)."""
    colours, alpha = array[:, :, :-1], array[:, :, -1:]
    drawn = bool((colours != colours[0, 0]).any())
    if drawn and np.ptp(alpha) > 0:
        raise failure(
            path,
            "both-vary",
            "a mask whose colours and alpha both vary",
            "one of the two",
            "save it without an alpha channel",
        )
    return alpha if not drawn and (np.ptp(alpha) > 0 or not alpha.any()) else colours


def write_mask(
    path: Path,
    values: Array,
    *,
    kind: str = "grey",
    palette: tuple[int, ...] = (),
    text: dict[str, str] | None = None,
) -> None:
    """Write (H, W) integers as PNG: uint8 or uint16 grey, palette index, or packed colour.

    Greys of uint16 stay so, also where all are small: the masks of a set have one type.
    An index beyond the palette is black, as it is read: Pillow would write it with too few bits.
    """
    if kind == "colour":
        picture = Image.fromarray(unpack_colours(values))
    elif kind == "palette":
        picture = Image.fromarray(values.astype(np.uint8), mode="P")
        missing = 3 * (int(values.max()) + 1) - len(palette)
        picture.putpalette([*palette, *[0] * missing])
    else:
        deep = values.dtype == np.uint16 or values.max() > 255
        picture = Image.fromarray(values.astype(np.uint16 if deep else np.uint8))
    write_bytes(path, encode_png(picture, text=text))


def encode_png(picture: Image.Image, *, text: dict[str, str] | None = None) -> bytes:
    """PNG bytes of a picture, with `text` as tEXt chunks."""
    information = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        information.add_text(key, value)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=information, compress_level=3)
    return buffer.getvalue()


def write_probabilities(
    path: Path, probabilities: Array, *, text: dict[str, str] | None = None
) -> None:
    """Write (H, W) probabilities 0..1: 16-bit PNG (step 1/65535), or float32 for `.tif`."""
    if path.suffix.lower() in (".tif", ".tiff"):
        import tifffile

        buffer = io.BytesIO()
        tifffile.imwrite(buffer, probabilities.astype(np.float32), metadata=text or {})
        write_bytes(path, buffer.getvalue())
        return
    sixteen = np.rint(probabilities.clip(0, 1) * 65535).astype(np.uint16)
    write_bytes(path, encode_png(Image.fromarray(sixteen), text=text))


def png_text(path: Path) -> dict[str, str]:
    """The text chunks of a PNG without decoding its pixels; empty for anything else.

    A file that lacks its end marker is not whole and counts as having none.
    """
    try:
        with open(path, "rb") as file:
            if file.read(8) != _PNG_MAGIC:
                return {}
            file.seek(-12, io.SEEK_END)
            if file.read(8)[4:] != b"IEND":
                return {}
        with PngImagePlugin.PngImageFile(path) as picture:  # `text` would decode the pixels
            return {str(k): v for k, v in picture.info.items() if isinstance(v, str)}
    except (OSError, SyntaxError, ValueError):
        return {}


def as_channels(array: Array, channels: int, *, path: str = "image") -> Array:
    """Fit a picture (H, W[, C]) to a model of `channels` channels, (H, W, channels).

    Grey is repeated for a colour model and a colour picture with equal channels taken as grey:
    both keep every value. Nothing else is guessed.

    Raises:
        InputError: the numbers of channels do not fit; both are named.
    """
    array = array[:, :, None] if array.ndim == 2 else array
    have = array.shape[2] if array.ndim == 3 else 0
    if have == channels:
        return array
    if have == 1 and channels == 3:
        return np.repeat(array, 3, axis=2)
    if have == 4 and channels in (1, 3):
        opaque = np.ptp(array[:, :, 3]) == 0
        if opaque:
            return as_channels(array[:, :, :3], channels, path=path)
    if have == 3 and channels == 1 and _is_grey(array):
        return array[:, :, :1]
    raise ImageError(
        Problem(
            path,
            f"an image of {have} channel(s)",
            f"{channels}, as the model was trained on",
            f"convert the image to {channels} channel(s), or train a model on images like this one",
            "mixed-channels",
        )
    )


def unpack_colours(values: Array) -> Array:
    """(H, W) of 0xRRGGBB to (H, W, 3) uint8."""
    return np.stack([(values >> shift) & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)


def _pack_colours(path: Path, array: Array) -> Array:
    if array.dtype != np.uint8:
        raise failure(
            path,
            "not-labels",
            f"a colour mask of type {array.dtype}",
            "8-bit colours",
            "save its colours with 8 bits each",
        )
    wide = array.astype(np.int32)
    packed: Array = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return packed


def _integers(path: Path, array: Array) -> tuple[Array, int]:
    """A grey mask as integers, and its `RawMask.unit`."""
    if array.dtype.kind in "ui":
        if array.max() >= 2**63:
            raise _not_whole(
                path, f"a mask with value {array.max()}", "values of less than 64 bits"
            )
        return array, 0
    if not np.isfinite(array).all():
        raise _not_whole(path, "a mask with NaN or infinite values", "whole numbers")
    rounded, within = np.rint(array), array.min() >= 0 and array.max() <= 1
    if np.array_equal(rounded, array) and float(np.abs(rounded).max()) < 2**31:
        return rounded.astype(np.int32), int(within)
    if within:  # soft masks 0..1, as float TIFF
        return np.asarray(np.rint(array * 255), np.uint8), 255
    raise _not_whole(path, "a mask of fractional values", "whole numbers, or values from 0 to 1")


def _not_whole(path: Path, what: str, expected: str) -> ImageError:
    return failure(path, "not-whole", what, expected, "save class values as 8-bit whole numbers")


def _size(array: Array) -> str:
    return f"{array.shape[1]} x {array.shape[0]} pixels"
