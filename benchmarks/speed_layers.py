"""Where one inference of contorno's OpenVINO engine goes: `speed.py --layers`.

OpenVINO's own counters give the time of every layer; arithmetic and bytes follow from the shapes
in its compiled graph. Bytes count each input and output of a layer once, as if no cache held any.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import numpy as np
from speed_arms import Job, peak

RUNS = 5
BYTES = {"f32": 4, "i32": 4, "bf16": 2, "f16": 2, "i8": 1, "u8": 1}
CONVOLUTIONS = ("Convolution", "GroupConvolution", "Deconvolution", "ConvolutionBackpropData")


def layers(job: Job) -> dict[str, Any]:
    """Time, arithmetic and memory traffic by height of a layer's output."""
    import openvino

    import contorno
    from contorno.engines.select import openvino_graph

    source = contorno.load(job.file, engine="openvino").source
    core = openvino.Core()
    graph = core.read_model(openvino_graph(source, aligned=True))
    graph.reshape(list(job.raw.shape))  # the counters give no shapes where they are not known
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if source.hardware.bf16 else "f32",
        "INFERENCE_NUM_THREADS": job.threads,
        "PERF_COUNT": True,
    }
    compiled = core.compile_model(graph, "CPU", options)
    request = compiled.create_infer_request()
    best = peak(job, "bfloat16" if source.hardware.bf16 else "float32")
    rates, whole = [], []
    request.infer([job.raw])
    for _ in range(RUNS):
        rates.append(best.call())
        began = time.perf_counter()
        request.infer([job.raw])
        whole.append(time.perf_counter() - began)
    rows: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    kinds: dict[str, float] = defaultdict(float)
    for node in compiled.get_runtime_model().get_ordered_ops():
        kind, spent = word(node, "layerType"), word(node, "execTimeMcs")
        if not spent.isdigit():  # constants, and what was fused away
            continue
        shape = tuple(node.get_output_shape(0)) if node.get_output_size() else ()
        height = shape[2] if len(shape) == 4 else 0
        row, milliseconds = rows[height], int(spent) / 1000
        kinds[kind] += milliseconds
        row["conv_ms" if kind in CONVOLUTIONS else "other_ms"] += milliseconds
        row["gflop"] += arithmetic(node, kind) / 1e9
        row["megabytes"] += moved(node) / 1e6
    return {
        "seconds": float(np.median(whole)),
        "peak_gflops": max(rates),
        "copy_gb_per_s": copy_speed(),
        "levels": {str(height): dict(rows[height]) for height in sorted(rows, reverse=True)},
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1])),
    }


def arithmetic(node: Any, kind: str) -> float:
    """Multiplications and additions of a convolution; 0 for everything else."""
    if kind not in CONVOLUTIONS:
        return 0.0
    weights = tuple(node.get_input_shape(1))
    if kind in ("Convolution", "GroupConvolution"):  # (O, I, h, w) or (groups, O, I, h, w)
        return 2.0 * math.prod(node.get_output_shape(0)) * math.prod(weights[-3:])
    return 2.0 * math.prod(node.get_input_shape(0)) * math.prod(weights[-3:])


def moved(node: Any) -> float:
    """Bytes of a layer's inputs and outputs; weights are kept in the type that it computes in."""
    total = math.prod(node.get_output_shape(0)) * size(node) if node.get_output_size() else 0
    for value in node.input_values():
        source = value.get_node()
        constant = word(source, "layerType") == "Const"
        each = size(node, "runtimePrecision") if constant else size(source)
        total += math.prod(value.get_shape()) * each
    return float(total)


def size(node: Any, key: str = "outputPrecisions") -> int:
    return BYTES.get(word(node, key).split(",")[0], 4)


def word(node: Any, key: str) -> str:
    info = node.get_rt_info()
    return str(info[key].astype(str)) if key in info else ""


def copy_speed() -> float:
    """GB/s of reading and writing memory far larger than the caches, by PyTorch's copy."""
    import torch

    source = torch.ones(2**27)
    target = torch.empty_like(source)
    best = math.inf
    for _ in range(5):
        began = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - began)
    return 2 * source.nbytes / best / 1e9
