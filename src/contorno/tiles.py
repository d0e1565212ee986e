"""Tiles: cut a picture that is too large for one pass, blend the pieces without seams. NumPy only.

Half-overlapping tiles with Gaussian weights, as nnU-Net does (Isensee et al. 2021, sigma = size/8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WHOLE = 1536 * 1536  # pixels done in one pass: about 3 GB of activations at base width 32 in bf16
TILE = 1024  # edge of a tile beyond that, a multiple of 16


def plan(length: int, tile: int, stride: int) -> list[int]:
    """Starts of the tiles that cover `length`; the last is moved back to end at the edge.

    Raises:
        ValueError: a stride that would leave gaps.
    """
    if not 0 < stride <= tile:
        raise ValueError(f"stride ({stride}) must be from 1 to tile ({tile}); try {tile // 2}")
    if length <= tile:
        return [0]
    starts = list(range(0, length - tile, stride))
    return [*starts, length - tile]


def weights(height: int, width: int) -> Array:
    """Gaussian blending weights (height, width), 1 in the middle, 1e-7 in the corners.

    No more than that: at the picture's rim, where all weights are small, a tile's corner would
    count as much as the tile that sees what lies around it.
    """

    def bell(size: int) -> Array:
        x = (np.arange(size) - (size - 1) / 2) / (size / 8)
        return np.asarray(np.exp(-0.5 * x * x))

    return np.asarray(np.outer(bell(height), bell(width)), np.float32)


def stitch(
    image: Array, probabilities: Callable[[Array], Array], *, tile: int = TILE, whole: int = WHOLE
) -> Array:
    """Probabilities of a picture of any size.

    Args:
        image: (H, W, C).
        probabilities: from (N, h, w, C) to (N, K, h, w), such as an engine's method.
        tile: edge of a tile; tiles overlap by half.
        whole: pictures of up to so many pixels are done in one pass.

    Returns:
        (K, H, W) float32.
    """
    height, width = image.shape[:2]
    if height * width <= whole:
        return np.asarray(probabilities(image[None])[0])
    blended: Array | None = None
    total = np.zeros((height, width), np.float32)
    for y in plan(height, tile, tile // 2):
        for x in plan(width, tile, tile // 2):
            piece = image[y : y + tile, x : x + tile]
            part = probabilities(piece[None])[0]  # (K, h, w)
            window = weights(*piece.shape[:2])
            if blended is None:
                blended = np.zeros((part.shape[0], height, width), np.float32)
            blended[:, y : y + tile, x : x + tile] += part * window
            total[y : y + tile, x : x + tile] += window
    assert blended is not None  # a picture has at least one tile
    blended /= total  # in place: of a large picture, another would be gigabytes
    return blended
