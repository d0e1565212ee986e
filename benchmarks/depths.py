"""The same pictures as 8-bit PNG, and as 16-bit, float and 5-channel TIFF: the same masks?

    python benchmarks/depths.py DATA/dsb2018_stage1 --out RUNS [--epochs 50] [--images 150]
        [--versions 8-bit 16-bit]

Writes the versions of the set's pictures to RUNS, trains on each with the same seed and steps, and
scores on the test list. Adds a row for each to benchmarks/results/depths.json; then run
benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from page import RESULTS, machine
from PIL import Image

VERSIONS: dict[str, Callable[[Any], Any]] = {
    "8-bit": lambda rgb: rgb,
    "5 channels": lambda rgb: np.concatenate([rgb, rgb[..., :2]], axis=-1),
    "16-bit": lambda rgb: rgb.astype(np.uint16) * 257,
    "float": lambda rgb: rgb.astype(np.float32) / 255,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--widths", default="8,16,32,64,128")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--versions", nargs="+", choices=list(VERSIONS), default=list(VERSIONS))
    options = parser.parse_args()
    train, test = (
        (options.data / f"split_{part}.txt").read_text().split() for part in ("train", "test")
    )
    train = train[: options.images]
    (options.out).mkdir(parents=True, exist_ok=True)
    (options.out / "train.txt").write_text("\n".join(train))
    (options.out / "test.txt").write_text("\n".join(test))
    path = RESULTS / "depths.json"
    kept = json.loads(path.read_text())["runs"] if path.exists() else []
    for seed in options.seeds:
        for name in options.versions:
            folder = options.out / name.replace(" ", "-")
            pictures = [*train, *test]
            write(options.data, folder, pictures, VERSIONS[name], tiff=name != "8-bit")
            settings = {
                "epochs": options.epochs,
                "widths": options.widths,
                "train_images": len(train),
                "test_images": len(test),
                "seed": seed,
                "version": name,
            }
            run = settings | {"dice": measure(options, folder, seed), "machine": machine()}
            kept = [old for old in kept if not settings.items() <= old.items()] + [run]
            path.write_text(json.dumps({"runs": kept}, indent=1))
            print(run, flush=True)


def write(data: Path, folder: Path, stems: list[str], change: Any, *, tiff: bool) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for stem in stems:
        rgb = np.asarray(Image.open(data / "images" / f"{stem}.png").convert("RGB"))
        if tiff:
            picture = change(rgb)
            target = folder / "images" / f"{stem}.tif"
            photometric = "rgb" if picture.shape[2] == 3 else "minisblack"
            tifffile.imwrite(
                target, picture, photometric=photometric, planarconfig="contig", compression="zstd"
            )
        else:
            Image.fromarray(change(rgb)).save(folder / "images" / f"{stem}.png")


def measure(options: argparse.Namespace, folder: Path, seed: int) -> float:
    """Mean Dice on the test list of a model trained on this version."""
    run = folder / f"run{seed}"
    pairs = [str(folder / "images"), str(options.data / "masks"), "--files"]
    contorno(
        *("train", *pairs, str(options.out / "train.txt"), "--out", str(run)),
        *("--epochs", str(options.epochs), "--seed", str(seed)),
        *("--widths", options.widths),
    )
    contorno(
        *("evaluate", str(run), *pairs, str(options.out / "test.txt"), "--out", str(run / "test"))
    )
    results = json.loads((run / "test/results.json").read_text())
    return float(results["per_image"]["dice"]["mean"])


def contorno(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "contorno", *words], check=True)


if __name__ == "__main__":
    main()
