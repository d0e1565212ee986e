"""The last steps of a model, on drawn cases and against slow, obvious ones."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from contorno.card import ModelCard, Tuned
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.labels import IGNORE, Labels, classify
from contorno.finish import draw, finish, temper, tempered

Array = NDArray[Any]
TWO = Labels()
THREE = Labels(values=(0, 1, 2), names=("background", "a", "b"), lookup=((0, 0), (1, 1), (2, 2)))
OVERLAPPING = Labels(
    values=(255, 255), names=("a", "b"), lookup=(), parts=(Labels(), Labels()), note="folders"
)


def card(labels: Labels = TWO, **tuned: Any) -> ModelCard:
    return ModelCard(
        network=NetworkConfig(in_channels=1, out_channels=labels.channels, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=labels,
        tuned=Tuned(**tuned),
    )


def plane(picture: str, values: dict[str, float] | None = None) -> Array:
    """Probabilities (1, H, W) of a drawing: # is 0.9, . is 0.1."""
    table = {"#": 0.9, ".": 0.1} | (values or {})
    return np.array([[table[c] for c in row] for row in picture.split()], np.float32)[None]


def drawing(classes: Array) -> str:
    return " ".join("".join(".#23"[value] for value in row) for row in classes)


def several(picture: str) -> Array:
    """Probabilities (3, H, W) of exclusive classes: ., # and 2."""
    index = np.array([[".#2".index(c) for c in row] for row in picture.split()])
    return np.stack([np.where(index == k, 0.8, 0.1) for k in range(3)]).astype(np.float32)


# What each step does


def test_nothing_is_done_by_default() -> None:
    rng = np.random.default_rng(0)
    for labels in (Labels(), THREE, OVERLAPPING):
        raw = rng.random((labels.channels, 20, 30)).astype(np.float32)
        assert np.array_equal(finish(raw, card(labels)), classify(raw, labels, 0.5))
        assert temper(raw, card(labels)) is raw


OBJECTS = "##..... ##...#. ......# .#..... ...###. ...#.#. ...###."


@pytest.mark.parametrize(
    ("smallest", "left"),
    [
        (0, OBJECTS),
        (1, OBJECTS),
        (2, "##..... ##...#. ......# ....... ...###. ...#.#. ...###."),
        (3, "##..... ##..... ....... ....... ...###. ...#.#. ...###."),
        (5, "....... ....... ....... ....... ...###. ...#.#. ...###."),
        (8, "....... ....... ....... ....... ...###. ...#.#. ...###."),
        (9, "....... ....... ....... ....... ....... ....... ......."),
        (1000, "....... ....... ....... ....... ....... ....... ......."),
    ],
)
def test_objects_below_the_smallest_are_removed(smallest: int, left: str) -> None:
    """Two pixels that touch by a corner are one object."""
    assert drawing(finish(plane(OBJECTS), card(smallest=(smallest,)))) == left


HOLES = "##..##### #...#...# ....#.#.# ###.#...# #.#.##### ###.#.... ....#####"
ONE = "##..##### #...#...# ....#.#.# ###.#...# ###.##### ###.#.... ....#####"
ALL = "##..##### #...##### ....##### ###.##### ###.##### ###.#.... ....#####"


@pytest.mark.parametrize(
    ("most", "filled"), [(0, HOLES), (1, ONE), (7, ONE), (8, ALL), (1000, ALL)]
)
def test_holes_up_to_a_size_are_filled(most: int, filled: str) -> None:
    """What reaches the rim of the picture is no hole, nor is what a bay leaves open."""
    assert drawing(finish(plane(HOLES), card(holes=(most,)))) == filled


def test_a_hole_ends_where_pixels_touch_by_a_corner_only() -> None:
    leaky = "####. #..#. ####. ....#"
    assert drawing(finish(plane(leaky), card(holes=(2,)))) == "####. ####. ####. ....#"
    corner = "###.. #.#.. ##... ....."  # the hole and the outside touch by a corner
    assert drawing(finish(plane(corner), card(holes=(1,)))) == corner.replace("#.#", "###")


