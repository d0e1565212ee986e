"""`contorno train` with no option but a time, on real sets; scored on their test lists.

    python benchmarks/real_sets.py DATA --out /tmp/real [--time 10m] [--sets isbi2012_em ...]

DATA holds a folder for each set with images/, masks/, split_train.txt and split_test.txt. Writes
benchmarks/results/real_sets.json; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from page import RESULTS, machine

SETS = ("isbi2012_em", "dsb2018_stage1", "epfl_roads", "crackforest")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", default="10m")
    parser.add_argument("--sets", nargs="+", default=SETS)
    options = parser.parse_args()
    target = RESULTS / "real_sets.json"
    rows = json.loads(target.read_text())["sets"] if target.exists() else {}
    for name in options.sets:
        rows[name] = measure(options.data / name, options.out / name, options.time)
        results = {"machine": machine(), "time": options.time, "sets": rows}
        target.write_text(json.dumps(results, indent=1))
        print(name, rows[name], flush=True)


def measure(data: Path, run: Path, budget: str) -> dict[str, object]:
    """Train on the train list, score on the test list, both through the command line."""
    pairs = [str(data / "images"), str(data / "masks"), "--files"]
    began = time.time()
    contorno("train", *pairs, str(data / "split_train.txt"), "--out", str(run), "--time", budget)
    trained = time.time() - began
    contorno("evaluate", str(run), *pairs, str(data / "split_test.txt"), "--out", str(run / "test"))
    results = json.loads((run / "test/results.json").read_text())
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    split = json.loads((run / "split.json").read_text())
    return {
        "train_images": len(split["training"]),
        "validation_images": len(split["validation"]),
        "test_images": len(results["images"]),
        "seconds": round(trained),
        "training_seconds": round(sum(record["seconds"] for record in log)),
        "steps": log[-1]["step"],
        "architecture": results["model"]["architecture"],
        "per_image": results["per_image"],
        "pooled": results["pooled"],
    }


def contorno(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "contorno", *words], check=True)


if __name__ == "__main__":
    main()
