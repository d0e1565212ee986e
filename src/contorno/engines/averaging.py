"""Probabilities averaged: of one engine over mirrored and turned pictures, or of several engines.

Test-time averaging, or augmentation: a network is not quite indifferent to how a picture lies, and
the mean over all ways is often a little better than any. An ensemble: so is the mean over models
that were trained on other parts of the data. Both cost as many passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.engines import Engine
from contorno.finish import tempered

Array = NDArray[Any]


class Averaged:
    """Averages another engine's probabilities over the symmetries of the picture.

    A square has eight: four turns by 90 degrees, each also mirrored. Other pictures, whose turns
    would have another shape, have four: as it is, mirrored either way, turned by 180 degrees.

    Args:
        engine: the one that is asked, once for each of them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.name = f"{engine.name}, averaged over mirrored and turned pictures"
        self.precision = engine.precision
        self.tileable, self.preprocessing = engine.tileable, engine.preprocessing

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        turns = range(4) if batch.shape[1] == batch.shape[2] else (0, 2)
        ways = [(turn, mirrored) for turn in turns for mirrored in (False, True)]
        total: Array | float = 0.0
        for turn, mirrored in ways:
            moved = np.rot90(batch[:, :, ::-1] if mirrored else batch, turn, axes=(1, 2))
            found = self._engine.probabilities(np.ascontiguousarray(moved))
            back = np.rot90(found, -turn, axes=(2, 3))  # (N, K, H, W)
            back = back[..., ::-1] if mirrored else back
            # In float64 the sum of eight equal float32 values is exact.
            total = total + back.astype(np.float64)
        return np.asarray(total / len(ways), np.float32)


class Ensemble:
    """Averages the probabilities of several engines, of which one answers after the other.

    Args:
        engines: one or more, of the same outputs.
        temperature: the logits of each are divided by it before the mean. It is fitted to what
            single models say of images that they have not seen; the mean of models is less sure
            than they are, and a temperature after it would be another one.
        exclusive: whether the outputs add up to 1 in each pixel; see `finish.tempered`.
    """

    def __init__(
        self, engines: Sequence[Engine], *, temperature: float = 1.0, exclusive: bool = False
    ) -> None:
        self._engines, self._temperature, self._exclusive = engines, temperature, exclusive
        names = dict.fromkeys(engine.name for engine in engines)
        self.name = f"{'; '.join(names)}, mean of {len(engines)} models"
        self.precision = "+".join(dict.fromkeys(engine.precision for engine in engines))
        self.tileable = all(engine.tileable for engine in engines)
        self.preprocessing = engines[0].preprocessing

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        total: Array | float = 0.0
        for engine in self._engines:
            total = total + self._tempered(engine.probabilities(batch)).astype(np.float64)
        return np.asarray(total / len(self._engines), np.float32)

    def _tempered(self, found: Array) -> Array:
        if self._temperature == 1:
            return found
        each = (tempered(one, self._temperature, exclusive=self._exclusive) for one in found)
        return np.stack(list(each))
