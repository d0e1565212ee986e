"""Engines run a model fast. All have one interface, so nobody above sees a backend."""

from typing import Any, Protocol

from numpy.typing import NDArray


class Engine(Protocol):
    """Runs a model.

    Args:
        name: engine, number format and device in words, for people.
    """

    name: str

    def probabilities(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Raw pictures (N, H, W, C) in file units to probabilities (N, K, H, W) float32."""
        ...
