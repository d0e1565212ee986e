"""Inference speed of contorno's engines beside notebooks and other tools, in interleaved rounds.

    python benchmarks/speed.py [--model R1=FILE --model R2=FILE] [--size 512] [--batches 1 8]
        [--rounds 5] [--peers PYTHON] [--arms ARM ...] [--device cuda] [--layers]

Each arm is a process of its own (speed_arms.py) that sleeps until it is told to run once, so that
rounds go A B C, A B C, and neither memory nor threads mix. Ratios are of the notebook's time to the
arm's in the same round. Without model files the weights are random, with the statistics that batch
normalisation finds on the pictures. --peers is an interpreter for the arms of other tools, where
they are not in this one. --layers asks instead where one inference goes, layer by layer.

Adds its tables to benchmarks/results/speed.json; then run benchmarks/page.py. --device cuda is
written but was never run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from page import RESULTS, machine
from speed_arms import CALIBRATION, ROOT, Job, normalised

from contorno.data.microscopy import draw
from contorno.hardware import cores, free_memory

NEEDED = 3 * 2**30  # bytes that must be free for one more arm to start
OF_PEERS = ("nnU-Net", "nnU-Net bf16", "smp")
PEAKS = ("peak float32", "peak bfloat16", "peak int8")
WHAT = {  # arm: number format, what it is
    "notebook": ("float32", "the notebook as it stands: eager, `eval`, `inference_mode`"),
    "notebook no_grad": ("float32", "the same under the notebook's own `no_grad`"),
    "notebook bf16": ("bfloat16", "the notebook under bf16 autocast, channels_last"),
    "notebook compiled": ("bfloat16", "that through `torch.compile`, weights frozen"),
    "openvino float32": ("float32", "the notebook's module converted by OpenVINO"),
    "openvino bf16": ("bfloat16", "that with OpenVINO's bf16 hint"),
    "openvino int8": ("int8", "that quantised by nncf after training"),
    "onnxruntime": ("float32", "the notebook's module exported to ONNX, ONNX Runtime"),
    "contorno pytorch": ("bfloat16", 'contorno, `engine="pytorch"`'),
    "contorno openvino": ("bfloat16", 'contorno, `engine="openvino"`'),
    "contorno int8": ("int8", 'contorno, `engine="openvino-int8"`'),
    "contorno onnxruntime": ("float32", 'contorno, `engine="onnxruntime"`'),
    "monai BasicUNet": ("float32", "MONAI BasicUNet, 64 to 1024 channels, batch norm, eager"),
    "monai BasicUNet bf16": ("bfloat16", "that under bf16 autocast, channels_last"),
    "monai DynUNet": ("float32", "MONAI DynUNet, 64 to 1024 channels, instance norm, eager"),
    "nnU-Net": ("float32", "nnU-Net's PlainConvUNet, 64 to 1024 channels, eager"),
    "nnU-Net bf16": ("bfloat16", "that under bf16 autocast, channels_last"),
    "smp": ("float32", "segmentation_models.pytorch Unet(resnet34), eager"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], metavar="R1=FILE")
    parser.add_argument("--models", nargs="+", default=["R1", "R2"], choices=["R1", "R2"])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", default=sys.executable, help="interpreter that has the peers")
    parser.add_argument("--arms", nargs="+", default=list(WHAT), choices=list(WHAT))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--work", type=Path, default=Path("speed"), help="folder for what is made")
    parser.add_argument("--layers", action="store_true")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    calibration = pictures(options.work, "calibration", CALIBRATION, options.size, seed=1)
    given = dict(word.split("=", 1) for word in options.model)
    for model in options.models:
        file = given.get(model) or str(random_model(options.work, model, calibration))
        for batch in options.batches:
            images = pictures(options.work, f"batch{batch}", batch, options.size, seed=0)
            job = Job(
                *(model, file, str(images), str(calibration), str(options.work)),
                *(options.device, cores()),
            )
            if options.layers:
                from speed_layers import layers

                add(["layers", model, str(batch)], layers(job))
                continue
            table = measure(job, options) | {"random_weights": model not in given}
            device = "" if options.device == "cpu" else f" {options.device}"
            add([f"{options.size} px{device}", model, str(batch)], table)


def add(keys: list[str], value: dict[str, Any]) -> None:
    """Put one result into speed.json, leaving those of other runs."""
    file = RESULTS / "speed.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    place = results
    for key in keys[:-1]:
        place = place.setdefault(key, {})
    place[keys[-1]] = value | {"machine": machine()}
    file.write_text(json.dumps(results, indent=1))


def pictures(work: Path, name: str, count: int, size: int, *, seed: int) -> Path:
    """Drawn cells (N, H, W, 3) uint8 as .npy; those of one seed are always the same."""
    file = work / f"{name}-{size}.npy"
    if not file.exists():
        np.save(file, np.stack([draw(index, seed=seed, size=size)[0] for index in range(count)]))
    return file


def random_model(work: Path, name: str, calibration: Path) -> Path:
    """A model file of the reference's architecture whose values are alive at every depth.

    Batch normalisation gets its statistics from the pictures, and the last bias splits the pixels
    in halves. Masks of such a model are ragged: one that was trained agrees better.
    """
    import torch
    from torch import nn

    from contorno.card import ModelCard
    from contorno.checkpoint import save_model
    from contorno.config import NetworkConfig, Preprocessing
    from contorno.models import Segmenter, build_network

    file = work / f"{name}-random.safetensors"
    if file.exists():
        return file
    torch.manual_seed(0)
    bilinear = name == "R2"
    config = NetworkConfig(
        up="bilinear" if bilinear else "transposed", activation="sigmoid" if bilinear else None
    )
    preprocessing = Preprocessing(
        mean=(0.0,) * 3, std=(255.0,) * 3, output="identity" if bilinear else "clamp"
    )
    segmenter = Segmenter(build_network(config), preprocessing)
    for layer in segmenter.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # plain mean over all batches
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.uniform_(layer.bias, 0.1, 0.5)
    images = normalised(np.load(calibration)[:4, :128, :128], segmenter)
    network: Any = segmenter.network
    network.activation = None
    with torch.no_grad():
        network.train()(images)
        network.out.bias -= network.eval()(images).median() - (0.0 if bilinear else 0.5)
    save_model(file, segmenter, ModelCard(network=config, preprocessing=preprocessing))
    return file


class Arm:
    """A process of speed_arms.py."""

    def __init__(self, name: str, job: Path, python: str) -> None:
        quiet = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0", "GOMP_SPINCOUNT": "0"}
        paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | quiet | {"PYTHONPATH": os.pathsep.join(paths)}
        script = str(ROOT / "benchmarks/speed_arms.py")
        self._process = subprocess.Popen(
            [python, script, name, str(job)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        self.start = self._answer()

    def ask(self, words: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(words + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and the answer says so
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            answer: dict[str, Any] = json.loads(line)
            return answer
        return {"error": f"ended with {self._process.wait()}"}

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def measure(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """One table: all arms for one model and batch."""
    names = list(dict.fromkeys(["notebook", *options.arms, *PEAKS]))
    file = options.work / "job.json"
    file.write_text(json.dumps(asdict(job)))
    arms: dict[str, Arm] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        if free_memory() < NEEDED:
            rows[name] = {"error": "not enough memory left to start it beside the others"}
            continue
        arm = Arm(name, file, options.peers if name in OF_PEERS else sys.executable)
        rows[name] = arm.start | {"runs": []}
        print(f"{job.model} batch {len(job.raw)}: {name}: {arm.start}", flush=True)
        if "error" not in arm.start:
            arms[name] = arm
    for number in range(options.rounds):
        for name, arm in arms.items():
            answer = arm.ask("run")
            if "error" in answer:
                rows[name]["error"] = answer["error"]
            else:
                rows[name]["runs"].append(answer.get("seconds") or answer["gflops"])
        print(f"round {number + 1}", {name: rows[name]["runs"][-1:] for name in arms}, flush=True)
    reference = None
    for name, arm in arms.items():
        kept = options.work / "mask.npy"
        kept.unlink(missing_ok=True)
        rows[name] |= arm.ask(f"mask {kept}")
        arm.end()
        if kept.exists():
            mask = np.load(kept)
            reference = mask if reference is None else reference
            rows[name] |= agreement(mask, reference)
    return {"threads": job.threads, "rounds": options.rounds} | summary(rows, len(job.raw))


def agreement(mask: Any, reference: Any) -> dict[str, float]:
    """How far a mask is the notebook's: share of equal pixels, and Dice pooled over pictures."""
    both = int((mask & reference).sum())
    return {
        "equal": float((mask == reference).mean()),
        "dice": 2 * both / max(int(mask.sum()) + int(reference.sum()), 1),
    }


def summary(rows: dict[str, dict[str, Any]], batch: int) -> dict[str, Any]:
    """Medians, ratios and shares of the peak, from what the arms answered."""
    peaks = {
        name.removeprefix("peak "): max(row["runs"])
        for name, row in rows.items()
        if name in PEAKS and row.get("runs")
    }
    base = rows["notebook"]
    table = {}
    for name, row in rows.items():
        if name in PEAKS:
            continue
        kind = WHAT[name][0]
        table[name] = {"format": kind, "what": WHAT[name][1]} | row
        if "error" in row:
            continue
        seconds = statistics.median(row["runs"])
        ratios = [a / b for a, b in zip(base["runs"], row["runs"], strict=True)]
        count = row["gflop"] or base["gflop"]
        table[name] |= {
            "seconds": seconds,
            "images_per_second": batch / seconds,
            "ratio": {
                "median": statistics.median(ratios),
                "low": min(ratios),
                "high": max(ratios),
            },
            "gflop": count,
            "share_of_peak": batch * count / seconds / peaks[kind] if kind in peaks else None,
        }
    return {"peaks": peaks, "arms": table}


if __name__ == "__main__":
    main()
