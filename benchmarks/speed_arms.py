"""One way of running a model, in a process of its own, told what to do over a pipe; see speed.py.

    python benchmarks/speed_arms.py ARM JOB.json

Makes the arm ready, does its first inference and says so in a line of JSON. Then each line of
standard input is answered by one: "run" (seconds of one call), "mask FILE" (saves what is
foreground), "end" (peak memory). What libraries print goes to standard error.

What a call is: the notebook, its copies and the peers take a batch that is float32, normalised and
in the layout that they like best, and give their output. contorno's engines take raw uint8 pictures
(N, H, W, C) and give probabilities, so their times hold the normalisation too.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
WIDTHS = (64, 128, 256, 512, 1024)
CALIBRATION = 16  # pictures for 8-bit integers, none of them timed or scored
CONVOLUTIONS = ((128, 256), (256, 128))  # channels and edge, for the peak
Call = Callable[[], Any]


@dataclass
class Job:
    """What to run.

    Args:
        model: "R1" or "R2".
        file: contorno's model file with its weights.
        pictures: .npy of raw pictures (N, H, W, 3) uint8, N being the batch.
        calibration: the same, other pictures.
        work: folder for what takes long to make.
        device: "cpu" or "cuda".
        threads: that compute.
    """

    model: str
    file: str
    pictures: str
    calibration: str
    work: str
    device: str
    threads: int

    @property
    def raw(self) -> Any:
        return np.load(self.pictures)


@dataclass
class Ready:
    """An arm that can be called.

    Args:
        call: does it once, to the end.
        mask: the foreground (N, H, W) bool that the call gave; None: weights of its own.
        gflop: of one image; None: as the notebook's.
        packages: whose versions matter.
        rates: whether the call gives GFLOP/s, which count instead of its seconds.
    """

    call: Call
    mask: Callable[[Any], Any] | None
    gflop: float | None
    packages: tuple[str, ...] = ("torch",)
    rates: bool = False


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    name, job = sys.argv[1], Job(**json.loads(Path(sys.argv[2]).read_text()))
    warnings.simplefilter("ignore")
    try:
        import torch

        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
        began = time.perf_counter()
        ready = ARMS[name](job)
        made = time.perf_counter()
        ready.call()
        said = {"ready": made - began, "first": time.perf_counter() - made, "gflop": ready.gflop}
        said["versions"] = {package: version(package) for package in ready.packages}
    except Exception as error:  # a peer that does not run here is a row of the table
        text = " ".join(str(error).split())
        answers.write(json.dumps({"error": f"{type(error).__name__}: {text[:300]}"}) + "\n")
        return
    answers.write(json.dumps(said) + "\n")
    for line in sys.stdin:
        word, _, file = line.strip().partition(" ")
        answers.write(json.dumps(answer(ready, word, file)) + "\n")


def answer(ready: Ready, word: str, file: str) -> dict[str, Any]:
    if word == "run":
        began = time.perf_counter()
        result = ready.call()
        seconds = time.perf_counter() - began
        return {"gflops": result} if ready.rates else {"seconds": seconds}
    if word == "mask" and ready.mask:
        np.save(file, ready.mask(ready.call()))
    return {"peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}


# The notebook, and what can be done with its module by hand


def notebook(job: Job) -> tuple[Any, Any, float]:
    """The notebook's module with the model's weights, its normalised input, and the threshold."""
    sys.path.insert(0, str(ROOT / "tests"))
    import notebooks

    from contorno.checkpoint import load_model

    segmenter, card = load_model(Path(job.file))
    module = getattr(notebooks, job.model)()
    module.load_state_dict(segmenter.network.state_dict())
    logits = job.model == "R1" and card.preprocessing.output == "sigmoid"
    return module.eval(), normalised(job.raw, segmenter), 0.0 if logits else 0.5


def normalised(raw: Any, segmenter: Any) -> Any:
    import torch

    return segmenter.normalise(torch.from_numpy(raw).permute(0, 3, 1, 2)).contiguous()


def gflop(module: Any, size: int) -> float:
    """Of one image, multiplications and additions apart, without running it."""
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(module).to("meta")(torch.empty(1, 3, size, size, device="meta"))
    return counter.get_total_flops() / 1e9


def eager(job: Job, *, inference_mode: bool = True, bf16: bool = False) -> Ready:
    module, images, limit = notebook(job)
    count = gflop(module, images.shape[-1])
    return torch_arm(job, module, images, limit, count, inference_mode=inference_mode, bf16=bf16)


def torch_arm(
    job: Job,
    module: Any,
    images: Any,
    limit: float | None,
    count: float | None,
    *,
    inference_mode: bool = True,
    bf16: bool = False,
    compiled: bool = False,
) -> Ready:
    """A module run by PyTorch; with `bf16` under autocast and channels_last."""
    import torch

    layout = torch.channels_last if bf16 else torch.contiguous_format
    module = module.eval().to(job.device).to(memory_format=layout)
    images = images.to(job.device).contiguous(memory_format=layout)
    guard = torch.inference_mode if inference_mode and not compiled else torch.no_grad
    if compiled:
        import torch._inductor.config as inductor

        inductor.freezing = True
        module = torch.compile(module)

    def call() -> Any:
        with guard(), torch.autocast(job.device, torch.bfloat16, enabled=bf16):
            result = module(images)
        if job.device == "cuda":
            torch.cuda.synchronize()
        return result

    def mask(result: Any) -> Any:
        return (result[:, 0].float() > limit).cpu().numpy()

    return Ready(call, None if limit is None else mask, count)


def compiled(job: Job) -> Ready:
    module, images, limit = notebook(job)
    count = gflop(module, images.shape[-1])
    return torch_arm(job, module, images, limit, count, bf16=True, compiled=True)


# Other runtimes, given the notebook's module as their documentation says


def plain_graph(job: Job) -> tuple[Any, Any, float]:
    import openvino
    import torch

    only_cpu(job)
    module, images, limit = notebook(job)
    with torch.no_grad():
        graph = openvino.convert_model(module, example_input=images, input=[tuple(images.shape)])
    return graph, images.numpy(), limit


def openvino_arm(job: Job, hint: str, *, quantised: bool = False) -> Ready:
    import openvino

    packages = ("openvino", "nncf") if quantised else ("openvino",)
    if quantised:
        graph, images, limit = quantised_graph(job)
    else:
        graph, images, limit = plain_graph(job)
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": job.threads,
    }
    request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
    return Ready(
        lambda: request.infer([images], share_inputs=True)[0],
        lambda result: result[:, 0] > limit,
        None,
        packages,
    )


def quantised_graph(job: Job) -> tuple[Any, Any, float]:
    """The plain graph in 8-bit integers by nncf, calibrated on pictures; kept for the next time."""
    import nncf
    import openvino

    from contorno.checkpoint import load_model

    graph, images, limit = plain_graph(job)
    graph.reshape([-1, *images.shape[1:]])
    digest = hashlib.sha256(Path(job.file).read_bytes()).hexdigest()[:12]
    kept = Path(job.work) / f"{job.model}-{images.shape[-1]}-{digest}-int8.xml"
    if not kept.exists():
        segmenter, _ = load_model(Path(job.file))
        some = normalised(np.load(job.calibration), segmenter).numpy()
        dataset = nncf.Dataset([picture[None] for picture in some])
        openvino.save_model(nncf.quantize(graph, dataset, subset_size=len(some)), kept)
    graph = openvino.Core().read_model(kept)
    graph.reshape(images.shape)
    return graph, images, limit


def onnxruntime_arm(job: Job) -> Ready:
    import onnxruntime
    import torch

    only_cpu(job)
    module, images, limit = notebook(job)
    file = Path(job.work) / f"{job.model}-{len(images)}.onnx"
    torch.onnx.export(module, (images,), file, dynamo=True, verbose=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images.numpy()}
    return Ready(
        lambda: session.run(None, feed)[0],
        lambda result: result[:, 0] > limit,
        None,
        ("onnxruntime", "torch"),
    )


def only_cpu(job: Job) -> None:
    if job.device != "cpu":
        raise RuntimeError("an arm for the CPU")


# Peers with networks of their own: random weights, the same input


def peer(job: Job, module: Any, package: str, *, bf16: bool = False) -> Ready:
    import torch

    raw = torch.from_numpy(job.raw).permute(0, 3, 1, 2)
    count = gflop(module, raw.shape[-1])
    ready = torch_arm(job, module, raw / 255.0, None, count, bf16=bf16)
    ready.packages = ("torch", package)
    return ready


def monai_basic(job: Job, *, bf16: bool = False) -> Ready:
    from monai.networks.nets import BasicUNet

    features = (*WIDTHS, WIDTHS[0])
    return peer(job, BasicUNet(2, 3, 1, features=features, norm="batch"), "monai", bf16=bf16)


def monai_dyn(job: Job) -> Ready:
    from monai.networks.nets import DynUNet

    strides = [1, 2, 2, 2, 2]
    module = DynUNet(2, 3, 1, [3] * 5, strides, strides[1:], filters=WIDTHS)
    return peer(job, module, "monai")


def nnunet(job: Job, *, bf16: bool = False) -> Ready:
    from dynamic_network_architectures.architectures.unet import PlainConvUNet
    from torch import nn

    module = PlainConvUNet(
        *(3, 5, WIDTHS, nn.Conv2d, 3, (1, 2, 2, 2, 2), 2, 2, 2),
        conv_bias=True,
        norm_op=nn.InstanceNorm2d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return peer(job, module, "dynamic-network-architectures", bf16=bf16)


def smp(job: Job) -> Ready:
    import segmentation_models_pytorch

    module = segmentation_models_pytorch.Unet("resnet34", encoder_weights=None)
    return peer(job, module, "segmentation-models-pytorch")


# contorno


def contorno(job: Job, engine: str, package: str) -> Ready:
    import contorno

    model = contorno.load(job.file, device=job.device, engine=engine)
    if engine == "openvino-int8":
        from contorno.engines.select import quantise

        quantise(model.source, np.load(job.calibration))
    run, raw = model.engine, job.raw
    return Ready(
        lambda: run.probabilities(raw), lambda result: result[:, 0] > 0.5, None, (package,)
    )


# The peak of each number format: the best of a large product and two of a U-Net's own convolutions


def peak(job: Job, dtype: str) -> Ready:
    """The call gives GFLOP/s, by PyTorch (oneDNN on a CPU)."""
    import torch

    kind = getattr(torch, dtype)
    edge = 2048 if job.device == "cpu" else 8192
    a = torch.randn(edge, edge, device=job.device).to(kind)
    works: list[tuple[float, Call]] = [(2.0 * edge**3, lambda: a @ a)]
    works += [convolution(job, kind, channels, side) for channels, side in CONVOLUTIONS]

    def timed(work: Call) -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            work()
        if job.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def call() -> float:
        return max(operations / timed(work) / 1e9 for operations, work in works for _ in range(2))

    return Ready(call, None, None, rates=True)


def convolution(job: Job, kind: Any, channels: int, side: int) -> tuple[float, Call]:
    import torch

    count = 1 if job.device == "cpu" else 16
    conv = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
    conv = conv.to(job.device, kind).to(memory_format=torch.channels_last)
    images = torch.randn(count, channels, side, side, device=job.device).to(kind)
    images = images.contiguous(memory_format=torch.channels_last)
    return 18.0 * channels**2 * side**2 * count, lambda: conv(images)


def peak_int8(job: Job) -> Ready:
    """By OpenVINO's counters: PyTorch has no 8-bit convolution of its own on every processor."""
    import nncf
    import openvino
    import torch

    only_cpu(job)
    options = {"INFERENCE_NUM_THREADS": job.threads, "PERF_COUNT": True}
    requests = []
    for channels, side in CONVOLUTIONS:
        convs = [torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(3)]
        images = torch.rand(1, channels, side, side)
        module = torch.nn.Sequential(*convs).eval()
        with torch.no_grad():
            graph = openvino.convert_model(
                module, example_input=images, input=[tuple(images.shape)]
            )
        graph = nncf.quantize(graph, nncf.Dataset([images.numpy()]), subset_size=1)
        request = openvino.Core().compile_model(graph, "CPU", options).create_infer_request()
        requests.append((18.0 * channels**2 * side**2, request, images.numpy()))

    def call() -> float:
        rates = []
        for operations, request, images in requests:
            request.infer([images], share_inputs=True)
            rates += [
                operations / node.real_time.total_seconds() / 1e9
                for node in request.profiling_info
                if node.node_type == "Convolution"
            ]
        return max(rates)

    return Ready(call, None, None, ("openvino", "nncf"), rates=True)


