"""Which engine runs a model: the one that was asked for, or the fastest that is exact enough."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from contorno import __version__
from contorno.card import ModelCard
from contorno.engines import Engine
from contorno.engines.artifacts import Artifacts
from contorno.engines.picture import graph_type, least
from contorno.errors import ConfigError
from contorno.files import sha256, write_text
from contorno.hardware import Hardware

if TYPE_CHECKING:
    from contorno.models import Segmenter

ENGINES = ("pytorch", "openvino", "openvino-int8", "onnxruntime")
MOST_LOST = 0.002  # of Dice on validation images: more, and int8 is not chosen by itself
_PACKAGES = {  # what an engine needs, and the extra that installs it
    "openvino": (("openvino",), "openvino"),
    "openvino-int8": (("openvino", "nncf"), "openvino"),
    "onnxruntime": (("onnx", "onnxruntime"), "export"),
}
_FORMATS = {"openvino-int8": "int8", "onnxruntime": "32-true"}  # the others compute in either
_BENCH = "bench.json"
_ONNX = "onnx"
_SEEN = "pictures.sha256"  # of those that 8 bits were calibrated on


@dataclass(frozen=True)
class Source:
    """What an engine is made of.

    Args:
        card: of the model.
        hardware: where to compute and in which number format.
        artifacts: where what was made of the model is kept.
        segmenter: gives the model's weights, which an engine with artefacts does not need.
    """

    card: ModelCard
    hardware: Hardware
    artifacts: Artifacts
    segmenter: Callable[[], Segmenter]


def open_engine(name: str, source: Source, *, threads: int | None = None) -> Engine:
    """The engine of this name.

    Args:
        name: one of `ENGINES`, or "auto".
        source: the model.
        threads: that compute; all cores when None. PyTorch's are set for the whole process.

    Raises:
        ConfigError: an unknown name, a library that is missing, a device that it does not run on,
            or 8 bits that were never measured.
    """
    require(name, source.hardware)
    if name == "auto":
        name, _ = choose_engine(source)
        whole = source.card.network.encoder is None and source.artifacts.unwritable is None
        if name != "pytorch" and not whole:
            from contorno.engines.fallback import OrPyTorch

            chosen = open_engine(name, source, threads=threads)
            return OrPyTorch(chosen, partial(open_engine, "pytorch", source))
    if name == "pytorch":
        from contorno.engines.pytorch import PyTorchEngine

        return PyTorchEngine(source.segmenter(), source.hardware, frozen=True)
    if name == "onnxruntime":
        from contorno.engines.onnxruntime import ONNXRuntimeEngine

        return ONNXRuntimeEngine(_onnx(source), source.card, threads=threads)
    from contorno.engines.openvino import OpenVINOEngine

    if name == "openvino":
        precision = "bf16" if source.hardware.bf16 else "32"
        graphs = partial(openvino_graph, source)
        return OpenVINOEngine(graphs, source.card, precision, threads=threads)
    graph = _int8(source)
    if graph is None:
        raise ConfigError(
            f"engine {name} needs an 8-bit form of the model, made of pictures like those it was "
            f"trained on: contorno bench {source.artifacts.model} IMAGES MASKS"
        )
    return OpenVINOEngine(lambda _: graph, source.card, "int8", threads=threads)


def require(name: str, hardware: Hardware) -> None:
    """Raise ConfigError for an engine that cannot run here, in words that help."""
    if name not in (*ENGINES, "auto"):
        raise ConfigError(f"engine {name!r} is unknown; choose auto, {', '.join(ENGINES)}")
    if missing := missing_for(name):
        raise ConfigError(f"engine {name} needs {missing[0]}: {missing[1]}")
    if name in _PACKAGES and hardware.accelerator != "cpu":
        raise ConfigError(f"engine {name} runs on the CPU only; add --device cpu")


def choose_engine(source: Source) -> tuple[str, str]:
    """The name of the engine that "auto" means here, and why."""
    if source.hardware.accelerator != "cpu":
        return "pytorch", "PyTorch is what runs on this device"
    measured = read_bench(source)
    if measured is not None and _ready(measured["fastest"], source):
        return measured["fastest"], "the fastest here by contorno bench"
    if _can_be("openvino", source):
        return "openvino", "OpenVINO is installed, and the fastest on the CPUs measured"
    if not source.hardware.bf16 and _can_be("onnxruntime", source):
        return "onnxruntime", "faster than PyTorch in float32 on the CPUs measured"
    if (problem := source.artifacts.unwritable) is not None:
        return "pytorch", f"the only one that keeps no files, and {problem}"
    return "pytorch", "pip install 'contorno[openvino]' gives a faster one"


def fits(name: str, hardware: Hardware) -> bool:
    """Whether this engine computes in the number format that was asked for, if one was."""
    return not hardware.asked or _FORMATS.get(name, hardware.precision) == hardware.precision


def _ready(name: str, source: Source) -> bool:
    """Whether this engine would run now: 8 bits only where `quantise` left their graph."""
    there = name != "openvino-int8" or _int8(source) is not None
    return there and fits(name, source.hardware) and _can_be(name, source)


def _can_be(name: str, source: Source) -> bool:
    """Whether its libraries are here, and what it is made of can be made or stands ready."""
    if missing_for(name):
        return False
    kept = {
        "openvino": (_openvino_name(aligned=True), _openvino_name(aligned=False)),
        "openvino-int8": (_int8_name(),),
        "onnxruntime": (_ONNX,),
    }.get(name)
    if kept is None or source.artifacts.unwritable is None:
        return True
    return any(source.artifacts.ready(one) is not None for one in kept)


def missing_for(name: str) -> tuple[str, str] | None:
    """A package that an engine lacks here, and how to get it; None when nothing is missing."""
    packages, extra = _PACKAGES.get(name, ((), ""))
    for package in packages:
        if find_spec(package) is None:
            return package, f"pip install 'contorno[{extra}]'"
    return None


def openvino_graph(source: Source, aligned: bool) -> Path:
    """The model as OpenVINO's XML file; converted when it is not there.

    Args:
        source: the model.
        aligned: for pictures alone that the network halves without a rest, or of any size.
    """

    def make(folder: Path) -> None:
        from contorno.engines.openvino import convert

        convert(_portable(source, aligned=aligned, merged=aligned), folder)

    return source.artifacts.made(_openvino_name(aligned=aligned), make) / "model.xml"


def quantise(source: Source, pictures: Sequence[NDArray[Any]]) -> Path:
    """The model in 8 bits, with the ranges of its values taken from real pictures.

    It is made anew when they are others than before. Padding and merged convolutions made such a
    graph 1.5 and 1.2 to 1.4 times as slow: it has none.

    Args:
        source: the model.
        pictures: (H, W, C) in file units, like those that it was trained on; a few dozen do.
    """
    from contorno.engines.int8 import quantised
    from contorno.engines.openvino import convert

    def make(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as plain:
            convert(_portable(source, aligned=True), Path(plain))
            quantised(Path(plain) / "model.xml", folder, source.card, pictures)
        (folder / _SEEN).write_text(seen)

    seen = sha256("".join(sha256(picture.tobytes()) for picture in pictures).encode())
    before = _int8(source)
    if before is not None and _says(before.with_name(_SEEN), seen):
        return before
    if before is not None and before.parent.parent == source.artifacts.folder:
        shutil.rmtree(before.parent, ignore_errors=True)
    return source.artifacts.make(_int8_name(), make) / "model.xml"


def read_bench(source: Source) -> dict[str, Any] | None:
    """What `contorno bench` found for this model on this machine, if it did."""
    for folder in source.artifacts.readable:
        with contextlib.suppress(OSError, ValueError):
            record: dict[str, Any] = json.loads((folder / _BENCH).read_text())
            if record.get("machine") == _machine(source):
                return record
    return None


def write_bench(source: Source, record: dict[str, Any]) -> None:
    """Keep what was found, for "auto"; `record["fastest"]` names an engine."""
    whole = {"machine": _machine(source), **record}
    write_text(source.artifacts.folder / _BENCH, json.dumps(whole, indent=1))


def _machine(source: Source) -> list[str]:
    """What a measurement depends on beside the model: hardware, number format, versions."""
    packages = ("torch", "openvino", "onnxruntime")
    versions = [f"{name} {_version(name)}" for name in packages]
    return [source.hardware.reason, f"contorno {__version__}", *versions]


def _portable(source: Source, **form: bool) -> Any:
    from contorno.models.portable import Portable

    card = source.card
    channels = card.network.in_channels
    return Portable(source.segmenter(), graph_type(card), channels, least(card), **form)


def _onnx(source: Source) -> Path:
    def make(folder: Path) -> None:
        from contorno.models.portable import write_onnx

        write_onnx(_portable(source), folder / "model.onnx")

    return source.artifacts.made(_ONNX, make) / "model.onnx"


def _int8(source: Source) -> Path | None:
    folder = source.artifacts.ready(_int8_name())
    return None if folder is None else folder / "model.xml"


def _openvino_name(*, aligned: bool) -> str:
    return f"openvino-{_version('openvino')}" + "-aligned" * aligned


def _int8_name() -> str:
    return f"openvino-{_version('openvino')}-int8"


def _says(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"
