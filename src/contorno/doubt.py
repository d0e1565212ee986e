"""How far a mask can be trusted, from the model's own probabilities and from what it was shown.

Knows no truth. The list that `predict` leaves beside its masks is read and written here too.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import Familiar, ModelCard
from contorno.data.dataset import Dataset
from contorno.data.facts import sharpness
from contorno.errors import InputError, Problem
from contorno.files import csv_bytes, write_bytes

Array = NDArray[Any]
SURE = 0.8  # a pixel whose class has less is unsure
FAINT = 0.1  # a probability below does not count towards an expected Dice
_BEYOND = 0.1  # of the range of the training images: less is no reason for a remark
_FEW = 1.5  # the same where they are few, times 1 / sqrt(images): their range is narrow by chance
NAME = "doubt.csv"
_COLUMNS = ("rank", "image", "expected_dice", "unsure", "distance", "unlike")
_WORDS = {
    "brightness": ("darker", "brighter"),
    "contrast": ("of less contrast", "of more contrast"),
    "sharpness": ("more blurred", "sharper or noisier"),
}


@dataclass(frozen=True)
class Doubt:
    """How far the mask of one image can be trusted.

    Args:
        expected_dice: see `expected_dice`.
        unsure: share of pixels of whose class the model is less than 80% sure, 0..1.
        distance: how far beyond the training images it lies, in ranges of theirs; 0: within; None:
            the model file does not say what they are like.
        unlike: what is unlike, in words, or nothing.
    """

    expected_dice: float
    unsure: float
    distance: float | None
    unlike: str = ""


def doubt(image: Array, probabilities: Array, classes: Array, card: ModelCard) -> Doubt:
    """How far a mask can be trusted.

    Args:
        image: (H, W, C) as the engine gets it.
        probabilities: (K, H, W), tempered.
        classes: the class map that was drawn, (H, W).
        card: of the model.
    """
    distance, unlike = strangeness(image, card.familiar)
    return Doubt(
        round(expected_dice(probabilities, classes, card), 4),
        round(_unsure(probabilities, exclusive=card.exclusive), 6),
        None if distance is None else round(distance, 3),
        unlike,
    )


def expected_dice(probabilities: Array, classes: Array, card: ModelCard) -> float:
    """The Dice that a mask has if the probabilities are right: 2 sum(pm) / (sum(p) + sum(m)).

    A p below `FAINT` counts as 0: summed over a large background, next to nothing would outweigh
    the object. The mean over the classes that are drawn. Where none is, the chance that the
    likeliest pixel is background: only then would an empty mask be right.

    Args:
        probabilities: p, (K, H, W), tempered; of overlapping classes each its own, of exclusive
            ones with background.
        classes: m, the class map that was drawn, (H, W).
        card: of the model.
    """
    labels = card.labels
    scored = probabilities[1:] if card.exclusive else probabilities
    each = []
    for found, mask in zip(scored, labels.layers(classes), strict=True):
        pixels = int(np.count_nonzero(mask))
        if pixels:
            found = np.where(found < FAINT, 0, found)
            both = float(found[mask].sum(dtype=np.float64))
            each.append(2 * both / (float(found.sum(dtype=np.float64)) + pixels))
    return float(np.mean(each)) if each else 1 - float(scored.max())


def _unsure(probabilities: Array, *, exclusive: bool) -> float:
    if exclusive:
        return float((probabilities.max(axis=0) < SURE).mean())
    return float(((probabilities < SURE) & (probabilities > 1 - SURE)).any(axis=0).mean())


# Unlike the training images ---------------------------------------------------------------------


def familiar(dataset: Dataset) -> Familiar:
    """What the images of a set are like."""
    rows: dict[str, list[Array]] = {name: [] for name in _WORDS}
    for facts in dataset.facts:
        assert facts.statistics is not None  # `load` asks for them
        mean, spread = facts.statistics.mean_and_spread(facts.pixels)
        values = (mean, spread, np.array(facts.statistics.sharpness))
        for name, value in zip(_WORDS, values, strict=True):
            rows[name].append(np.broadcast_to(value, (dataset.channels,)))  # or (1,): grey
    ranges = {
        name: tuple(zip(np.min(r, axis=0).tolist(), np.max(r, axis=0).tolist(), strict=True))
        for name, r in rows.items()
    }
    return Familiar(**ranges, images=len(dataset))


def strangeness(image: Array, known: Familiar | None) -> tuple[float | None, str]:
    """How far an image (H, W, C) lies beyond the training images, and in what, in words.

    The distance is 0 within the smallest and largest value of any training image, else what is
    beyond in units of their range, or of a tenth of the larger one where all were nearly alike;
    the largest of all channels and properties. Words are for a tenth and more, or with few images
    for more: for 0.53 with 8, 0.27 with 32 (measured in docs/LOG.md).
    """
    if known is None:
        return None, ""
    least = max(_BEYOND, _FEW / known.images**0.5)
    channels = [image[..., c] for c in range(image.shape[2])]  # one after the other: in float64
    own = {
        "brightness": np.array([one.mean(dtype=np.float64) for one in channels]),
        "contrast": np.array([one.std(dtype=np.float64) for one in channels]),
        "sharpness": np.array(sharpness(image)),
    }
    furthest, reasons = 0.0, []
    for name, values in own.items():
        low, high = np.array(getattr(known, name)).T  # (C,) each
        span = np.maximum(high - low, 0.1 * np.maximum(np.abs(low), np.abs(high)))
        span = np.where(span > 0, span, 1.0)
        beyond = np.stack([low - values, values - high]) / span  # (2, C): below, above
        side, channel = np.unravel_index(beyond.argmax(), beyond.shape)
        furthest = max(furthest, float(beyond.max()))
        if beyond.max() > least:
            where = f" (channel {channel + 1})" if len(values) > 1 else ""
            reasons.append(f"{_WORDS[name][int(side)]} than any training image{where}")
    return furthest, "; ".join(reasons)


# doubt.csv --------------------------------------------------------------------------------------


def as_text(row: Doubt) -> str:
    """For the header of a mask file, so that the list can be made again from the masks."""
    return json.dumps(asdict(row))


def from_text(text: str | None) -> Doubt | None:
    """The row in the header of a mask file; None where there is none."""
    try:
        return Doubt(**json.loads(text or ""))
    except (ValueError, TypeError):
        return None


def write_list(folder: Path, rows: Mapping[str, Doubt]) -> Path:
    """Write `NAME` of a folder, the most doubtful image first; rows of other images stay.

    Raises:
        InputError: a file of this name is there that is not such a list.
        StorageError: it cannot be written.
    """
    path = folder / NAME
    known = read_list(path) | dict(rows)
    ranked = sorted(known.items(), key=lambda item: (item[1].expected_dice, item[0]))
    table = [
        (rank, name, row.expected_dice, row.unsure, row.distance, row.unlike)
        for rank, (name, row) in enumerate(ranked, 1)
    ]
    data = csv_bytes([_COLUMNS, *table])
    if not path.exists() or path.read_bytes() != data:
        write_bytes(path, data)
    return path


def read_list(path: Path) -> dict[str, Doubt]:
    """The rows of a list by image; none if there is no such file.

    Raises:
        InputError: it is no such list.
    """
    if not path.exists():
        return {}
    try:
        if not path.is_file():  # to open a pipe would be to wait
            raise ValueError("no file")
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        table = csv.DictReader(io.StringIO(text))
        if tuple(table.fieldnames or ()) != _COLUMNS:
            raise ValueError("other columns")
        return dict(_rows(table))
    except (OSError, KeyError, ValueError, TypeError, csv.Error):
        problem = Problem(
            str(path),
            "a file that is no list of contorno's; it is left as it is",
            "a free name, or such a list",
            "move it away, or use another --out",
        )
        raise InputError("the list of doubtful images cannot be written", [problem]) from None


def _rows(table: Iterable[Mapping[str, str]]) -> Iterator[tuple[str, Doubt]]:
    for row in table:
        expected, unsure = float(row["expected_dice"]), float(row["unsure"])
        distance = float(row["distance"]) if row["distance"] else None
        yield row["image"], Doubt(expected, unsure, distance, row["unlike"])
