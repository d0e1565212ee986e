"""What decoding a file gives, its limits, and the errors for files that fail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contorno.errors import InputError, Problem

Array = NDArray[Any]

MAX_PIXELS = 178_956_970  # Pillow's own limit against decompression bombs: 512 MiB of RGB
MAX_BYTES = 4 * 2**30  # of the file, and decoded: 64 channels of 16 bits at 5,700 x 5,700
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
        notes: "ink" where CMYK became RGB, "negative" where 0 was white.
        lossy: whether compression (JPEG, also in TIFF, or WebP) has changed the values.
    """

    array: Array
    format: str
    palette: Array | None = None
    alpha: bool = False
    orientation: int = 1
    notes: tuple[str, ...] = ()
    lossy: bool = False


def failure(
    path: Path, kind: str, what: str, expected: str, fix: str = "replace or remove the file"
) -> ImageError:
    """The error to raise for one file; `kind` is its stable short name."""
    return ImageError(Problem(str(path), what, expected, fix, kind))


def check_size(path: Path, width: int, height: int, depth: int) -> None:
    """Refuse to decode more than the limits; `depth` is in bytes a pixel."""
    size = f"{width} x {height} pixels"
    if width < 1 or height < 1:
        raise damaged(path, "image", size)
    if width * height > MAX_PIXELS:
        raise too_large(path, size, f"at most {MAX_PIXELS:,} in all")
    if width * height * depth > MAX_BYTES:
        what = f"{width * height * depth:,} bytes when decoded"
        raise too_large(path, what, f"at most {MAX_BYTES:,}")


def too_large(path: Path, what: str, expected: str) -> ImageError:
    """More than the limits."""
    return failure(path, "too-large", what, expected, "cut it into pieces or scale it down")


def damaged(path: Path, name: str, reason: object) -> ImageError:
    """Not all of a file is there, or not as its format wants it."""
    return failure(
        path,
        "damaged",
        f"damaged or truncated ({str(reason) or type(reason).__name__})",
        f"a whole {name} file",
        "copy or export it again, or remove it",
    )


def coloured(indices: Array, palette: Array) -> Array:
    """Colours (..., 3 or 4) of palette indices; an index beyond the palette is black."""
    missing = int(indices.max()) + 1 - len(palette)
    if missing > 0:
        palette = np.pad(palette, ((0, missing), (0, 0)))
    return palette[indices]


def orientation(source: Image.Image | bytes) -> int:
    """EXIF orientation of a picture, or of bare EXIF data; 1 where there is none."""
    try:
        if isinstance(source, bytes):
            exif = Image.Exif()
            exif.load(source)
        else:
            exif = source.getexif()
        return valid_orientation(exif.get(274))
    except Exception:  # broken EXIF data say nothing about the pixels
        return 1


def valid_orientation(orientation: Any) -> int:
    """An EXIF orientation from 1 to 8; 1 for anything else."""
    return int(orientation) if orientation in range(1, 9) else 1


def bytes_of_bits(array: Array) -> Array:
    """One bit a pixel as 0 and 255; anything else as it is.

    The bytes of a true bit tell nothing: they are 255 where Pillow decoded it, 1 elsewhere.
    """
    return np.where(array, np.uint8(255), np.uint8(0)) if array.dtype == np.bool_ else array


def pixels_of(picture: Image.Image, mode: str | None) -> Array:
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
