"""How long `contorno predict` takes for one picture, from the command to the written mask.

    python benchmarks/cold.py FOLDER [--rounds 5]

With the default network and with R2's widths, by PyTorch, and by OpenVINO the first time (the model
is converted) and from then on. Each is the whole command in a process of its own; where the time
goes is measured in the same way, one step after the other. Writes benchmarks/results/cold.json;
then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from check import draw
from page import RESULTS, machine

from contorno.card import ModelCard
from contorno.checkpoint import save_model
from contorno.config import NetworkConfig, Preprocessing
from contorno.models import Segmenter, build_network

MODELS = {
    "default": NetworkConfig(in_channels=3, out_channels=1, widths=(32, 64, 128, 256, 512)),
    "R2": NetworkConfig(
        in_channels=3, out_channels=1, widths=(64, 128, 256, 512, 1024), up="bilinear"
    ),
}
ARMS = {"pytorch": "pytorch", "openvino, first": "openvino", "openvino, again": "openvino"}
STEPS = """
import pathlib, sys, time
began = time.perf_counter()
times = {}
def lap(name):
    global began
    now = time.perf_counter(); times[name] = now - began; began = now
import contorno.api, contorno.predict
lap("contorno loads")
model = contorno.api.load(sys.argv[1], engine=sys.argv[3])
model.sha256
lap("model file read")
engine = model.engine
lap("engine opens")
from contorno.images import read_image
engine.probabilities(read_image(pathlib.Path(sys.argv[2]))[None])
lap("first picture")
import json; print(json.dumps(times))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    for part in ("images", "masks"):
        (options.folder / part).mkdir(parents=True, exist_ok=True)
    draw(options.folder, 0)
    picture = options.folder / "images" / "p00000.png"
    rows: dict[str, Any] = {}
    for name, network in MODELS.items():
        model = write(options.folder / f"{name}.safetensors", network)
        seconds: dict[str, list[float]] = {arm: [] for arm in ARMS}
        steps: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
        for _ in range(options.rounds):
            for arm, engine in ARMS.items():
                forget(model, arm)
                seconds[arm].append(command(model, picture, options.folder / "out", engine))
                forget(model, arm)
                steps[arm].append(laps(model, picture, engine))
        rows[name] = {
            arm: {
                "seconds": statistics.median(seconds[arm]),
                "low": min(seconds[arm]),
                "high": max(seconds[arm]),
                "steps": {
                    step: statistics.median(one[step] for one in steps[arm])
                    for step in steps[arm][0]
                },
            }
            for arm in ARMS
        }
        print(name, json.dumps(rows[name], indent=1), flush=True)
    results = {"machine": machine(), "rounds": options.rounds, "models": rows}
    (RESULTS / "cold.json").write_text(json.dumps(results, indent=1))


def forget(model: Path, arm: str) -> None:
    if arm.endswith("first"):
        shutil.rmtree(model.with_suffix(".engines"), ignore_errors=True)


def command(model: Path, picture: Path, out: Path, engine: str) -> float:
    shutil.rmtree(out, ignore_errors=True)
    words = ["predict", str(model), str(picture), "--out", str(out), "--engine", engine]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "contorno", *words], check=True, stdout=subprocess.DEVNULL
    )
    return time.perf_counter() - began


def laps(model: Path, picture: Path, engine: str) -> dict[str, float]:
    words = [sys.executable, "-c", STEPS, str(model), str(picture), engine]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    times: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return times


def write(path: Path, network: NetworkConfig) -> Path:
    preprocessing = Preprocessing(mean=(127.0,) * 3, std=(60.0,) * 3, output="sigmoid")
    card = ModelCard(network=network, preprocessing=preprocessing)
    save_model(path, Segmenter(build_network(network), preprocessing).eval(), card)
    return path


if __name__ == "__main__":
    main()
