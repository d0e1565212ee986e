"""What each part of the recipe is worth: the same time with one value changed, for validation.

    python benchmarks/ablation.py DATA --out /tmp/runs [--time 3m] [--sets isbi2012_em ...]
        [--changes "base 16" ...] [--seeds 0 1 2]

Trains on each set's train list alone; the test lists are not read. Within a seed all runs part the
list alike. What is compared is the best validation Dice of a run, before anything is tuned; the
seconds of the whole command are kept too, which show how well `--time` is kept. Cells that are in
benchmarks/results/ablation.json are skipped; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

from accuracy_sets import SETS
from page import RESULTS, machine

QUICK, WIDE = (16, 32, 64, 128, 256), (32, 64, 128, 256, 512)
WISHES: dict[str, dict[str, Any]] = {  # name: values that win over the recipe's
    "recipe": {},
    "base 16 without patches": {"widths": QUICK, "patch": 1},
    "base 16, patch 2": {"widths": QUICK, "patch": 2},
    "base 32 without patches": {"widths": WIDE, "patch": 1},
    "base 32, patch 2": {"widths": WIDE, "patch": 2},
    "base 32, patch 4": {"widths": WIDE, "patch": 4},
    "4 levels": {"widths": QUICK[:4], "patch": 2},
    "bilinear": {"up": "bilinear"},
    "normalised by the set": {"normalise": "set"},
    "crop 128, batch 16": {"crop": 128, "batch_size": 16},
    "crop 192": {"crop": 192},
    "batch 2": {"batch_size": 2},
    "batch 8": {"batch_size": 8},
    "learning rate 5e-4": {"learning_rate": 5e-4},
    "learning rate 2e-3": {"learning_rate": 2e-3},
    "AdamW": {"optimizer": "adamw"},
    "AdamW, learning rate 2e-3": {"optimizer": "adamw", "learning_rate": 2e-3},
    "AdamW, learning rate 4e-3": {"optimizer": "adamw", "learning_rate": 4e-3},
    "AdamW, crop 128, batch 8": {"optimizer": "adamw", "crop": 128, "batch_size": 8},
    "cross-entropy alone": {"loss": "bce"},
    "Dice alone": {"loss": "dice"},
    "no augmentation": {"augment": False},
    "no moving average": {"ema": 0.0},
    "no weight decay": {"weight_decay": 0.0},
    "no clipping": {"clip": 0.0},
    "no warm-up": {"warmup": 0.0},
    "constant learning rate": {"schedule": "constant"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", default="3m")
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--changes", nargs="+", default=list(WISHES), choices=list(WISHES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    options = parser.parse_args()
    target = RESULTS / "ablation.json"
    for seed, name, change in product(options.seeds, options.sets, options.changes):
        cells = json.loads(target.read_text())["cells"] if target.exists() else {}
        key = f"{name}, {options.time}, {change}, seed {seed}"
        if key in cells:
            continue
        run = options.out / key.replace(", ", "-").replace(" ", "_")
        cell = {"set": name, "time": options.time, "change": change, "seed": seed}
        cells[key] = cell | measure(options.data / name, run, options.time, WISHES[change], seed)
        target.write_text(json.dumps({"machine": machine(), "cells": cells}, indent=1))
        print(key, {k: cells[key][k] for k in ("dice", "steps", "seconds")}, flush=True)


def measure(
    data: Path, run: Path, budget: str, wishes: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Train in a process of its own, as a user would; the best validation Dice and what it took."""
    if wishes.get("loss") == "bce" and data.name == "wbc_dataset2":
        wishes = wishes | {"loss": "ce"}  # its three classes exclude each other
    call = (
        f"import contorno; contorno.train({str(data / 'images')!r}, {str(data / 'masks')!r}, "
        f"files={str(data / 'split_train.txt')!r}, out={str(run)!r}, time={budget!r}, "
        f"seed={seed}, **{wishes!r})"
    )
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", call], check=True)
    seconds = time.monotonic() - began
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    results = json.loads((run / "results.json").read_text())
    validations = [record for record in log if "validation_dice" in record]
    return {
        "dice": max(record["validation_dice"] for record in validations),
        "tuned_dice": results["per_image"]["dice"]["mean"],
        "rank_correlation": results["doubt"]["rank_correlation"],
        "validation_images": len(results["images"]),
        "steps": log[-1]["step"],
        "epochs": len(log),
        "training_seconds": round(sum(record["seconds"] for record in log), 1),
        "validation_seconds": validations[-1]["validation_seconds"],
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
