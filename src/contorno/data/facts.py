"""What one look at a pair of files finds; enough to plan and to judge without decoding it again.

Problems of one pair are found here; those that only the whole set shows are `dataset`'s (what
cannot be trained on) and `check`'s (what looks wrong).
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from contorno.ahead import in_order
from contorno.data.duplicates import thumbnail
from contorno.data.evidence import MaskFacts, look_at
from contorno.data.labels import IGNORE, Labels
from contorno.data.pairs import Pair
from contorno.errors import Problem
from contorno.images import (
    ImageError,
    Picture,
    RawMask,
    read_channels,
    read_raw_mask,
    turn_upright,
    wrong_extension,
)

Array = NDArray[Any]
T = TypeVar("T")
TYPES = ("uint8", "uint16", "int16", "float32")
LEVELS = (0.0, 0.1, 0.5, 1, 5, 25, 50, 75, 95, 99, 99.5, 99.9, 100.0)  # percentiles
_SAMPLE = 16_384  # pixels of an image that percentiles are computed from
_TINY = 16  # pixels: less is no picture to segment
_LONG = 10  # times longer than wide


@dataclass(frozen=True)
class Statistics:
    """Brightness of one image, and what is in its files.

    Args:
        sums, squares: per channel, over all pixels.
        lows, highs: smallest and largest value per channel.
        levels: (channels, len(LEVELS)) percentiles.
        sharpness: per channel; see `sharpness`.
        digest: SHA-256 of all decoded values.
    """

    sums: tuple[float, ...]
    squares: tuple[float, ...]
    lows: tuple[float, ...]
    highs: tuple[float, ...]
    levels: Array
    sharpness: tuple[float, ...]
    digest: bytes

    def mean_and_spread(self, pixels: int) -> tuple[Array, Array]:
        """Mean and standard deviation of each channel of an image of so many pixels."""
        mean = np.array(self.sums) / pixels
        return mean, np.sqrt(np.maximum(np.array(self.squares) / pixels - mean**2, 0))


@dataclass(frozen=True)
class Facts:
    """What is known of one good pair.

    Args:
        shape: (H, W, C), upright.
        dtype: of the image.
        low, high: smallest and largest value of the image.
        masks: what each mask tells.
        turned: whether the rotation that EXIF asks for was applied, since only then the mask fits.
        as_stored: whether EXIF asks for a rotation, and the mask fits only without it.
        exif: whether EXIF asks for one, and the sizes cannot tell if the mask expects it.
        check: quick checksums of image and mask, equal for equal contents.
        thumbnail: see `duplicates.thumbnail`.
        statistics: None where not asked for.
        findings: warnings and notes on this pair.
    """

    shape: tuple[int, int, int]
    dtype: str
    low: float
    high: float
    masks: tuple[MaskFacts, ...]
    turned: bool
    as_stored: bool
    exif: bool
    check: tuple[bytes, bytes]
    thumbnail: Array
    statistics: Statistics | None
    findings: tuple[Problem, ...]

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    def class_pixels(self, labels: Labels) -> list[int]:
        """Pixels of each scored class."""
        parts = zip(self.masks, labels.parts or (labels,), strict=True)
        counted = [_class_pixels(mask, part) for mask, part in parts]
        return [one[0] for one in counted] if labels.multilabel else counted[0]


@dataclass(frozen=True)
class Examined:
    """A good pair's facts, image (H, W, C) and raw masks."""

    facts: Facts
    image: Array
    masks: tuple[RawMask, ...]


Good = list[tuple[Pair, Facts]]


