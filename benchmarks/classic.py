"""The two reference notebooks, trained for their 100 epochs on the demo set: R1 and R2.

    python benchmarks/classic.py --out /tmp/classic [--size 256 --widths 16,32,64,128,256]

Writes benchmarks/results/classic.json and docs/images/classic.svg; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from matplotlib.figure import Figure
from page import RESULTS, ROOT, machine

from contorno.data.demo import write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", default="256")
    parser.add_argument("--widths", default="16,32,64,128,256")
    parser.add_argument("--epochs", default="100")
    options = parser.parse_args()
    write(options.out / "set")
    rows = {}
    for name, up in (("R1", "transposed"), ("R2", "bilinear")):
        rows[name] = train(options, up)
        results = {
            "machine": machine(),
            "size": options.size,
            "widths": options.widths,
            "runs": rows,
        }
        RESULTS.joinpath("classic.json").write_text(json.dumps(results, indent=1))
    draw(rows, ROOT / "docs/images/classic.svg")


def train(options: argparse.Namespace, up: str) -> dict[str, object]:
    """One run through the command line, as a user would start it."""
    run = options.out / up
    pairs = options.out / "set/train"
    command = ["contorno", "train", str(pairs / "images"), str(pairs / "masks"), "--out", str(run)]
    command += ["--recipe", "classic", "--up", up, "--size", options.size]
    command += ["--widths", options.widths, "--epochs", options.epochs, "--seed", "0"]
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", *command], check=True, text=True, stdout=subprocess.PIPE
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("Lote")]
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "seconds": round(time.time() - began),
        "first_line": lines[0],
        "last_line": lines[-1],
        "loss": [record["loss"] for record in log],
        "validation_dice": [record["validation_dice"] for record in log],
    }


def draw(rows: dict[str, dict[str, object]], path: Path) -> None:
    """Loss by epoch, logarithmic."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, row in rows.items():
        axes.semilogy(range(1, len(row["loss"]) + 1), row["loss"], label=name)  # type: ignore[arg-type]
    axes.set(xlabel="epoch", ylabel="training loss (MSE)")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
