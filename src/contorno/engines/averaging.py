"""Any engine, asked several times: of the picture mirrored and turned, and the answers averaged.

Test-time averaging, or augmentation: a network is not quite indifferent to how a picture lies, and
the mean over all ways is often a little better than any. It costs as many passes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.engines import Engine

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
        self.tileable = engine.tileable

    def probabilities(self, batch: Array) -> Array:
        """Raw pictures (N, H, W, C) in file units to probabilities (N, K, H, W) float32."""
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