def examine(
    pair: Pair, *, pages: bool = False, upright: bool = False, statistics: bool = False
) -> Examined | list[Problem]:
    """Decode one pair and look at it.

    Args:
        pair: the files.
        pages: whether the pages of a TIFF are channels.
        upright: whether to apply EXIF rotations where the sizes cannot tell.
        statistics: compute `Facts.statistics`; `check` does without.

    Returns:
        What was found, or everything that is wrong with the pair.
    """
    problems: list[Problem] = []
    picture = _attempt(partial(read_channels, pair.images, pages=pages), problems)
    raw = [_attempt(partial(read_raw_mask, path), problems) for path in pair.masks]
    masks = tuple(mask for mask in raw if mask is not None)
    if picture is None or len(masks) < len(pair.masks):
        return problems
    array = usable(picture.array)
    turned, unsure = _turn(picture, masks[0].values.shape, upright)
    if turned:
        array = turn_upright(array, picture.orientation)
    for path, mask in zip(pair.masks, masks, strict=True):
        if array.shape[:2] != mask.values.shape:
            problems.append(_misfit(path, mask, array, pair.image))
    if array.dtype == np.float32 and not np.isfinite(array).all():
        problems.append(_not_finite(pair.image))
    if not problems and any(_is_image(mask, array) for mask in masks):
        problems.append(_same_twice(pair))
    if problems:
        return problems
    height, width, channels = array.shape
    low, high = float(array.min()), float(array.max())
    small = thumbnail(array)
    constant = bool(np.ptp(small) == 0 and (array == array[0, 0]).all())
    odd = [*_odd_picture(pair, picture, masks, array.shape, constant=constant)]
    odd += _rotation(pair, turned, unsure)
    facts = Facts(
        (height, width, channels),
        str(array.dtype),
        low,
        high,
        tuple(look_at(mask) for mask in masks),
        turned,
        picture.orientation != 1 and not turned and not unsure,
        unsure,
        (_checksum(array), b"".join(_checksum(mask.values) for mask in masks)),
        small,
        _statistics(array, masks) if statistics else None,
        tuple(odd),
    )
    return Examined(facts, array, masks)


def usable(image: Array) -> Array:
    """The image in one of the types that are trained on; wide types become float32."""
    native = image.dtype.newbyteorder("=")
    if str(native) in TYPES:
        return image.astype(native, copy=False)
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused
        return image.astype(np.float32)


def examine_all(
    pairs: Sequence[Pair], look: Callable[[Pair], T], workers: int
) -> Iterator[tuple[Pair, T]]:
    """Pairs with the result of looking at each, a bounded number ahead of the reader."""
    tasks = (partial(look, pair) for pair in pairs)
    results = in_order(tasks, max(workers, 1), waiting=max(workers, 1) + 2)
    return zip(pairs, results, strict=True)


def _class_pixels(mask: MaskFacts, labels: Labels) -> list[int]:
    values = np.array(list(mask.counts), np.int64)
    counts = np.array(list(mask.counts.values()), np.int64)
    if labels.others == "nearest":
        counts += [mask.near.get(value, 0) for value in mask.counts]
    classes = labels.classes(values)
    wanted = classes != IGNORE
    totals = np.bincount(classes[wanted], counts[wanted], minlength=len(labels.names))
    if labels.others == "foreground":
        totals[1] += mask.rest
    return [int(n) for n in totals[1:]]


def _attempt(read: Callable[[], T], problems: list[Problem]) -> T | None:
    try:
        return read()
    except ImageError as error:
        problems.append(error.problem)
        return None


def _turn(picture: Picture, shape: tuple[int, ...], upright: bool) -> tuple[bool, bool]:
    """Whether to apply the EXIF rotation, and whether the sizes left that open."""
    if picture.orientation == 1:
        return False, False
    stored = picture.array.shape[:2]
    turned = stored[::-1] if picture.orientation >= 5 else stored
    if (stored == shape) == (turned == shape):
        return upright and stored == shape, stored == shape
    return turned == shape, False


def _misfit(path: Path, mask: RawMask, image: Array, image_path: Path) -> Problem:
    swapped = image.shape[1::-1] == mask.values.shape
    return Problem(
        str(path),
        f"a mask of {size_words(mask.values.shape)}",
        f"{size_words(image.shape)}, the size of {image_path.name}",
        "turn it by 90 degrees: width and height are swapped"
        if swapped
        else "export the mask at the image's size (scaling it here would invent outlines)",
        "transposed-size" if swapped else "size-mismatch",
    )


def _not_finite(path: Path) -> Problem:
    return Problem(
        str(path),
        "NaN or infinite values",
        "finite numbers",
        "replace them, for example with 0",
        "not-finite",
    )


def _is_image(mask: RawMask, image: Array) -> bool:
    """Whether mask and image hold the same values, of which there are more than two."""
    if mask.kind == "palette" or (mask.kind == "colour") != (image.shape[2] == 3):
        return False
    if image.dtype == np.float32 or (image[::8, ::8] == image[0, 0]).all():
        return False
    if mask.kind == "colour":
        wide = image.astype(np.int32)
        packed = (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]
        return bool(np.array_equal(packed[::8], mask.values[::8]) and (packed == mask.values).all())
    first = image[..., 0]
    return bool(np.array_equal(first[::8], mask.values[::8]) and (first == mask.values).all())


