"""Normalising a picture by its own mean and spread, which only the whole picture tells.

Crops and tiles are pieces of a picture, so what is done to them is decided before they are cut.
"""

from __future__ import annotations

from collections.abc import Callable
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
    mean, std = _moments(image, preprocessing)
    std = np.maximum(std, _LEAST * np.array(preprocessing.std))
    return lambda piece: ((_cut(piece, preprocessing) - mean) / std).astype(np.float32)


def _cut(piece: Array, preprocessing: Preprocessing) -> Array:
    """In float64, with what lies beyond `low` and `high` cut off."""
    values = piece.astype(np.float64)
    if preprocessing.low is None or preprocessing.high is None:
        return values
    return values.clip(preprocessing.low, preprocessing.high)


def _moments(image: Array, preprocessing: Preprocessing) -> tuple[Array, Array]:
    """Mean and standard deviation per channel, (C,) float64, in bands of rows."""
    rows = max(1, _BAND // image.shape[1])
    bands = [image[start : start + rows] for start in range(0, len(image), rows)]
    pixels = image.shape[0] * image.shape[1]
    mean = sum(_cut(band, preprocessing).sum((0, 1)) for band in bands) / pixels
    squares = sum(np.square(_cut(band, preprocessing) - mean).sum((0, 1)) for band in bands)
    return np.asarray(mean), np.sqrt(np.asarray(squares) / pixels)