ARMS: dict[str, Callable[[Job], Ready]] = {
    "notebook": eager,
    "notebook no_grad": lambda job: eager(job, inference_mode=False),
    "notebook bf16": lambda job: eager(job, bf16=True),
    "notebook compiled": compiled,
    "openvino float32": lambda job: openvino_arm(job, "f32"),
    "openvino bf16": lambda job: openvino_arm(job, "bf16"),
    "openvino int8": lambda job: openvino_arm(job, "bf16", quantised=True),
    "onnxruntime": onnxruntime_arm,
    "contorno pytorch": lambda job: contorno(job, "pytorch", "torch"),
    "contorno openvino": lambda job: contorno(job, "openvino", "openvino"),
    "contorno int8": lambda job: contorno(job, "openvino-int8", "openvino"),
    "contorno onnxruntime": lambda job: contorno(job, "onnxruntime", "onnxruntime"),
    "monai BasicUNet": monai_basic,
    "monai BasicUNet bf16": lambda job: monai_basic(job, bf16=True),
    "monai DynUNet": monai_dyn,
    "nnU-Net": nnunet,
    "nnU-Net bf16": lambda job: nnunet(job, bf16=True),
    "smp": smp,
    "peak float32": lambda job: peak(job, "float32"),
    "peak bfloat16": lambda job: peak(job, "bfloat16"),
    "peak int8": peak_int8,
}

if __name__ == "__main__":
    main()
