"""Pictures that come twice in a set: equal ones by digest, altered ones by a thumbnail.

Two copies of one picture, one in training and one in validation, make a score look better than it
is. A copy may have been compressed, brightened, resized, mirrored or turned. What to do about one
is left to the caller; a part cut out of a larger picture is not found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.ndimage
from numpy.typing import NDArray

Array = NDArray[Any]

SIDE = 32  # of a thumbnail
LIMIT = 10_000  # pairs that `near` returns at most
ALL = 32_768  # pictures: of more, not each is compared with each
_SAMPLES = 256  # pixels looked at along each axis
_WIDTH = 1.5  # thumbnail pixels: what is wider, such as uneven light, does not count
_SIMILAR = 0.85
_HOPEFUL = 0.7  # at half the resolution, where no copy was more than 0.01 less alike
_CONTRAST = 1e-3  # of the largest value
_BLOCK = 512  # pictures compared at a time with as many others: 1 MB of float32
_NEXT = 8192  # pictures of the likest skewness that one of many is compared with, at least
_ROWS = 2048  # pictures prepared at a time
_HOW = (  # as it is, mirrored across, down, both; then the same of the transposed picture
    "the same picture, but for compression, size or brightness",
    "mirrored left to right",
    "mirrored top to bottom",
    "turned by 180 degrees",
    "mirrored and turned by 90 degrees",
    "turned by 90 degrees",
    "turned by 90 degrees",
    "mirrored and turned by 90 degrees",
)


def thumbnail(image: Array) -> Array:
    """Mean grey value of each of `SIDE` x `SIDE` blocks of a picture, from 0.1 ms on.

    Reads at most 256 x 256 pixels, placed evenly about the centre, so that the thumbnail of a
    mirrored or turned picture is the mirrored or turned thumbnail: exactly for integers, to
    rounding for fractions.

    Args:
        image: (H, W, C) or (H, W) of any type; a pixel that is not finite counts as 0.

    Returns:
        (SIDE, SIDE) float32.
    """
    image = image if image.ndim == 3 else image[:, :, None]
    height, width, channels = image.shape
    rows, columns = _centred(height), _centred(width)
    per_block = _SAMPLES // SIDE
    # Adding rows first reads memory in order; 8 rows of bytes fit 16 bits, of 16 bits fit 32.
    wider = {"b1": np.uint16, "u1": np.uint16, "u2": np.uint32}.get(image.dtype.str[1:])
    lines = image.reshape(height, width * channels)
    total = np.zeros((SIDE, width * channels), wider or np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        for first in range(per_block):
            total += lines[rows[first::per_block]]
    largest = np.finfo(np.float32).max
    if not wider and not (np.abs(total) <= largest).all():  # or not a number
        finite = np.where(np.isfinite(image), image, 0)
        return thumbnail(finite.clip(-largest / per_block, largest / per_block))
    total = total.reshape(SIDE, width, channels).take(columns, axis=1)  # (SIDE, samples, C)
    blocks = total.reshape(SIDE, SIDE, -1).astype(np.float64)  # sums of integers stay exact
    grey = blocks @ np.ones(blocks.shape[2]) / (per_block * blocks.shape[2])
    return np.asarray(grey, np.float32)


def same(digests: Sequence[bytes]) -> list[list[int]]:
    """Indices of equal digests, in groups of two or more, each in order."""
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index, digest in enumerate(digests):
        groups[digest].append(index)
    return [group for group in groups.values() if len(group) > 1]


def near(thumbnails: Array) -> list[tuple[int, int, str]]:
    """Pairs of pictures that show the same, found by their thumbnails.

    Two thumbnails match when what is finer than 1.5 pixels in them correlates above 0.85 in one of
    the eight positions of a square. Both numbers were chosen on five public sets (neurites, roads,
    cell nuclei, cracks, blood cells): different pictures reached 0.58; copies with JPEG quality
    75, 10% more light, noise of 5 grey levels, 0.9 of the size, and the last with JPEG too, kept
    0.88 or more. Without the filter, uneven light and one cell in the middle of each picture made
    different ones reach 0.96. Pictures of almost no contrast are left out. Equal smooth shapes in
    one place with nothing around them, such as single beads, are taken for copies.

    Of more than `ALL` pictures, each is compared only with those whose skewness is next to its own,
    so that the time grows with their number and not with its square. A copy keeps it nearly,
    mirrored or turned too: by the ranks of 1,953 altered copies among 15,629 crops of the same five
    sets, scaled up, 99.7% would be within reach among 100,000 and 90% among a million.

    Args:
        thumbnails: (N, SIDE, SIDE).

    Returns:
        (i, j, how the second differs, in words) with i < j, in order. `LIMIT` pairs mean that the
        search stopped there and that there may be more.
    """
    kept, fine, skewness = _prepare(thumbnails)
    reach = len(kept)
    if len(kept) > ALL:
        order = np.argsort(skewness, kind="stable")
        kept, fine, reach = kept[order], fine[:, order], _BLOCK + _NEXT
    left, right = _sides(_halved(fine))
    room = np.empty((6, _BLOCK, _BLOCK), np.float32)  # fresh memory would take most of the time
    pairs: list[tuple[int, int, str]] = []
    for row in range(0, len(kept), _BLOCK):
        for column in range(row, min(row + reach, len(kept)), _BLOCK):
            one, other = slice(row, row + _BLOCK), slice(column, column + _BLOCK)
            i, j = np.nonzero(_highest(left[:, one], right[..., other], room) > _HOPEFUL)
            i, j = i[i + row < j + column], j[i + row < j + column]
            if len(i):
                pairs += _pairs(fine, kept, np.unique(i) + row, np.unique(j) + column)
            if len(pairs) >= LIMIT:
                return sorted(pairs[:LIMIT])
    return sorted(pairs)


def _centred(length: int) -> Array:
    """`_SAMPLES` positions from 0 to `length` - 1, the same from both ends; some twice if few."""
    half = np.arange(_SAMPLES // 2)
    left = (2 * half + 1) * length // (2 * _SAMPLES)
    return np.concatenate([left, (length - 1 - left)[::-1]])


def _prepare(thumbnails: Array) -> tuple[Array, Array, Array]:
    """Of the thumbnails that have contrast: indices, parts (4, N, SIDE/2, SIDE/2), skewness."""
    kept, parts = [np.zeros(0, int)], [np.zeros((4, 0, SIDE // 2, SIDE // 2), np.float32)]
    skewness = [np.zeros(0, np.float32)]
    for start in range(0, len(thumbnails), _ROWS):
        chunk = thumbnails[start : start + _ROWS].astype(np.float32)  # (n, SIDE, SIDE)
        largest = np.abs(chunk).max(axis=(1, 2), keepdims=True)
        chunk /= np.where(largest > 0, largest, 1)
        chunk -= scipy.ndimage.gaussian_filter(chunk, (0, _WIDTH, _WIDTH), mode="reflect")
        chunk -= chunk.mean(axis=(1, 2), keepdims=True)
        norm = np.sqrt(np.square(chunk).sum(axis=(1, 2)))
        clear = norm > _CONTRAST * SIDE  # the norm is SIDE times the standard deviation
        kept.append(start + np.flatnonzero(clear))
        fine = chunk[clear] / norm[clear, None, None]
        parts.append(_parts(fine))
        skewness.append((fine**3).sum(axis=(1, 2)))
    return np.concatenate(kept), np.concatenate(parts, axis=1), np.concatenate(skewness)


def _parts(pictures: Array) -> Array:
    """What of each (n, SIDE, SIDE) is even or odd down and across: (4, n, SIDE/2, SIDE/2).

    In the order even-even, even-odd, odd-even, odd-odd. A mirrored picture has the same parts, some
    with the other sign, so four products give the similarity in four positions.
    """
    half = SIDE // 2
    upper, lower = pictures[:, :half], pictures[:, half:][:, ::-1]
    sides = [(p[..., :half], p[..., half:][..., ::-1]) for p in (upper + lower, upper - lower)]
    return np.stack([p for left, right in sides for p in (left + right, left - right)]) / 2


def _halved(fine: Array) -> Array:
    """The parts at half the resolution, (4, N, SIDE/4, SIDE/4), their squares summing to 1 again.

    A quarter of the arithmetic tells for nearly all pairs that they are different.
    """
    _, count, half, _ = fine.shape
    sums = fine.reshape(4, count, half // 2, 2, half // 2, 2).sum(axis=(3, 5))
    norm = np.sqrt(np.square(sums).sum(axis=(0, 2, 3)))
    return np.asarray(sums / np.maximum(norm, 1e-6)[:, None, None], np.float32)


def _sides(parts: Array) -> tuple[Array, Array]:
    """Parts as the two sides of a product: (4, N, d), and (2, 4, d, N), as is and transposed."""
    _, count, half, _ = parts.shape
    turned = parts[[0, 2, 1, 3]].swapaxes(2, 3)  # what was odd across is odd down
    both = np.stack([parts, turned]).reshape(2, 4, count, half * half)
    return both[0], np.ascontiguousarray(both.swapaxes(2, 3))


def _highest(left: Array, right: Array, room: Array) -> Array:
    """The highest correlation of each pair in any of the eight positions, (n, m)."""
    shape = (slice(left.shape[1]), slice(right.shape[-1]))
    products, extra, highest = room[(slice(4), *shape)], room[(4, *shape)], room[(5, *shape)]
    highest.fill(-1)
    a, b, c, d = products
    for side in right:
        np.matmul(left, side, out=products)
        # Mirrored across by s and down by t: (a + tc) + s(b + td), at best (a + tc) + |b + td|.
        for t in (np.add, np.subtract):
            np.abs(t(b, d, out=extra), out=extra)
            extra += a
            np.maximum(highest, t(extra, c, out=extra), out=highest)
    return highest


def _pairs(fine: Array, kept: Array, rows: Array, columns: Array) -> list[tuple[int, int, str]]:
    """The pairs of `rows` and `columns` that match, and in which position."""
    left, right = _sides(fine[:, rows])[0], _sides(fine[:, columns])[1]
    scores = []
    for side in right:
        a, b, c, d = left @ side
        scores += [a + b + c + d, a - b + c - d, a + b - c - d, a - b - c + d]  # as in _HOW
    position, best = np.argmax(scores, axis=0), np.max(scores, axis=0)
    found = [(i, j) for i, j in np.argwhere(best > _SIMILAR) if rows[i] < columns[j]]
    return [
        (min(one, other), max(one, other), _HOW[position[i, j]])  # said alike of both ways round
        for i, j in found
        for one, other in [(int(kept[rows[i]]), int(kept[columns[j]]))]
    ]
