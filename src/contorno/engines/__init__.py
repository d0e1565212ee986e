"""Engines run a model fast. All have one interface, so nobody above sees a backend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from contorno.config import Preprocessing
from contorno.errors import OutOfMemory
from contorno.normalise import normaliser
from contorno.tiles import TILE, WHOLE, stitch


class Engine(Protocol):
    """Runs a model.

    Args:
        name: engine, number format and device in words, for people.
        precision: "bf16", "32" (float32) or "int8".
        tileable: whether a piece of a picture may be given for the whole; not so for a model that
            resizes whatever it gets to one size.
        preprocessing: of the model.
    """

    name: str
    precision: str
    tileable: bool
    preprocessing: Preprocessing

    def probabilities(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Pictures or tiles (N, H, W, C) to probabilities (N, K, H, W) float32.

        They are in file units, or what `normaliser` makes of them where the model wants that;
        `whole_image` does it.

        Raises:
            OutOfMemory: the batch is too large.
        """
        ...


def whole_image(engine: Engine, image: NDArray[Any]) -> NDArray[Any]:
    """Probabilities (K, H, W) of a picture (H, W, C) in file units, in tiles where it is too large.

    Raises:
        OutOfMemory: not even a tile fits.
    """
    pixels = image.shape[0] * image.shape[1]
    prepare = normaliser(image, engine.preprocessing)

    def run(pieces: NDArray[Any]) -> NDArray[Any]:
        return engine.probabilities(prepare(pieces))

    if not engine.tileable:
        return stitch(image, run, whole=pixels)
    try:
        return stitch(image, run)
    except OutOfMemory:
        if not TILE * TILE < pixels <= WHOLE:
            raise
    return stitch(image, run, whole=0)


def whole_images(engine: Engine, images: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """`whole_image` of several small pictures of one shape and type, in one pass.

    Raises:
        OutOfMemory: they do not fit.
    """
    if len(images) == 1:
        return [whole_image(engine, images[0])]
    each = [normaliser(image, engine.preprocessing)(image) for image in images]
    return list(engine.probabilities(np.stack(each)))
