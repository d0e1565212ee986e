"""Reading and writing pictures and masks.

A picture is (H, W, C) in the file's own type (uint8, uint16, int16 or float32), a mask is (H, W) of
integers: grey value, palette index, or a colour packed as 0xRRGGBB. What the numbers of a mask
mean is left to `data.labels`. The content decides the format, not the file's extension, and the
size is checked before anything is decoded.
"""

from __future__ import annotations

import io
import logging
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from contorno.errors import InputError, Problem
from contorno.files import sha256, write_bytes

Array = NDArray[Any]

EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB of RGB
MAX_BYTES = 4 * 2**30  # decoded: 64 channels of 16 bits at 5,700 x 5,700
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # Pillow's others may start programs
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class ImageError(InputError):
    """One file cannot be read as an image; `problem` says why and what to do."""

    def __init__(self, problem: Problem) -> None:
        super().__init__("an image cannot be read", [problem])
        self.problem = problem


@dataclass(frozen=True)
class RawMask:
    """A mask as it stands in its file.

    Args:
        values: (H, W) integers.
        kind: "grey", "palette" (values are indices) or "colour" (values are 0xRRGGBB).
        palette: RGB triples of a palette image, flattened.
    """

    values: Array
    kind: str = "grey"
    palette: tuple[int, ...] = ()


def read_image(path: Path) -> Array:
    """Read a picture as (H, W, C), C = 1 for grey, in the file's own type.

    Alpha is dropped when it is the same everywhere (it says nothing), else kept as last channel.

    Raises:
        ImageError: not a file, not an image, damaged, or larger than `MAX_PIXELS`.
    """
    array, _, _ = _decode(path)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.shape[2] in (2, 4) and np.ptp(array[:, :, -1]) == 0:
        array = array[:, :, :-1]
    return np.ascontiguousarray(array)


def file_digest(path: Path) -> str:
    """SHA-256 of the bytes of an image file.

    Raises:
        ImageError: not a readable file.
    """
    return sha256(_read_file(path))


def read_mask(path: Path) -> Array:
    """The integers of a mask file, (H, W); see `read_raw_mask`."""
    return read_raw_mask(path).values


def read_raw_mask(path: Path) -> RawMask:
    """Read a mask: raw palette index, grey value, or packed colour where channels differ.

    Raises:
        ImageError: as `read_image`, and for masks of fractions or with a varying alpha channel.
    """
    array, mode, palette = _decode(path, raw_palette=True)
    if mode == "P":
        return RawMask(array, "palette", palette)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(255)
    if array.ndim == 3 and array.shape[2] in (2, 4):
        array = _without_alpha(path, array)
    if array.ndim == 3 and array.shape[2] == 3:
        if not (
            np.array_equal(array[..., 0], array[..., 1])
            and np.array_equal(array[..., 0], array[..., 2])
        ):
            return RawMask(_pack_colours(path, array), "colour")
        array = array[:, :, 0]
    if array.ndim == 3:
        if array.shape[2] != 1:
            raise _error(path, f"a mask of {array.shape[2]} channels", "1 or 3 channels")
        array = array[:, :, 0]
    return RawMask(_integers(path, array))


def _without_alpha(path: Path, array: Array) -> Array:
    """Colours of a mask, or its alpha channel where that holds the objects (or says: none)."""
    colours, alpha = array[:, :, :-1], array[:, :, -1:]
    drawn = bool((colours != colours[0, 0]).any())
    if drawn and np.ptp(alpha) > 0:
        raise _error(path, "a mask whose colours and alpha both vary", "one of the two")
    return alpha if not drawn and (np.ptp(alpha) > 0 or not alpha.any()) else colours


