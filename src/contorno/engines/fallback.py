"""An engine with PyTorch behind it, where there may not be a graph for every size of picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

from contorno.engines import Engine
from contorno.errors import ConfigError, StorageError
from contorno.progress import warn

Array = NDArray[Any]


class OrPyTorch:
    """Asks an engine until it refuses a picture, and PyTorch from then on, which it says.

    Args:
        engine: asked first; it raises ConfigError for what its graph does not hold for, and
            StorageError where that for a picture is not there and cannot be made.
        pytorch: opens the engine that takes its place.
    """

    def __init__(self, engine: Engine, pytorch: Callable[[], Engine]) -> None:
        self._pytorch = pytorch
        self._take(engine)

    def _take(self, engine: Engine) -> None:
        self._engine, self.name, self.precision = engine, engine.name, engine.precision
        self.tileable, self.preprocessing = engine.tileable, engine.preprocessing

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        try:
            return self._engine.probabilities(batch)
        except (ConfigError, StorageError) as error:
            self._take(self._pytorch())
            warn(f"{error}; done from here on: {self.name}")
        return self._engine.probabilities(batch)
