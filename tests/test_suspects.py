"""Masks that may be wrong come first, whatever was done to them, and the words say what."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from contorno.data.labels import Labels
from contorno.suspects import NAME, Suspect, Suspicion, write_suspects

Array = np.ndarray[Any, Any]
SIZE = 64
TWO = Labels()
NOTHING = "no pixel on which the model is sure of the opposite"


def discs(*places: tuple[int, int, int]) -> Array:
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((SIZE, SIZE), bool)
    for cy, cx, radius in places:
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < radius**2
    return mask


def sure_of(mask: Array, slope: float = 2.0) -> Array:
    """Probabilities (1, H, W) of a model that sees this, softly at the outline."""
    away = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    return np.asarray(1 / (1 + np.exp(-slope * away)), np.float32)[None]


CELLS = discs((16, 16, 9), (44, 40, 11))


def look(*pairs: tuple[str, Array, Array], labels: Labels = TWO) -> list[Suspect]:
    watch = Suspicion()
    for name, found, truth in pairs:
        watch({"name": name, "mask": f"{name}.png"}, found, truth.astype(np.uint8), labels)
    return watch.ranked()


def one(given: Array, seen: Array = CELLS) -> Suspect:
    (row,) = look(("p", sure_of(seen), given))
    return row


SPOILT = {
    "shifted": np.roll(CELLS, (6, 6), (0, 1)),
    "eroded": ndimage.binary_erosion(CELLS, iterations=4),
    "grown": ndimage.binary_dilation(CELLS, iterations=4),
    "erased": discs((16, 16, 9)),
    "added": CELLS | discs((14, 48, 8)),
    "swapped": discs((50, 10, 9), (12, 50, 7)),
    "empty": np.zeros_like(CELLS),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_masks_come_before_good_ones_and_hard_ones(kind: str) -> None:
    good = ("good", sure_of(CELLS), CELLS)
    hard = ("hard", sure_of(CELLS, slope=0.15), CELLS)  # the model is sure of nothing
    bare = ("bare", np.full((1, SIZE, SIZE), 0.01, np.float32), np.zeros_like(CELLS))
    rows = look(good, ("spoilt", sure_of(CELLS), SPOILT[kind]), bare, hard)
    assert next(row.image for row in rows if row.image != "hard") == "spoilt"
    assert rows[-1].image in ("good", "bare")
    by_name = {row.image: row for row in rows}
    assert by_name["good"].share == by_name["hard"].share == by_name["bare"].share == 0
    assert by_name["spoilt"].share > 0.1


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shifted", "drawn beside the one"),
        ("eroded", "not drawn as far as"),
        ("grown", "drawn beyond where"),
        ("erased", "1 object(s) that the model is sure of are not drawn"),
        ("added", "1 object(s) drawn where the model is sure there is nothing"),
        ("swapped", "drawn elsewhere"),
        ("empty", "empty, where the model is sure"),
    ],
)
def test_the_reason_says_what_was_done(kind: str, words: str) -> None:
    assert words in one(SPOILT[kind]).reason


def test_score_and_share_are_those_of_their_definitions() -> None:
    given = SPOILT["shifted"]
    p = sure_of(CELLS)[0].astype(np.float64)
    p[p < 0.05] = 0
    small = 0.05 * given.sum()
    score = 1 - (2 * p[given].sum() + small) / (p.sum() + given.sum() + small)
    wrong = sum(
        (p[i, j] >= 0.8) != given[i, j] and not 0.2 < p[i, j] < 0.8
        for i in range(SIZE)
        for j in range(SIZE)
    )
    row = one(given)
    assert row.score == pytest.approx(score, abs=1e-4)
    assert row.share == pytest.approx(wrong / (given | (p >= 0.8)).sum(), abs=1e-4)
    assert one(CELLS) == Suspect("p", "p.png", one(CELLS).score, NOTHING, 0.0)


def test_large_objects_do_not_count_more() -> None:
    large = np.kron(CELLS, np.ones((2, 2), bool))
    small = one(SPOILT["shifted"]).score
    twice = one(np.kron(SPOILT["shifted"], np.ones((2, 2), bool)), seen=large).score
    assert twice == pytest.approx(small, abs=0.03)


def test_a_stain_does_not_weigh_against_an_empty_mask() -> None:
    stain = sure_of(discs((30, 30, 2)))
    empty = np.zeros_like(CELLS)
    rows = look(("eroded", sure_of(CELLS), SPOILT["eroded"]), ("stain", stain, empty))
    assert [row.image for row in rows] == ["eroded", "stain"]
    assert rows[1].score < 0.5


def test_exclusive_classes_name_the_class() -> None:
    labels = Labels(
        values=(0, 1, 2),
        names=("background", "cell", "nucleus"),
        lookup=((0, 0), (1, 1), (2, 2)),
    )
    truth = np.where(CELLS, 1, 0) + discs((16, 16, 4), (44, 40, 4))
    found = np.stack([(truth == k) * 0.96 + 0.02 for k in range(3)]).astype(np.float32)
    given = np.where(discs((16, 16, 4)), 1, truth)  # a nucleus is left out
    rows = look(("good", found, truth), ("spoilt", found, given), labels=labels)
    assert [row.image for row in rows] == ["spoilt", "good"]
    assert rows[0].reason.startswith("nucleus: 1 object(s) that the model is sure of")


def test_ignored_pixels_do_not_count() -> None:
    labels = Labels(lookup=((0, 0), (255, 1), (7, 255)))
    given = np.where(discs((44, 40, 14)), 255, CELLS.astype(np.uint8))  # the second cell
    assert labels.valid(given) is not None
    (row,) = look(("p", sure_of(CELLS), given), labels=labels)
    assert (row.share, row.reason) == (0.0, NOTHING)
    assert row.score < 0.1


def test_the_list_is_written_in_order(tmp_path: Path) -> None:
    rows = look(("a,b", sure_of(CELLS), CELLS), ("c", sure_of(CELLS), SPOILT["empty"]))
    path = write_suspects(tmp_path, rows)
    assert path.name == NAME
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == ["c", "a,b"]
    assert list(table[0]) == ["rank", "image", "mask", "score", "reason", "share"]
    assert table[0]["rank"] == "1"
    assert float(table[0]["score"]) == rows[0].score
