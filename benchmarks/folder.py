"""`contorno predict` on a folder beside its engine alone, on the same pictures in memory.

    python benchmarks/folder.py FOLDER [--pictures 500] [--rounds 5] [--model RUN]

Draws the pictures in FOLDER (512 x 512 RGB PNG; kept for the next time). In each round one part of
them goes through the engine alone, already decoded, and then from file to written mask. Without
--model the network has the default widths and random weights, which take as long as trained ones.
Writes benchmarks/results/folder.json; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from check import draw
from page import RESULTS, machine

import contorno
from contorno.card import ModelCard
from contorno.checkpoint import save_model
from contorno.config import NetworkConfig, Preprocessing
from contorno.images import read_image
from contorno.models import Segmenter, build_network


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--engine", default="auto")
    options = parser.parse_args()
    for part in ("images", "masks"):
        (options.folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(options.pictures):
        if not (options.folder / "masks" / f"p{number:05}.png").exists():
            draw(options.folder, number)
    files = sorted((options.folder / "images").iterdir())[: options.pictures]
    model = contorno.load(options.model or random_model(options.folder), engine=options.engine)
    arrays = [read_image(file) for file in files[:50]]
    model.engine.probabilities(arrays[0][None])
    rounds = []
    parts = np.array_split(np.arange(len(files)), options.rounds)
    out = Path(tempfile.mkdtemp(dir=options.folder))
    for part in parts:
        began = time.perf_counter()
        for index in part:
            model.engine.probabilities(arrays[index % len(arrays)][None])
        alone = time.perf_counter() - began
        began = time.perf_counter()
        outcome = contorno.predict(model, [files[index] for index in part], out=out)
        whole = time.perf_counter() - began
        assert len(outcome.written) == len(part)
        rounds.append({"engine": len(part) / alone, "folder": len(part) / whole})
        print(rounds[-1], flush=True)
    shutil.rmtree(out)
    ratios = [one["folder"] / one["engine"] for one in rounds]
    results = {
        "machine": machine(),
        "engine": model.engine.name,
        "network": model.about()["architecture"],
        "pictures": len(files),
        "rounds": rounds,
        "ratio": {"median": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)},
    }
    (RESULTS / "folder.json").write_text(json.dumps(results, indent=1))
    print(results["ratio"])


def random_model(folder: Path) -> Path:
    network = NetworkConfig(in_channels=3, out_channels=1, widths=(32, 64, 128, 256, 512))
    card = ModelCard(
        network=network,
        preprocessing=Preprocessing(mean=(127.0,) * 3, std=(60.0,) * 3, output="sigmoid"),
    )
    segmenter = Segmenter(build_network(network), card.preprocessing).eval()
    save_model(folder / "model.safetensors", segmenter, card)
    return folder / "model.safetensors"


if __name__ == "__main__":
    main()
