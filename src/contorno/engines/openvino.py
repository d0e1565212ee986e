"""The model run by OpenVINO on the CPU: bfloat16 where the processor has it, int8 where it may.

Needs no PyTorch once the model has been converted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.engines.artifacts import damaged
from contorno.engines.picture import around, is_aligned, unusable
from contorno.hardware import cores

if TYPE_CHECKING:
    from contorno.models.portable import Portable

Array = NDArray[Any]
_KEPT = "CPU_RUNTIME_CACHE_CAPACITY"  # layers made for a size of picture that are kept
_FEW = 200  # of some sizes; with OpenVINO's 5,000, each of 240 sizes took 2 MB of memory for good
_WORDS = {"bf16": "bfloat16", "32": "float32", "int8": "8-bit integers"}


class OpenVINOEngine:
    """Runs a converted model.

    Args:
        graph: gives the model as OpenVINO's XML file, its weights beside it: for aligned pictures
            (True) or for pictures of any size (False). Each is asked for when it is needed.
        card: the model's.
        precision: "bf16" or "32"; "int8" for a graph that was quantised, which there is for aligned
            pictures only.
        threads: that compute; all cores when None.
    """

    def __init__(
        self,
        graph: Callable[[bool], Path],
        card: ModelCard,
        precision: str,
        *,
        threads: int | None = None,
    ) -> None:
        self.preprocessing = card.preprocessing
        self.tileable = card.preprocessing.size is None
        self._graph, self._card, self._threads = graph, card, threads
        bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "32" if precision == "bf16" and not bf16 else precision
        self.name = f"OpenVINO on CPU, {_WORDS[self.precision]}"
        self._hint = "bf16" if bf16 and precision != "32" else "f32"
        self._requests: dict[bool, Any] = {}
        self._lock = Lock()  # a request answers one thread at a time

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        return around(self._run, self._card, batch, align=self.precision == "int8")

    def _run(self, values: Array) -> Array:
        aligned = is_aligned(self._card, *values.shape[1:3])
        with self._lock:
            if aligned not in self._requests:
                self._requests[aligned] = self._compiled(self._graph(aligned))
            result: Array = self._requests[aligned].infer([values], share_inputs=True)[0]
            return result.copy()  # the request writes its next answer over this one

    def _compiled(self, path: Path) -> Any:
        graph = _read(path)
        try:
            return self._compile(graph, self._hint)
        except RuntimeError:  # 2026.4 has no bfloat16 between 8-bit layers of some few channels
            if self.precision != "int8":
                raise
            return self._compile(graph, "f32")

    def _compile(self, graph: Any, hint: str) -> Any:
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self._threads or cores(),
        }
        try:
            compiled = core().compile_model(graph, "CPU", options | {_KEPT: _FEW})
        except RuntimeError as error:  # a version that does not know it
            if _KEPT not in str(error):
                raise
            compiled = core().compile_model(graph, "CPU", options)
        return compiled.create_infer_request()


def _read(path: Path) -> Any:
    try:
        return core().read_model(str(path))
    except RuntimeError as error:
        if "alloc" in str(error).lower():  # memory
            raise
        raise damaged(path) from error


def convert(portable: Portable, folder: Path) -> None:
    """Write a model as model.xml and model.bin, for pictures of any number.

    Raises:
        OSError: they cannot be written.
    """
    from contorno.models.portable import quiet

    openvino = library()
    with quiet():
        model = openvino.convert_model(portable, example_input=portable.example)
    try:
        openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)
    except RuntimeError as error:  # "iostream error", of a full disk
        raise OSError(f"OpenVINO could not write it ({error}); is the disk full?") from error


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's core, one for as long as the process lives.

    It gives the process a stack for signal handlers; when the last core is destroyed that stack
    goes, still in use, and the next Ctrl-C would be a segmentation fault.
    """
    return library().Core()


def library() -> Any:
    """The module openvino, without the telemetry that it would send whenever it is imported.

    Raises:
        ConfigError: it is there but cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise unusable("openvino", error) from error
    return openvino
