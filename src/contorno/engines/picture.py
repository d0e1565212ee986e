"""What engines without PyTorch share.

What they do to pictures around their graph: types, small sizes, resizing; what they say of a
library that does not work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.errors import ConfigError, OutOfMemory

Array = NDArray[Any]


def graph_type(card: ModelCard) -> str:
    """The type of pictures that the model's graph takes."""
    if card.preprocessing.size is not None or card.preprocessing.normalise == "image":
        return "float32"  # resized values lie between those of the file, normalised ones anywhere
    dtype = card.preprocessing.dtype
    return "int32" if dtype == "uint16" else dtype  # PyTorch, which makes the graph, has no uint16


def least(card: ModelCard) -> int:
    """The smallest edge that the network can halve as often as it does."""
    return int(card.network.patch * 2 ** (len(card.network.widths) - 1))


def is_aligned(card: ModelCard, height: int, width: int) -> bool:
    """Whether every level of the network halves such a picture without a rest."""
    return height % least(card) == 0 and width % least(card) == 0


def around(
    run: Callable[[Array], Array], card: ModelCard, batch: Array, *, align: bool = False
) -> Array:
    """Probabilities (N, K, H, W) float32 of pictures (N, H, W, C) of any size.

    Args:
        run: the graph, from (N, h, w, C) of its type to (N, K, h, w), h and w as large as the
            network's halvings need, or the model's own size.
        card: the model's.
        batch: the pictures, as `Engine.probabilities` gets them.
        align: repeat the rim of pictures until they are aligned, for a graph that takes no others:
            near the lower and right rim that is not quite what the network itself would give.

    Raises:
        OutOfMemory: they do not fit in memory.
        ConfigError: the graph of an encoder holds for some sizes only.
    """
    height, width = batch.shape[1:3]
    try:
        return _around(run, card, batch, align)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error).lower():
            raise OutOfMemory(f"{width} x {height} pixels do not fit in memory") from None
        if card.network.encoder is not None:  # some count pixels in Python, which no graph does
            raise ConfigError(
                f"{card.network.encoder} cannot be run by this engine on {width} x {height} "
                "pixels; use --engine pytorch"
            ) from error
        raise


def _around(run: Callable[[Array], Array], card: ModelCard, batch: Array, align: bool) -> Array:
    height, width = batch.shape[1:3]
    size = card.preprocessing.size
    if size is None:
        return _padded(run, card, batch.astype(graph_type(card), copy=False), align)
    small = resize(batch.astype(np.float32), *size, axes=(1, 2))
    return resize(_padded(run, card, small, align), height, width, axes=(2, 3))


def _padded(run: Callable[[Array], Array], card: ModelCard, values: Array, align: bool) -> Array:
    """Run with the rim repeated, as the networks do it themselves, where a picture is too small."""
    height, width = values.shape[1:3]
    edge = least(card)
    down, right = (-n % edge if align else max(edge - n, 0) for n in (height, width))
    if down or right:
        values = np.pad(values, ((0, 0), (0, down), (0, right), (0, 0)), mode="edge")
    return np.ascontiguousarray(run(np.ascontiguousarray(values))[..., :height, :width])


def resize(x: Array, height: int, width: int, *, axes: tuple[int, int]) -> Array:
    """Bilinear, smoothed where it shrinks: the same as `resample.resize`, without PyTorch."""
    for axis, length in zip(axes, (height, width), strict=True):
        if x.shape[axis] != length:
            weights = _weights(x.shape[axis], length)
            x = np.moveaxis(np.tensordot(weights, x, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(x, np.float32)


@lru_cache(maxsize=16)
def _weights(before: int, after: int) -> Array:
    """What each old pixel adds to each new one, (after, before): a triangle about its centre.

    The triangle is one pixel wide to each side, of the larger pixels.
    """
    scale = before / after
    reach = max(scale, 1.0)
    centres = (np.arange(after) + 0.5) * scale
    away = np.abs(np.arange(before)[None] + 0.5 - centres[:, None]) / reach
    weights = np.maximum(1 - away, 0)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True), np.float32)


def unusable(package: str, error: ImportError) -> ConfigError:
    """The error to raise for a library that is installed and cannot be imported."""
    return ConfigError(
        f"{package} is installed, but cannot be imported ({error}); install it again, or use "
        "--engine pytorch"
    )