def test_small_objects_go_before_holes_are_filled() -> None:
    ring = "..... .###. .#.#. .###. ....."
    assert drawing(finish(plane(ring), card(smallest=(9,), holes=(1,)))).count("#") == 0
    solid = drawing(finish(plane(ring), card(smallest=(8,), holes=(1,))))
    assert solid == "..... .###. .###. .###. ....."
    # An island in a hole goes first, and then the hole is one of nine pixels.
    island = "##### #...# #.#.# #...# #####"
    assert drawing(finish(plane(island), card(smallest=(2,), holes=(8,)))).count("#") == 16
    assert drawing(finish(plane(island), card(smallest=(2,), holes=(9,)))).count("#") == 25


def test_of_many_exclusive_classes_each_is_cleaned_alone() -> None:
    """Class 3 is neither class 1 nor class 2, though its number has the bits of both."""
    names = ("background", "a", "b", "c", "d", "e")
    labels = Labels(
        values=tuple(range(6)), names=names, lookup=tuple((value, value) for value in range(6))
    )
    classes = np.random.default_rng(0).choice(6, (25, 31), p=(0.4, *[0.12] * 5))
    raw = np.stack([np.where(classes == k, 0.8, 0.04) for k in range(6)]).astype(np.float32)
    for index in range(5):
        limits = {"smallest": [0] * 5, "holes": [0] * 5}
        limits["smallest"][index] = 4
        found = finish(raw, card(labels, **limits))
        kept = walked(classes == index + 1, 4, 0)
        gone = (classes == index + 1) & ~kept
        assert gone.any()
        assert kept.any()
        assert np.array_equal(found, np.where(gone, 0, classes))
    island = np.where(np.pad(np.zeros((1, 1)), 2, constant_values=1), 3, 0)  # one pixel in class c
    hole = np.stack([np.where(island == k, 0.8, 0.04) for k in range(6)]).astype(np.float32)
    assert np.array_equal(finish(hole, card(labels, holes=(9, 9, 0, 9, 9))), island)
    assert (finish(hole, card(labels, holes=(0, 0, 9, 0, 0))) == 3).all()


def test_the_threshold_comes_after_the_temperature() -> None:
    raw = plane("abc", {"a": 0.6, "b": 0.8, "c": 0.95})
    # At temperature 2 the odds 1.5, 4 and 19 become their roots: 0.551, 0.667 and 0.813.
    assert np.allclose(temper(raw, card(temperature=2)), [[[0.5505, 0.6667, 0.8134]]], atol=1e-4)
    assert drawing(finish(raw, card(temperature=2, thresholds=(0.7,)))) == "..#"
    assert drawing(finish(raw, card(thresholds=(0.7,)))) == ".##"


def test_exclusive_classes_leave_background_and_fill_only_that() -> None:
    raw = several("22222 2#.#2 2###2 2###2 22222")
    assert drawing(finish(raw, card(THREE))) == "22222 2#.#2 2###2 2###2 22222"
    without = drawing(finish(raw, card(THREE, smallest=(9, 0))))
    assert without == "22222 2...2 2...2 2...2 22222"
    # A limit above all that is not of the class takes nothing from the others.
    assert drawing(finish(raw, card(THREE, smallest=(99, 0)))) == without
    refilled = drawing(finish(raw, card(THREE, smallest=(9, 0), holes=(0, 9))))
    assert refilled == "22222 22222 22222 22222 22222"
    # The background pixel lies between both classes: it is a hole of neither.
    assert finish(raw, card(THREE, holes=(99,)))[1, 2] == 0
    around = several("##### #...# #.2.# #...# #####")
    assert np.array_equal(finish(around, card(THREE, holes=(99,))), classify(around, THREE, 0.5))
    gone = finish(around, card(THREE, smallest=(0, 2), holes=(9, 0)))
    assert (gone == 1).all()


def test_overlapping_classes_are_cleaned_one_by_one() -> None:
    first, second = plane("##### #...# #...# #...# #####"), plane(".#... ..... ..... ..... ...##")
    raw = np.concatenate([first, second])
    both = finish(raw, card(OVERLAPPING, smallest=(0, 2), holes=(9, 0)))
    assert np.array_equal(both & 1, np.ones((5, 5), np.uint8))
    assert drawing(both >> 1) == "..... ..... ..... ..... ...##"
    limits = finish(raw, card(OVERLAPPING, thresholds=(0.95, 0.5)))
    assert not (limits & 1).any()
    assert (limits >> 1).sum() == 3


