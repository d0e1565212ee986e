"""The model run by OpenVINO on the CPU: bfloat16 where the processor has it, int8 where it may.

Needs no PyTorch once the model has been converted.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.engines.picture import around
from contorno.hardware import cores

if TYPE_CHECKING:
    from contorno.models.portable import Portable

Array = NDArray[Any]
_WORDS = {"bf16": "bfloat16", "32": "float32", "int8": "8-bit integers"}


class OpenVINOEngine:
    """Runs a converted model.

    Args:
        graph: the model as OpenVINO's XML file, its weights beside it.
        card: the model's.
        precision: "bf16" or "32"; "int8" for a graph that was quantised.
        threads: that compute; all cores when None.
    """

    def __init__(
        self, graph: Path, card: ModelCard, precision: str, *, threads: int | None = None
    ) -> None:
        self.tileable = card.preprocessing.size is None
        self._card = card
        bf16 = "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "32" if precision == "bf16" and not bf16 else precision
        self.name = f"OpenVINO on CPU, {_WORDS[self.precision]}"
        compiled = core().compile_model(
            str(graph),
            "CPU",
            {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "bf16" if bf16 and precision != "32" else "f32",
                "INFERENCE_NUM_THREADS": threads or cores(),
            },
        )
        self._request = compiled.create_infer_request()

    def probabilities(self, batch: Array) -> Array:
        """Raw pictures (N, H, W, C) in file units to probabilities (N, K, H, W) float32."""
        return around(self._run, self._card, batch)

    def _run(self, values: Array) -> Array:
        result: Array = self._request.infer([values], share_inputs=True)[0]
        return result.copy()  # the request writes its next answer over this one


def convert(portable: Portable, folder: Path) -> None:
    """Write a model as model.xml and model.bin, for pictures of any number and size."""
    from contorno.models.portable import quiet

    openvino = library()
    with quiet():
        model = openvino.convert_model(portable, example_input=portable.example)
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=False)


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's core, one for as long as the process lives.

    It gives the process a stack for signal handlers; when the last core is destroyed that stack
    goes, still in use, and the next Ctrl-C would be a segmentation fault.
    """
    return library().Core()


def library() -> Any:
    """The module openvino, without the telemetry that it would send whenever it is imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
