"""Outlines for pages: what they enclose is the mask."""

from __future__ import annotations

import re

import numpy as np
import pytest
from matplotlib.path import Path

from contorno.pictures import outline


def enclosed(path: str, height: int, width: int) -> np.ndarray:
    """Pixels whose centres lie in an odd number of a path's rings, boolean (height, width)."""
    y, x = np.mgrid[:height, :width]
    centres = 2 * np.stack([x.ravel(), y.ravel()], axis=1) + 1
    inside = np.zeros(height * width, int)
    for start, moves in re.findall(r"M([-\d ]+)l([-\d ]+)z", path):
        numbers = [int(number) for number in f"{start} {moves}".split()]
        ring = np.reshape(numbers, (-1, 2)).cumsum(axis=0)
        inside += Path(np.concatenate([ring, ring[:1]]), closed=True).contains_points(centres)
    return (inside % 2 == 1).reshape(height, width)


@pytest.mark.parametrize("seed", range(20))
def test_an_outline_encloses_the_foreground_and_no_hole(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 24, 2)) < rng.uniform(0.1, 0.9)
    path = outline(mask)
    assert re.fullmatch(r"(M-?\d+ -?\d+l-?\d+ -?\d+( -?\d+ -?\d+)*z)*", path)
    np.testing.assert_array_equal(enclosed(path, *mask.shape), mask)


def test_a_rectangle_has_its_corners_alone_and_nothing_has_no_outline() -> None:
    mask = np.zeros((6, 9), bool)
    assert outline(mask) == ""
    mask[1:4, 2:8] = True
    assert outline(mask).count(" ") == 1 + 7 + 6  # cut corners: eight, of which one is the start
    mask[2, 4] = False
    assert outline(mask).count("M") == 2
