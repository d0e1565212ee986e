"""Time `contorno demo` and draw the README's picture from what it predicted.

    python benchmarks/demo.py --out /tmp/demo

Writes benchmarks/results/demo.json and docs/images/demo.png; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from page import RESULTS, ROOT, machine
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "contorno", "demo", "--out", str(options.out)],
        check=True, text=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    seconds = time.time() - began
    print(done.stdout)
    scored = options.out / "run/evaluation"
    results = json.loads((scored / "results.json").read_text())
    otsu = re.search(r"Otsu's threshold, mean Dice ([\d.]+)", done.stdout)
    assert otsu is not None
    kept = {key: results[key] for key in ("per_image", "pooled", "model", "images")}
    kept["images"] = [row["name"] for row in results["images"]]
    kept |= {"seconds": round(seconds), "otsu_dice": float(otsu[1]), "machine": machine()}
    del kept["model"]["path"]
    RESULTS.joinpath("demo.json").write_text(json.dumps(kept, indent=1))
    draw(results["images"], scored, ROOT / "docs/images/demo.png")


def draw(rows: list[dict[str, str]], scored: Path, path: Path, count: int = 3) -> None:
    """The middle images by Dice, side by side, with both outlines."""
    ordered = sorted(rows, key=lambda row: row["dice"])
    middle = len(ordered) // 2 - count // 2
    figure = Figure(figsize=(9, 3), layout="none")
    for place, row in enumerate(ordered[middle : middle + count]):
        axes = figure.add_axes((place / count + 0.003, 0, 1 / count - 0.006, 1))
        axes.imshow(np.asarray(Image.open(row["image"])))
        for name, colour, width in (("truth", "#22d3ee", 2.4), ("prediction", "#ff8c1a", 1.1)):
            mask = np.asarray(Image.open(scored / row[name])) > 0
            axes.contour(mask, levels=[0.5], colors=[colour], linewidths=width)
        axes.axis("off")
    figure.savefig(path, dpi=120)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(
        path, optimize=True
    )


if __name__ == "__main__":
    main()