def _same_twice(pair: Pair) -> Problem:
    return Problem(
        str(pair.mask),
        f"the same picture as its image {pair.image.name}",
        "a mask",
        "check that the folder of masks was given, and not the images twice",
        "mask-equals-image",
    )


def _odd_picture(
    pair: Pair,
    picture: Picture,
    masks: Sequence[RawMask],
    shape: tuple[int, ...],
    *,
    constant: bool,
) -> Iterator[Problem]:
    path = str(pair.image)
    formats = [(pair.image, picture.format)]
    formats += [(file, mask.format) for file, mask in zip(pair.masks, masks, strict=True)]
    for file, format_ in formats:
        if extension := wrong_extension(file, format_):
            yield extension
    if constant:
        yield Problem(
            path,
            "every pixel has the same value",
            "a picture of something",
            "check whether the export went wrong, or leave the pair out",
            "constant-image",
            "warning",
        )
    if min(shape[:2]) < _TINY:
        yield Problem(
            path,
            size_words(shape),
            f"at least {_TINY} pixels each way",
            "leave it out, or give larger pictures",
            "tiny",
            "warning",
        )
    elif max(shape[:2]) > _LONG * min(shape[:2]):
        yield Problem(
            path,
            f"{size_words(shape)}: more than {_LONG} times longer than wide",
            "a more usual shape",
            "check that it is the picture you mean, or cut it into pieces",
            "extreme-aspect",
            "warning",
        )
    if "ink" in picture.notes:
        yield Problem(
            path,
            "colours of printing ink (CMYK)",
            "RGB",
            "nothing: it is converted; save it as RGB to be sure of the colours",
            "ink",
            "note",
        )


def _rotation(pair: Pair, turned: bool, unsure: bool) -> Iterator[Problem]:
    if unsure:
        yield Problem(
            str(pair.image),
            "EXIF data ask for a rotation or mirroring, and the size does not tell whether the "
            "mask expects it",
            "a picture that is stored upright",
            f"save it upright; it is taken {'upright' if turned else 'as stored'}",
            "exif-rotation",
            "warning",
        )
    elif turned:
        yield Problem(
            str(pair.image),
            "turned upright as its EXIF data ask: only then the mask fits",
            "a picture that is stored upright",
            "nothing",
            "exif-rotation",
            "note",
        )


def _checksum(array: Array) -> bytes:
    """Quick: of every fourth row. Equal ones are compared in full before anything is said."""
    rows = np.ascontiguousarray(array[::4])
    return zlib.crc32(rows.data).to_bytes(4, "little") + repr(array.shape).encode()


def _statistics(image: Array, masks: Sequence[RawMask]) -> Statistics:
    flat = image.reshape(-1, image.shape[2])
    channels = range(flat.shape[1])
    sample = flat[:: _stride(len(flat), image.shape[1])]
    hasher = hashlib.sha256(image.tobytes())
    for mask in masks:
        hasher.update(mask.values.tobytes())
    return Statistics(
        tuple(float(flat[:, c].sum(dtype=np.float64)) for c in channels),
        tuple(float(np.square(flat[:, c], dtype=np.float64).sum()) for c in channels),
        tuple(flat.min(axis=0).astype(float).tolist()),
        tuple(flat.max(axis=0).astype(float).tolist()),
        np.percentile(sample.astype(np.float64), LEVELS, axis=0).T.astype(np.float32),
        sharpness(image),
        hasher.digest(),
    )


def _stride(pixels: int, width: int) -> int:
    """Step that takes about `_SAMPLE` of the pixels, and does not keep to some of the columns."""
    step = -(-pixels // _SAMPLE)
    while math.gcd(step, width) > 1:
        step += 1
    return step


def sharpness(image: Array) -> tuple[float, ...]:
    """Mean difference of pixels side by side in units of contrast, per channel of (H, W, C).

    Rows that are looked at are spread over the picture, about `_SAMPLE` pixels in all. 0 for a
    constant picture; near 1.1 for noise alone; blur and enlarging lower it.
    """
    rows = image[:: -(-image.shape[0] * image.shape[1] // _SAMPLE)].astype(np.float64)
    spread = rows.std(axis=(0, 1))
    steps = np.abs(np.diff(rows, axis=1)).mean(axis=(0, 1)) if rows.shape[1] > 1 else 0 * spread
    return tuple(np.where(spread > 0, steps / np.where(spread > 0, spread, 1), 0.0).tolist())


def size_words(shape: Sequence[int]) -> str:
    """(H, W, ...) as "W x H pixels"."""
    return f"{shape[1]} x {shape[0]} pixels"
