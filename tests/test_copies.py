"""Copies stay on one side of a split that contorno draws, and what is said of them is so."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from making import Array, pictures, read_all, save
from PIL import Image

from contorno.data import check
from contorno.data.agreement import Reading
from contorno.data.check import look_at_set
from contorno.data.copies import group_leaks
from contorno.data.groups import Grouping
from contorno.data.pairs import find_pairs
from contorno.errors import Problem

KEPT = "until then they stay on one side of the split"


def looked_at(
    root: Path, validation: Sequence[str] = (), pattern: str | None = None
) -> tuple[list[Problem], Grouping | None]:
    whole = read_all(root)
    good = list(zip(whole.pairs, whole.facts, strict=True))
    found, grouping = look_at_set(
        good, whole.labels, pages=False, validation=validation, pattern=pattern
    )
    return [one for one in found if one.kind in ("duplicate-image", "near-duplicate")], grouping


def copied(root: Path, count: int) -> Path:
    """Eight pairs, of which p0 comes `count` times."""
    pictures(root, 8)
    for index in range(1, count):
        for folder in ("images", "masks"):
            shutil.copy(root / folder / "p0.png", root / folder / f"p{index}.png")
    return root


@pytest.mark.parametrize("count", [2, 5, 7])
def test_equal_pictures_stay_together_however_many(tmp_path: Path, count: int) -> None:
    found, grouping = looked_at(copied(tmp_path, count))
    assert grouping is not None
    assert sorted(grouping.of.values()).count("p0") == count
    assert len(found) == count - 1
    assert all(KEPT in one.fix for one in found)


def test_copies_that_cannot_stay_together_are_not_said_to(tmp_path: Path) -> None:
    found, grouping = looked_at(copied(tmp_path, 8))  # nothing else is there
    assert grouping is None
    assert len(found) == 7
    assert all("too many are alike" in one.fix for one in found)


def test_near_copies_stay_together_beside_a_group_of_more_than_half(tmp_path: Path) -> None:
    pictures(tmp_path, 8)
    image = np.asarray(Image.open(tmp_path / "images" / "p6.png"))
    save(tmp_path / "images" / "p7.png", np.ascontiguousarray(image[:, ::-1]))
    for folder in ("images", "masks"):
        for index in range(5):
            (tmp_path / folder / f"p{index}.png").rename(tmp_path / folder / f"big_{index}.png")
    found, grouping = looked_at(tmp_path, pattern="big|p.")  # 5 of 8 are one group
    assert grouping is not None
    assert grouping.of["p6"] == grouping.of["p7"]
    assert grouping.of["big_0"] == grouping.of["big_4"] != grouping.of["p6"]
    assert [KEPT in one.fix for one in found] == [True]


def test_aligned_pictures_are_not_said_to_stay_together(tmp_path: Path) -> None:
    part: Array = np.random.default_rng(0).integers(60, 200, (64, 64))
    for index in range(8):
        image, mask = part.copy(), np.zeros((64, 64), np.uint8)
        mask[5 * index : 5 * index + 6, 20:26] = 255
        image[mask > 0] = 250
        save(tmp_path / "images" / f"p{index}.png", image.astype(np.uint8))
        save(tmp_path / "masks" / f"p{index}.png", mask)
    found, grouping = looked_at(tmp_path)
    assert grouping is None
    assert found
    assert all(one.kind == "near-duplicate" and KEPT not in one.fix for one in found)


def test_nothing_is_promised_of_a_split_that_is_given(tmp_path: Path) -> None:
    found, _ = looked_at(copied(tmp_path, 3), validation=["p1", "p5"])
    assert [one.fix for one in found] == ["remove one of them"] * 2


def test_a_note_says_that_not_each_is_compared_with_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = find_pairs(copied(tmp_path, 3) / "images", tmp_path / "masks").pairs
    for most, told in ((8, 0), (7, 1)):
        monkeypatch.setattr(check, "ALL", most)
        done = check.check(pairs, workers=0, reading=Reading())
        assert [p.kind for p in done.findings].count("many-pictures") == told


def test_a_given_split_of_many_groups_is_compared_in_no_time(tmp_path: Path) -> None:
    names = [f"g{number // 4}_{number}" for number in range(20_000)]
    pair, facts = read_all(pictures(tmp_path, 1)).pairs[0], read_all(tmp_path).facts[0]
    good = [(replace(pair, name=name), facts) for name in names]
    validation = [*names[::4], *names[1:8]]  # one of each group; all of the first two
    of = {name: name.partition("_")[0] for name in names}
    began = time.process_time()
    leaks = [*group_leaks(good, Grouping(of, ""), frozenset(validation))]
    assert time.process_time() - began < 3
    assert len(leaks) == 20_000 // 4 - 2
    assert leaks[0].what == (
        "group 'g10' has 1 pair(s) in the validation part and 3 in the training part"
    )
