"""Pixels counted for many candidates of a choice at once, so that none is drawn anew.

A candidate is a threshold, or a size up to which objects are removed or holes filled; `tune`
decides between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.data.labels import Labels
from contorno.finish import holes, layer, objects

Array = NDArray[Any]
THRESHOLDS = tuple(round(0.01 * step, 2) for step in range(5, 96))


@dataclass(frozen=True)
class Seen:
    """A validation image: its place among all, probabilities (K, H, W), class map, where valid."""

    index: int
    probabilities: Array
    truth: Array
    valid: Array | None


@dataclass
class Counts:
    """Pixels of the masks drawn so far, each (images, classes): right, drawn, and true ones."""

    right: Array
    drawn: Array
    true: Array

    def dice(self) -> Array:
        """Mean Dice of each image; see `_dice`."""
        return _dice(self.right, self.drawn, self.true)

    def with_class(self, index: int, right: Array, drawn: Array) -> Array:
        """Mean Dice of each image (images, candidates) with one class drawn otherwise."""
        shape = (*right.shape, self.true.shape[1])  # (images, candidates, classes)
        rights = np.broadcast_to(self.right[:, None], shape).copy()
        drawns = np.broadcast_to(self.drawn[:, None], shape).copy()
        rights[..., index], drawns[..., index] = right, drawn
        return _dice(rights, drawns, np.broadcast_to(self.true[:, None], shape))


def _dice(right: Array, drawn: Array, true: Array) -> Array:
    """Mean Dice over the last axis, that of the classes, as `metrics.mean_dice` has it."""
    size = drawn + true
    present = size > 0
    each = np.where(present, 2 * right / np.maximum(size, 1), 0)
    count = present.sum(axis=-1)
    return np.where(count > 0, each.sum(axis=-1) / np.maximum(count, 1), 1.0)


def counts_of(seen: Sequence[Seen], maps: Sequence[Array], labels: Labels) -> Counts:
    """Pixels of the class maps that were drawn of the images, (H, W) each."""
    rows = []
    for one, classes in zip(seen, maps, strict=True):
        layers = zip(labels.layers(one.truth), labels.layers(classes), strict=True)
        rows.append([_three(truth, drawn, one.valid) for truth, drawn in layers])
    table = np.array(rows, np.int64)  # (images, classes, 3)
    return Counts(table[..., 0], table[..., 1], table[..., 2])


def _three(truth: Array, drawn: Array, valid: Array | None) -> tuple[int, int, int]:
    if valid is not None:
        truth, drawn = truth & valid, drawn & valid
    return (
        int(np.count_nonzero(truth & drawn)),
        int(np.count_nonzero(drawn)),
        int(np.count_nonzero(truth)),
    )


def at_thresholds(one: Seen, labels: Labels, index: int) -> tuple[Array, Array]:
    """Right and drawn pixels of a class at each of `THRESHOLDS`."""
    truth, found = layer(one.truth, labels, index), one.probabilities[index]
    if one.valid is not None:
        truth, found = truth[one.valid], found[one.valid]
    # Number of thresholds that each pixel reaches, compared in float32 as `classify` does.
    reached = np.searchsorted(np.array(THRESHOLDS, np.float32), found.ravel(), side="right")
    size = len(THRESHOLDS) + 1
    drawn = np.bincount(reached, minlength=size)[::-1].cumsum()[::-1][1:]
    right = np.bincount(reached[truth.ravel()], minlength=size)[::-1].cumsum()[::-1][1:]
    return right, drawn


@dataclass(frozen=True)
class Areas:
    """The objects, or holes, of a class in one image.

    Args:
        where: number of the one that each pixel lies in, (H, W).
        sizes: by number, its pixels.
        right, drawn: by number, its pixels that are true and valid, and all that are valid.
    """

    where: Array
    sizes: Array
    right: Array
    drawn: Array


def measured(one: Seen, classes: Array, labels: Labels, index: int, *, remove: bool) -> Areas:
    """The objects of a class in a class map, to be removed, or its holes, to be filled."""
    found = objects(layer(classes, labels, index)) if remove else holes(classes, labels, index)
    where, sizes = found
    truth = layer(one.truth, labels, index)
    inside = where if one.valid is None else where[one.valid]
    true = where[truth if one.valid is None else truth & one.valid]
    count = len(sizes)
    right, drawn = np.bincount(true, minlength=count), np.bincount(inside.ravel(), minlength=count)
    return Areas(where, sizes, right, drawn)


def sizes_of(found: Sequence[Areas], remove: bool) -> list[int]:
    """Candidates: 0, which changes nothing, and steps of the square root of 2.

    Up to the largest: the largest object is never removed, the largest hole is filled at last.
    """
    largest = max(int(areas.sizes[1:].max(initial=0)) for areas in found)
    steps = sorted({round(2 ** (step / 2)) for step in range(64)})
    if remove:  # an object has no fewer pixels than 1
        return [0, *(step for step in steps if 1 < step <= largest)]
    return [0, *(step for below, step in pairwise([0, *steps]) if below < largest)]


def changed(sizes: Array, value: int, remove: bool) -> Array:
    """Which objects are removed, or which holes filled, at a value."""
    return sizes < value if remove else (sizes > 0) & (sizes <= value)


def summed(areas: Areas, pixels: Array, values: Sequence[int], remove: bool) -> list[int]:
    """Pixels in what is removed or filled at each value."""
    return [int(pixels[changed(areas.sizes, value, remove)].sum()) for value in values]
