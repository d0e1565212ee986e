"""The model run by ONNX Runtime on the CPU, in float32: the portable engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.engines.artifacts import damaged
from contorno.engines.picture import around, unusable
from contorno.hardware import cores

Array = NDArray[Any]


class ONNXRuntimeEngine:
    """Runs a model that was written as ONNX.

    Args:
        graph: the ONNX file.
        card: the model's.
        threads: that compute; all cores when None.
    """

    def __init__(self, graph: Path, card: ModelCard, *, threads: int | None = None) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise unusable("onnxruntime", error) from error
        self.name = "ONNX Runtime on CPU, float32"
        self.precision = "32"
        self.preprocessing = card.preprocessing
        self.tileable = card.preprocessing.size is None
        self._card = card
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or cores()
        options.log_severity_level = 3  # errors
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # the library's own kinds have no other base
            if "alloc" in str(error).lower():  # memory
                raise
            raise damaged(graph) from error

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        return around(self._run, self._card, batch)

    def _run(self, values: Array) -> Array:
        try:
            result: Array = self._session.run(None, {"images": values})[0]
        except Exception as error:  # the library's own kinds have no other base
            raise RuntimeError(str(error)) from error
        return result
