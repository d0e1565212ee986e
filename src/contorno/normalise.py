"""Normalising a picture by its own mean and spread, which only the whole picture tells.

Crops and tiles are pieces of a picture, so what is done to them is decided before they are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.config import Preprocessing

Array = NDArray[Any]
_LEAST = 1 / 32  # of the training images' spread: an empty picture's noise is not blown up beyond
_BAND = 2**20  # pixels that are looked at together


def normaliser(image: Array, preprocessing: Preprocessing) -> Callable[[Array], Array]:
    """What a model's graph wants done to a picture, or to any piece of it, beforehand.

    Args:
        image: the whole picture (H, W, C) in file units.
        preprocessing: of the model.

    Returns:
        From pieces (..., C) in file units to values of mean 0 and spread 1 over the whole picture,
        float32; or to the pieces themselves, where the model normalises by its training images.
    """
    if preprocessing.normalise == "set":
        return lambda piece: piece
    if image.dtype == np.uint8:  # a table of 256 values takes a sixth of the time
        return _looked_up(image, preprocessing)
    mean, std = _moments(image, preprocessing)
    return lambda piece: ((_cut(piece, preprocessing) - mean) / std).astype(np.float32)


def _looked_up(image: Array, preprocessing: Preprocessing) -> Callable[[Array], Array]:
    channels = range(image.shape[2])
    counts = np.zeros((len(channels), 256))
    for band in _bands(image):
        counts += [np.bincount(band[..., c].ravel(), minlength=256) for c in channels]
    values = _cut(np.broadcast_to(np.arange(256.0)[:, None], (256, len(channels))), preprocessing)
    share = counts.T / (image.shape[0] * image.shape[1])  # (256, C)
    mean = (share * values).sum(0)
    std = _spread((share * np.square(values - mean)).sum(0), preprocessing)
    table = np.ascontiguousarray(((values - mean) / std).T, np.float32)  # (C, 256)

    def look_up(piece: Array) -> Array:
        found = np.empty(piece.shape, np.float32)
        for c in channels:
            found[..., c] = table[c][piece[..., c]]
        return found

    return look_up


def _moments(image: Array, preprocessing: Preprocessing) -> tuple[Array, Array]:
    """Mean and standard deviation per channel, (C,) float64."""
    pixels = image.shape[0] * image.shape[1]
    bands = [_cut(band, preprocessing).sum((0, 1)) for band in _bands(image)]
    mean = np.sum(bands, axis=0) / pixels
    squares = [np.square(_cut(band, preprocessing) - mean).sum((0, 1)) for band in _bands(image)]
    return mean, _spread(np.sum(squares, axis=0) / pixels, preprocessing)


def _bands(image: Array) -> Iterator[Array]:
    rows = max(1, _BAND // image.shape[1])
    return (image[start : start + rows] for start in range(0, len(image), rows))


def _cut(piece: Array, preprocessing: Preprocessing) -> Array:
    """In float64, with what lies beyond `low` and `high` cut off."""
    values = piece.astype(np.float64)
    if preprocessing.low is None or preprocessing.high is None:
        return values
    return values.clip(preprocessing.low, preprocessing.high)


def _spread(variance: Array, preprocessing: Preprocessing) -> Array:
    least = _LEAST * np.array(preprocessing.std)
    return np.maximum(np.sqrt(variance), least)