def write_mask(
    path: Path,
    values: Array,
    *,
    kind: str = "grey",
    palette: tuple[int, ...] = (),
    text: dict[str, str] | None = None,
) -> None:
    """Write (H, W) integers as PNG: uint8 or uint16 grey, palette index, or packed colour."""
    if kind == "colour":
        picture = Image.fromarray(unpack_colours(values))
    elif kind == "palette":
        picture = Image.fromarray(values.astype(np.uint8), mode="P")
        picture.putpalette(list(palette))
    else:
        picture = Image.fromarray(values.astype(np.uint8 if values.max() < 256 else np.uint16))
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
        with Image.open(path) as picture:
            return {k: v for k, v in getattr(picture, "text", {}).items() if isinstance(v, str)}
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
    if (
        have == 3
        and channels == 1
        and np.array_equal(array[..., 0], array[..., 1])
        and np.array_equal(array[..., 0], array[..., 2])
    ):
        return array[:, :, :1]
    raise ImageError(
        Problem(
            path,
            f"an image of {have} channel(s)",
            f"{channels}, as the model was trained on",
            f"convert the image to {channels} channel(s), or train a model on images like this one",
        )
    )


def unpack_colours(values: Array) -> Array:
    """(H, W) of 0xRRGGBB to (H, W, 3) uint8."""
    return np.stack([(values >> shift) & 255 for shift in (16, 8, 0)], axis=-1).astype(np.uint8)


def _pack_colours(path: Path, array: Array) -> Array:
    if array.dtype != np.uint8:
        raise _error(path, f"a colour mask of type {array.dtype}", "8-bit colours")
    wide = array.astype(np.int32)
    packed: Array = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
    return packed


def _integers(path: Path, array: Array) -> Array:
    if array.dtype.kind in "ui":
        return array
    if not np.isfinite(array).all():
        raise _error(path, "a mask with NaN or infinite values", "whole numbers")
    rounded = np.rint(array)
    if np.array_equal(rounded, array) and np.abs(rounded).max() < 2**31:
        return rounded.astype(np.int32)
    if array.min() >= 0 and array.max() <= 1:  # soft masks 0..1, as float TIFF
        return np.asarray(np.rint(array * 255), np.uint8)
    raise _error(path, "a mask of fractional values", "whole numbers, or values from 0 to 1")


def _decode(path: Path, *, raw_palette: bool = False) -> tuple[Array, str, tuple[int, ...]]:
    """Array, Pillow mode ("" for other readers) and palette of a file."""
    data = _read_file(path)
    if data[:4] in _TIFF_MAGIC:
        return _decode_tiff(path, data, raw_palette=raw_palette)
    if data[:8] == _PNG_MAGIC and data[24:26] in (b"\x10\x02", b"\x10\x06", b"\x10\x04"):
        return _decode_deep_png(path, data), "", ()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                _check_size(path, *picture.size)
                frames = getattr(picture, "n_frames", 1)
                if frames > 1 and picture.format != "MPO":  # a photo with a preview
                    raise _several_pages(path, f"an animation of {frames} frames")
                return _pillow_array(picture, raw_palette=raw_palette)
    except UnidentifiedImageError:
        raise _not_an_image(path, data) from None
    except Image.DecompressionBombError:
        raise _error(path, f"more than {MAX_PIXELS:,} pixels", "a smaller image") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise _error(path, f"damaged or truncated ({error})", "a whole image file") from None


def _pillow_array(picture: Image.Image, *, raw_palette: bool) -> tuple[Array, str, tuple[int, ...]]:
    mode = picture.mode
    if mode == "P":
        if raw_palette:
            return np.asarray(picture), mode, tuple(picture.getpalette("RGB") or ())
        has_alpha = "transparency" in picture.info
        return np.asarray(picture.convert("RGBA" if has_alpha else "RGB")), mode, ()
    if mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        return np.asarray(picture.convert("RGB")), mode, ()
    return np.asarray(picture), mode, ()


