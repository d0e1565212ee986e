"""Masks that may be wrong: those that a model which has not seen them disagrees with, most first.

The score is the soft Dice that mask and probabilities fail to reach. A pixel counts against the
mask by how sure the model is of the opposite, so an image that is hard, where the model is sure of
nothing, stays low; and being a share of the area it does not grow with the size of the objects.
Says only what looks wrong: whether the mask or the model is, is for people to see.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.data.labels import Labels
from contorno.files import write_bytes
from contorno.finish import objects

Array = NDArray[Any]
NAME = "suspects.csv"
SURE = 0.8  # a probability from which the model is sure, and 1 - SURE the one up to which
RULE = (
    "For each image: 1 - 2 sum(py) / (sum(p) + sum(y)), where y is 1 inside the given mask and p "
    "is the probability that the model gives which was not trained on the image; the mean over the "
    "classes that either holds. So that next to nothing does not weigh against an empty mask, a "
    "twentieth of the median mask is added above and below, and p below 0.05 counts as 0: there "
    "are many such pixels in a large image."
)
_UNSURE = "no pixel on which the model is sure of the opposite"
_SMALL = 0.05  # of the median mask
_FAINT = 0.05  # probabilities below do not count
_MOST = 0.75  # of what is drawn or seen: more, and hardly anything fits
_PART = 0.1  # of the surely wrong pixels: less of a kind is not worth a word
_OBJECTS = 0.5  # of the surely wrong pixels: as many in whole objects are what is wrong


@dataclass(frozen=True)
class Suspect:
    """A mask that may be wrong.

    Args:
        image, mask: stem of the image, file of its mask.
        score: see `RULE`; 0 to 1.
        reason: in words, what the model is sure of instead.
        share: of the pixels that are drawn or that the model sees, those on which it is sure of the
            opposite.
    """

    image: str
    mask: str
    score: float
    reason: str
    share: float


@dataclass(frozen=True)
class _Sums:
    """Sums over the pixels of one class in one image: probabilities, mask, and both."""

    found: float
    given: int
    both: float


class Suspicion:
    """Looks at every image of a set once, then ranks them."""

    def __init__(self) -> None:
        self._seen: list[tuple[Suspect, list[_Sums]]] = []

    def __call__(self, row: Mapping[str, Any], found: Array, truth: Array, labels: Labels) -> None:
        """Look at an image; see `evaluate.Watch`."""
        valid = labels.valid(truth)
        scored = found if len(found) == len(labels.scored) else found[1:]  # background comes first
        sums, marks = [], []
        for one, given in zip(scored, labels.layers(truth), strict=True):
            p, y = (one, given) if valid is None else (np.where(valid, one, 0), given & valid)
            sums.append(_sums(p, y))
            marks.append(_words(p, y, valid))
        share, reason, which = max((*mark, i) for i, mark in enumerate(marks))
        if share and len(marks) > 1:
            reason = f"{labels.scored[which]}: {reason}"
        self._seen.append((Suspect(row["name"], row["mask"], 0.0, reason, round(share, 4)), sums))

    def ranked(self) -> list[Suspect]:
        """Every image, the most suspicious first."""
        classes = zip(*(sums for _, sums in self._seen), strict=True)
        small = [_SMALL * _median([one.given for one in each if one.given]) for each in classes]
        rows = []
        for suspect, sums in self._seen:
            pairs = zip(sums, small, strict=True)
            each = [_apart(one, c) for one, c in pairs if one.given or one.found > c]
            score = float(np.mean(each)) if each else 0.0
            rows.append(Suspect(**(asdict(suspect) | {"score": round(score, 4)})))
        return sorted(rows, key=lambda row: (-row.score, row.image))


def _sums(p: Array, y: Array) -> _Sums:
    p = np.where(p < _FAINT, 0, p)
    both = float(p[y].sum(dtype=np.float64))
    return _Sums(float(p.sum(dtype=np.float64)), int(np.count_nonzero(y)), both)


def _median(values: Sequence[int]) -> float:
    return float(np.median(values)) if values else 1.0


def _apart(sums: _Sums, small: float) -> float:
    return 1 - (2 * sums.both + small) / (sums.found + sums.given + small)


def _words(p: Array, y: Array, valid: Array | None) -> tuple[float, str]:
    """Share of the pixels on which the model is sure of the opposite, and what that looks like.

    Args:
        p: probability of a class, (H, W).
        y: where it is drawn, boolean (H, W).
        valid: where pixels count; None: everywhere.
    """
    nothing, seen = p <= 1 - SURE, p >= SURE
    more, less = y & nothing, ~y & seen  # drawn too much, and too little
    if valid is not None:
        less &= valid
    wrong = int(more.sum()) + int(less.sum())
    area = int(np.count_nonzero(y | seen))
    if not wrong:
        return 0.0, _UNSURE
    return wrong / area, _reason(y, seen, more, less, wrong, area)


def _reason(y: Array, seen: Array, more: Array, less: Array, wrong: int, area: int) -> str:
    if not y.any():
        return "empty, where the model is sure of an object"
    much, little = (int(part.sum()) > _PART * wrong for part in (more, less))
    if much and little and wrong > _MOST * area:
        return "drawn elsewhere than where the model is sure of an object"
    lacking, pixels = _whole(seen, y, less)
    if lacking and pixels >= _OBJECTS * wrong:
        return f"{lacking} object(s) that the model is sure of are not drawn"
    extra, pixels = _whole(y, seen, more)
    if extra and pixels >= _OBJECTS * wrong:
        return f"{extra} object(s) drawn where the model is sure there is nothing"
    if much and little:
        return "the outline is drawn beside the one that the model is sure of"
    if much:
        return "drawn beyond where the model is sure that the object ends"
    return "not drawn as far as the model is sure that the object reaches"


def _whole(mask: Array, other: Array, wrong: Array) -> tuple[int, int]:
    """How many objects of a mask lie off the other and are surely wrong, and their pixels."""
    where, sizes = objects(mask)
    touched = np.bincount(where[other & mask], minlength=len(sizes)) > 0
    sure = np.bincount(where[wrong], minlength=len(sizes)) > 0.5 * sizes
    off = sure & ~touched
    off[0] = False
    return int(off.sum()), int(sizes[off].sum())


def write_suspects(folder: Path, suspects: Sequence[Suspect]) -> Path:
    """Write `NAME` of a folder, in the order given."""
    buffer = io.StringIO()
    table = csv.writer(buffer, lineterminator="\n")
    table.writerow(["rank", *Suspect.__dataclass_fields__])
    for rank, row in enumerate(suspects, 1):
        table.writerow([rank, *asdict(row).values()])
    write_bytes(folder / NAME, buffer.getvalue().encode("utf-8", "surrogateescape"))
    return folder / NAME
