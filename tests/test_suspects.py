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


def good(count: int = 12) -> list[tuple[str, Array, Array]]:
    """Masks that fit but for a pixel here and there, beside what a fair model sees."""
    rows = []
    for index in range(count):
        rng = np.random.default_rng(index)
        mask = discs(*((*rng.integers(14, 50, 2).tolist(), int(rng.integers(6, 12))),) * 2)
        rows.append((f"good{index:02}", sure_of(mask, slope=0.6), mask))
    return rows


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_masks_come_before_good_ones(kind: str) -> None:
    bare = ("bare", np.full((1, SIZE, SIZE), 0.01, np.float32), np.zeros_like(CELLS))
    dim = ("dim", sure_of(CELLS, slope=0.6) * 0.4, CELLS)  # seen, but sure of nothing
    rows = look(*good(), ("spoilt", sure_of(CELLS, slope=0.6), SPOILT[kind]), bare, dim)
    order = [row.image for row in rows if row.image != "dim"]
    assert order[0] == "spoilt"
    by_name = {row.image: row for row in rows}
    assert by_name["dim"].share == by_name["bare"].share == 0
    assert by_name["bare"].score < 2  # nothing is drawn, nothing is seen
    assert by_name["spoilt"].share > 0.1
    assert by_name["spoilt"].score > 3


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
    pairs = [*good(6), ("spoilt", sure_of(CELLS), SPOILT["eroded"])]
    rows = {row.image: row for row in look(*pairs)}
    fits = []
    for _, found, given in pairs:
        p = found[0].astype(np.float64)
        correlation = np.corrcoef(p.ravel(), given.ravel())[0, 1]
        little = 0.002 * SIZE * SIZE
        ratio = np.log((given.sum() + little) / (p[p >= 0.05].sum() + little))
        fits.append((correlation, ratio))
    table = np.array(fits)
    away = table - np.median(table, axis=0)
    away /= np.maximum(1.4826 * np.median(np.abs(away), axis=0), (0.02, 0.05))
    for (name, _, _), (lower, apart) in zip(pairs, away, strict=True):
        assert rows[name].score == pytest.approx(max(-lower, abs(apart), 0), abs=1e-3)
    p, given = sure_of(CELLS)[0], SPOILT["eroded"]
    wrong = sum(
        (p[i, j] >= 0.8) != given[i, j] and not 0.2 < p[i, j] < 0.8
        for i in range(SIZE)
        for j in range(SIZE)
    )
    share = wrong / (given | (p >= 0.8)).sum()
    assert rows["spoilt"].share == pytest.approx(share, abs=1e-4)
    assert one(CELLS) == Suspect("p", "p.png", 0.0, NOTHING, 0.0)
    assert look() == []


def test_a_model_that_sees_all_objects_too_small_suspects_none_of_them() -> None:
    pairs = [(n, sure_of(ndimage.binary_erosion(y, iterations=2), 0.6), y) for n, _, y in good()]
    rows = look(*pairs, ("spoilt", sure_of(CELLS, 0.6), SPOILT["shifted"]))
    assert rows[0].image == "spoilt"
    assert rows[0].score > 2 * rows[1].score


def test_a_stain_does_not_weigh_against_an_empty_mask() -> None:
    stain = ("stain", sure_of(discs((30, 30, 1))), np.zeros_like(CELLS))
    rows = look(*good(), ("erased", sure_of(CELLS), SPOILT["erased"]), stain)
    assert rows[0].image == "erased"


def test_a_full_mask_is_suspicious_only_where_the_model_sees_less() -> None:
    full = np.ones_like(CELLS)
    good = [(f"p{i}", sure_of(np.roll(CELLS, i, 1)), np.roll(CELLS, i, 1)) for i in range(8)]
    right, wrong = ("right", sure_of(full), full), ("wrong", sure_of(CELLS), full)
    rows = look(*good, right, wrong)
    assert rows[0].image == "wrong"
    assert next(row.score for row in rows if row.image == "right") < 1