def _decode_deep_png(path: Path, data: bytes) -> Array:
    """16-bit RGB(A) and grey+alpha PNG: Pillow would cut them to 8 bits."""
    import imagecodecs

    _check_size(path, int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big"))
    try:
        return np.asarray(imagecodecs.png_decode(data))
    except Exception as error:  # imagecodecs raises its own kinds, all meaning damaged data
        raise _error(path, f"damaged or truncated ({error})", "a whole PNG file") from None


def _decode_tiff(
    path: Path, data: bytes, *, raw_palette: bool
) -> tuple[Array, str, tuple[int, ...]]:
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what is wrong is said once, below
    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tiff:
            page: Any = tiff.pages[0]
            _check_size(path, page.imagewidth, page.imagelength)
            if page.nbytes > MAX_BYTES:
                raise _error(path, f"{page.nbytes:,} bytes when decoded", f"at most {MAX_BYTES:,}")
            array = np.asarray(page.asarray())
            kind, axes, pages = page.photometric, page.axes, len(tiff.pages)
            colours = page.colormap if kind == 3 else None  # (3, 2**bits) uint16
    except ImageError:
        raise
    except Exception as error:  # tifffile and its codecs raise many kinds on damaged data
        raise _error(path, f"damaged or truncated ({error})", "a whole TIFF file") from None
    if pages > 1:
        raise _several_pages(path, f"a TIFF of {pages} pages")
    if axes not in ("YX", "YXS", "SYX") or array.ndim != len(axes):
        raise _error(path, f"a TIFF of shape {array.shape}", "(H, W) or (H, W, C)")
    if axes == "SYX":
        array = np.moveaxis(array, 0, -1)
    table = _colour_table(array, colours)
    if table is not None:
        if raw_palette:
            return array, "P", tuple(table.ravel().tolist())
        return table[array], "", ()
    if kind == 0 and array.dtype.kind in "ub":  # MinIsWhite
        array = ~array
    if kind == 5 and array.ndim == 3 and array.shape[2] == 4 and array.dtype.kind == "u":
        array = _from_ink(array)
    return array, "", ()


def _colour_table(array: Array, colours: Array | None) -> Array | None:
    """(K, 3) uint8 colours of the indices in `array`; None where they do not fit together."""
    if colours is None or array.ndim != 2 or array.dtype.kind != "u":
        return None
    if colours.ndim != 2 or len(colours) != 3 or array.max() >= colours.shape[1]:
        return None
    return (colours.T >> 8).astype(np.uint8)


def _from_ink(array: Array) -> Array:
    """CMYK to RGB as Pillow does it: what the colour lets through of what the black does."""
    most = int(np.iinfo(array.dtype).max)
    light = most - array.astype(np.int64)
    return ((light[..., :3] * light[..., 3:] + most // 2) // most).astype(array.dtype)


def _read_file(path: Path) -> bytes:
    try:
        kind = path.stat().st_mode
        if not stat.S_ISREG(kind):  # a FIFO would block for ever
            raise _error(path, "not a regular file", "an image file")
        data = path.read_bytes()
    except OSError as error:
        raise _error(
            path,
            f"cannot be opened ({error.strerror or error})",
            "a readable file",
            "check that it exists and that you may read it",
        ) from None
    if not data:
        raise _error(path, "an empty file (0 bytes)", "an image file", "copy it again")
    return data


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _error(
            path,
            f"{width} x {height} pixels",
            f"at most {MAX_PIXELS:,} in all",
            "cut it into pieces or scale it down",
        )


def _several_pages(path: Path, what: str) -> ImageError:
    return _error(path, what, "one picture", "save the page to use as a file of its own")


def _not_an_image(path: Path, data: bytes) -> ImageError:
    head = data[:200].lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return _error(
            path, "a git-lfs pointer, not the image itself", "an image file", "run `git lfs pull`"
        )
    if head.startswith((b"<!doctype", b"<html")):
        return _error(path, "a web page, not an image", "an image file", "download it again")
    return _error(path, "not an image in a format known here", "PNG, JPEG, TIFF, BMP, GIF or WebP")


def _error(
    path: Path, what: str, expected: str, fix: str = "replace or remove the file"
) -> ImageError:
    return ImageError(Problem(str(path), what, expected, fix))