def test_cleaning_against_one_pixel_at_a_time() -> None:
    """Random masks, with objects and holes found by walking from pixel to pixel."""
    rng = np.random.default_rng(0)
    for share in (0.3, 0.5, 0.7):
        mask = rng.random((25, 31)) < share
        for smallest, most in ((4, 0), (0, 3), (3, 5), (12, 12)):
            found = finish(
                np.where(mask, 0.9, 0.1).astype(np.float32)[None],
                card(smallest=(smallest,), holes=(most,)),
            )
            assert np.array_equal(found == 1, walked(mask, smallest, most))


def walked(mask: Array, smallest: int, most: int) -> Array:
    mask = mask.copy()
    for area in areas(mask, corners=True):
        if len(area) < smallest:
            for pixel in area:
                mask[pixel] = False
    height, width = mask.shape
    result = mask.copy()
    for area in areas(~mask, corners=False):
        inside = all(0 < y < height - 1 and 0 < x < width - 1 for y, x in area)
        if inside and len(area) <= most:
            for pixel in area:
                result[pixel] = True
    return result


def areas(mask: Array, *, corners: bool) -> list[list[tuple[int, int]]]:
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    found = []
    while left:
        area, todo = [], [left.pop()]
        while todo:
            y, x = todo.pop()
            area.append((y, x))
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (corners or 0 in (dy, dx)) and (y + dy, x + dx) in left:
                        left.remove((y + dy, x + dx))
                        todo.append((y + dy, x + dx))
        found.append(area)
    return found


# Temperature


@pytest.mark.parametrize("temperature", [0.3, 1.7, 4.0])
def test_temperature_divides_logits(temperature: float) -> None:
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (3, 20, 20)))
    alone = tempered(logits.sigmoid().float().numpy(), temperature, exclusive=False)
    assert alone.dtype == np.float32
    assert np.allclose(alone, (logits / temperature).sigmoid().numpy(), atol=1e-5)
    together = tempered(logits.softmax(0).float().numpy(), temperature, exclusive=True)
    assert np.allclose(together, (logits / temperature).softmax(0).numpy(), atol=1e-5)
    assert np.array_equal(together.argmax(0), logits.argmax(0).numpy())
    assert np.array_equal(alone >= 0.5, logits.numpy() >= 0)


@pytest.mark.parametrize("exclusive", [False, True])
def test_large_pictures_are_tempered_in_pieces(
    exclusive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).dirichlet(np.ones(3), (20, 31)).transpose(2, 0, 1)
    whole = tempered(values, 1.7, exclusive=exclusive)
    monkeypatch.setattr("contorno.finish._AT_ONCE", 97)  # 620 pixels are no multiple
    assert np.array_equal(tempered(values, 1.7, exclusive=exclusive), whole)


def test_temperature_keeps_the_ends_and_the_order() -> None:
    values = np.array([0, 1e-30, 1e-9, 0.3, 0.5, 0.7, 1 - 1e-7, 1], np.float32)
    for temperature in (0.5, 3.0):
        warm = tempered(values[None], temperature, exclusive=False)[0]
        assert (np.diff(warm) >= 0).all()
        assert np.isfinite(warm).all()
        assert warm[4] == 0.5
        assert warm[0] < 1e-3
        assert warm[-1] > 0.99


# The card


def test_cards_with_one_threshold_are_read() -> None:
    old = json.loads(card(OVERLAPPING).model_dump_json())
    del old["tuned"]
    read = ModelCard.model_validate_json(json.dumps(old | {"threshold": 0.375}))
    assert read == card(OVERLAPPING, thresholds=(0.375,))
    raw = np.full((2, 1, 1), 0.4, np.float32)
    assert finish(raw, read)[0, 0] == 3
    assert ModelCard.model_validate_json(json.dumps(old)) == card(OVERLAPPING)


def test_ignored_pixels_are_no_class_of_a_prediction() -> None:
    raw = several("#.2 ...")
    assert IGNORE not in draw(raw, card(THREE, smallest=(2,), holes=(2,)))