def test_exclusive_classes_name_the_class() -> None:
    labels = Labels(
        values=(0, 1, 2),
        names=("background", "cell", "nucleus"),
        lookup=((0, 0), (1, 1), (2, 2)),
    )
    truth = np.where(CELLS, 1, 0) + discs((16, 16, 4), (44, 40, 4))
    found = np.stack([(truth == k) * 0.96 + 0.02 for k in range(3)]).astype(np.float32)
    given = np.where(discs((16, 16, 4)), 1, truth)  # a nucleus is left out
    fine = [(f"good{index}", found, truth) for index in range(3)]
    rows = look(*fine, ("spoilt", found, given), labels=labels)
    assert rows[0].image == "spoilt"
    assert rows[0].score > rows[1].score == 0
    assert rows[0].reason.startswith("nucleus: 1 object(s) that the model is sure of")


def test_of_overlapping_classes_the_mask_is_that_of_the_class_in_question() -> None:
    labels = Labels(values=(255, 255), names=("cell", "nucleus"), lookup=(), parts=(TWO, TWO))
    nuclei = discs((16, 16, 4), (44, 40, 4))
    watch = Suspicion()
    for name, given in (
        ("right", nuclei),
        ("other", nuclei),
        ("erased", discs((16, 16, 4))),
        ("unsure", discs((16, 16, 2), (44, 40, 2))),
    ):
        slope = 0.1 if name == "unsure" else 2.0
        found = np.concatenate([sure_of(CELLS), sure_of(nuclei, slope)])
        files = [f"cells/{name}.png", f"nuclei/{name}.png"]
        truth = CELLS.astype(np.uint8) | given.astype(np.uint8) << 1
        watch({"name": name, "mask": files[0], "masks": files}, found, truth, labels)
    rows = {row.image: row for row in watch.ranked()}
    assert rows["erased"].reason.startswith("nucleus: 1 object(s) that the model is sure of")
    assert rows["erased"].mask == "nuclei/erased.png"
    assert rows["erased"].score > 0  # of the nuclei: all cells fit alike
    assert rows["unsure"].reason == NOTHING
    assert rows["unsure"].mask == "nuclei/unsure.png"


def test_ignored_pixels_do_not_count() -> None:
    labels = Labels(lookup=((0, 0), (255, 1), (7, 255)))
    given = np.where(discs((44, 40, 14)), 255, CELLS.astype(np.uint8))  # the second cell
    assert labels.valid(given) is not None
    (row,) = look(("p", sure_of(CELLS), given), labels=labels)
    assert (row.share, row.reason) == (0.0, NOTHING)


def test_what_the_model_sees_on_ignored_pixels_changes_nothing() -> None:
    labels = Labels(lookup=((0, 0), (255, 1), (7, 255)))
    hidden = discs((50, 52, 11))
    masks = [*good(6), ("spoilt", sure_of(CELLS), SPOILT["added"])]
    given = [(name, p, np.where(hidden, 255, mask)) for name, p, mask in masks]
    other = [(name, np.where(hidden, 1 - p, p), mask) for name, p, mask in given]
    rows = look(*given, labels=labels)
    assert rows[0].image == "spoilt"
    assert rows == look(*other, labels=labels)


def test_the_list_is_written_in_order(tmp_path: Path) -> None:
    rows = look(
        ("a,b", sure_of(CELLS), CELLS),
        ("c\rd", sure_of(CELLS), SPOILT["empty"]),
        ("d", sure_of(CELLS), CELLS),
    )
    path = write_suspects(tmp_path, rows)
    assert path.name == NAME
    with path.open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == ["c\rd", "a,b", "d"]
    assert list(table[0]) == ["rank", "image", "mask", "score", "reason", "share"]
    assert table[0]["rank"] == "1"
    assert float(table[0]["score"]) == rows[0].score
