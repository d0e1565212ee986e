"""From an engine's probabilities to the class map that is written: the last steps of a model.

Temperature, threshold, smallest object, holes, in this order, as the card says. Everything that
draws or scores a mask does it here, so that all of them agree. What the values are is `tune`'s to
choose. Temperature scaling follows Guo et al. (2017), "On calibration of modern neural networks".
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contorno.card import ModelCard
from contorno.data.labels import Labels, classify

Array = NDArray[Any]
_LEAST, _MOST = 1e-12, 1 - 2**-24  # what is rounded to 0 or 1 has no logit: as far as it may go
_EIGHT = np.ones((3, 3), bool)
_AT_ONCE = 2**20  # pixels that are tempered; all of a large picture, in float64, would be gigabytes


def finish(raw: Array, card: ModelCard) -> Array:
    """The class map (H, W) of an engine's probabilities (K, H, W): `temper`, then `draw`."""
    return draw(temper(raw, card), card)


def temper(raw: Array, card: ModelCard) -> Array:
    """Probabilities (K, H, W) as an engine gives them, at the card's temperature."""
    temperature = card.tuned.temperature
    return raw if temperature == 1 else tempered(raw, temperature, exclusive=card.exclusive)


def tempered(probabilities: Array, temperature: float, *, exclusive: bool) -> Array:
    """Divide the logits of probabilities by a temperature.

    Args:
        probabilities: (K, ...), 0..1.
        temperature: above 0; more than 1 makes the model less sure of itself.
        exclusive: whether the K add up to 1 in each pixel (softmax); else each stands alone.

    Returns:
        float32 of the same shape, in the same order; which is the largest stays, and so does 0.5.
    """
    result = np.empty(probabilities.shape, np.float32)
    before, after = (each.reshape(len(each), -1) for each in (probabilities, result))
    for start in range(0, before.shape[1], _AT_ONCE):
        piece = slice(start, start + _AT_ONCE)
        wide = np.clip(before[:, piece].astype(np.float64), _LEAST, _MOST)
        if exclusive:
            powers = wide ** (1 / temperature)
            after[:, piece] = powers / powers.sum(axis=0)
        else:
            after[:, piece] = 1 / (1 + ((1 - wide) / wide) ** (1 / temperature))
    return result


def draw(probabilities: Array, card: ModelCard) -> Array:
    """The class map (H, W) of probabilities (K, H, W) that are tempered already."""
    tuned, labels = card.tuned, card.labels
    classes = classify(probabilities, labels, tuned.thresholds)
    count = len(labels.scored)
    for index, least in enumerate(np.broadcast_to(tuned.smallest, count)):
        if least > 1:
            where, sizes = objects(layer(classes, labels, index))
            classes = put(classes, labels, index, (sizes < least)[where], present=False)
    for index, most in enumerate(np.broadcast_to(tuned.holes, count)):
        if most > 0:
            where, sizes = holes(classes, labels, index)
            classes = put(classes, labels, index, ((sizes > 0) & (sizes <= most))[where])
    return classes


def layer(classes: Array, labels: Labels, index: int) -> Array:
    """Where one scored class is in a class map, boolean (H, W)."""
    return (classes >> index & 1).astype(bool) if labels.multilabel else classes == index + 1


def put(classes: Array, labels: Labels, index: int, where: Array, *, present: bool = True) -> Array:
    """A class map with one scored class put to, or taken from, the pixels `where`.

    Where classes exclude each other, background is left where one is taken away.
    """
    if not labels.multilabel:
        return np.where(where, np.uint8(index + 1 if present else 0), classes)
    bit = np.uint8(1 << index)
    return np.where(where, classes | bit if present else classes & ~bit, classes)


def objects(mask: Array) -> tuple[Array, Array]:
    """The objects of a boolean mask (H, W), pixels that touch by a side or a corner.

    Returns:
        Number of the object of each pixel (H, W), 0 where there is none; and pixels of each object,
        by number. Number 0 has as many as no object can have: it is never too small.
    """
    where, count = ndimage.label(mask, _EIGHT)
    sizes = np.bincount(where.ravel(), minlength=count + 1)
    sizes[0] = np.iinfo(sizes.dtype).max
    return where, sizes


def holes(classes: Array, labels: Labels, index: int) -> tuple[Array, Array]:
    """The holes in one scored class: areas, joined by sides, that do not reach the image's rim.

    Where classes exclude each other, an area that holds any other class is no hole.

    Returns:
        Number of the area of each pixel (H, W); and pixels of each area that is a hole, by number,
        0 of others.
    """
    mask = layer(classes, labels, index)
    where, count = ndimage.label(~mask)
    sizes = np.bincount(where.ravel(), minlength=count + 1)
    sizes[0] = 0
    for rim in (where[0], where[-1], where[:, 0], where[:, -1]):
        sizes[rim] = 0
    if not labels.multilabel:
        sizes[where[(classes != 0) & ~mask]] = 0
    return where, sizes
