"""Masks that may be wrong: those that fit what a model sees worse than others of the set do.

Two things are asked of a mask, and each is compared with the rest of the set: whether it lies where
the probabilities of a model that has not seen it are high (their correlation, which does not ask
how high), and whether it is as large as they lead to expect. A model that is too sure, or sees all
objects too small, is so on all images, and that moves no mask up the list; nor does a mask's size.
Says only what looks wrong: whether the mask or the model is, is for people to see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.data.labels import Labels
from contorno.files import csv_bytes, write_bytes
from contorno.finish import objects

Array = NDArray[Any]
NAME = "suspects.csv"
SURE = 0.8  # a probability from which the model is sure, and 1 - SURE the one up to which
RULE = (
    "Two figures of each mask, with the probabilities of the model that was not trained on it: the "
    "correlation of mask and probability over the pixels of the image, and the logarithm of the "
    "mask's area over the sum of the probabilities (0.2% of the image added to both; probabilities "
    "below 0.05 count as 0). The score says how far the mask lies from the median of the set in "
    "either, the correlation only below it, in standard deviations estimated from the median of "
    "the distances; the larger one, of the class in which it is the largest."
)
_UNSURE = "no pixel on which the model is sure of the opposite"
_FAINT = 0.05  # probabilities below do not count: there are many such pixels in a large image
_LITTLE = 0.002  # of the image: a smaller area says nothing of a mask's size
_NORMAL = 1.4826  # standard deviations in a median distance of 1, where values are normal
_LEAST = (0.02, 0.05)  # spreads of correlation and logarithm: where all masks are alike
_MOST = 0.75  # of what is drawn or seen: more, and hardly anything fits
_PART = 0.1  # of the surely wrong pixels: less of a kind is not worth a word
_OBJECTS = 0.5  # of the surely wrong pixels: as many in whole objects are what is wrong


@dataclass(frozen=True)
class Suspect:
    """A mask that may be wrong.

    Args:
        image, mask: stem of the image, file of its mask; of overlapping classes that of the class
            which the reason names, or else of the one with the score.
        score: see `RULE`; 0 or more.
        reason: in words, what the model is sure of instead.
        share: of the pixels that are drawn or that the model sees, those on which it is sure of the
            opposite.
    """

    image: str
    mask: str
    score: float
    reason: str
    share: float


class Suspicion:
    """Looks at every image of a set once, then ranks them."""

    def __init__(self) -> None:
        self._seen: list[tuple[Suspect, list[str], list[tuple[float, float]]]] = []

    def __call__(self, row: Mapping[str, Any], found: Array, truth: Array, labels: Labels) -> None:
        """Look at an image; see `evaluate.Watch`."""
        valid = labels.valid(truth)
        scored = found if len(found) == len(labels.scored) else found[1:]  # background comes first
        fits, marks = [], []
        for one, given in zip(scored, labels.layers(truth), strict=True):
            p, y = (one, given) if valid is None else (np.where(valid, one, 0), given & valid)
            fits.append((_correlation(p, y), _ratio(p, y)))
            marks.append(_words(p, y))
        share, reason, which = max((*mark, i) for i, mark in enumerate(marks))
        files = row.get("masks", [row["mask"]])  # of overlapping classes one for each
        if share and len(marks) > 1:
            reason = f"{labels.scored[which]}: {reason}"
            files = [files[which]] if len(files) > 1 else files
        suspect = Suspect(row["name"], files[0], 0.0, reason, round(share, 4))
        self._seen.append((suspect, files, fits))

    def ranked(self) -> list[Suspect]:
        """Every image, the most suspicious first."""
        if not self._seen:
            return []
        table = np.array([fits for *_, fits in self._seen])  # (images, classes, 2)
        away = _away(table)
        away[..., 0] = -away[..., 0]  # a mask that fits better than others is not suspicious
        scores = np.maximum(away[..., 0], np.abs(away[..., 1])).clip(0)  # (images, classes)
        rows = [
            replace(
                suspect,
                mask=files[each.argmax() if len(files) > 1 else 0],
                score=round(float(each.max()), 3),
            )
            for (suspect, files, _), each in zip(self._seen, scores, strict=True)
        ]
        return sorted(rows, key=lambda row: (-row.score, -row.share, row.image))


def _away(table: Array) -> Array:
    """Distance of each value from the median of its column, in robust standard deviations.

    0 for what is not known (NaN), and where nothing is.
    """
    known = np.where(np.isfinite(table).any(axis=0), table, 0)
    middle = np.nanmedian(known, axis=0)
    spread = _NORMAL * np.nanmedian(np.abs(known - middle), axis=0)
    return np.asarray(np.nan_to_num((known - middle) / np.maximum(spread, _LEAST)))


def _correlation(p: Array, y: Array) -> float:
    """Of a mask with its probabilities; NaN where both are as good as empty, or the mask is full.

    A full mask lies nowhere else than it should: its size alone can be wrong.
    """
    count, pixels = int(np.count_nonzero(y)), y.size
    if count == pixels or (not count and _seen(p) < _LITTLE * pixels):
        return float("nan")
    mean, share = float(p.mean(dtype=np.float64)), count / pixels
    spread = float(p.std(dtype=np.float64)) * (share * (1 - share)) ** 0.5
    both = float(p[y].sum(dtype=np.float64)) / pixels
    return (both - mean * share) / spread if spread > 0 else 0.0


def _ratio(p: Array, y: Array) -> float:
    """Logarithm of a mask's area over that which its probabilities lead to expect."""
    little = _LITTLE * y.size
    return float(np.log((np.count_nonzero(y) + little) / (_seen(p) + little)))


def _seen(p: Array) -> float:
    return float(p[p >= _FAINT].sum(dtype=np.float64))


def _words(p: Array, y: Array) -> tuple[float, str]:
    """Share of the pixels on which the model is sure of the opposite, and what that looks like.

    Args:
        p: probability of a class, (H, W).
        y: where it is drawn, boolean (H, W); neither where pixels do not count.
    """
    nothing, seen = p <= 1 - SURE, p >= SURE
    more, less = y & nothing, ~y & seen  # drawn too much, and too little
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
    rows = [(rank, *asdict(row).values()) for rank, row in enumerate(suspects, 1)]
    write_bytes(folder / NAME, csv_bytes([("rank", *Suspect.__dataclass_fields__), *rows]))
    return folder / NAME
