"""Are masks that were spoilt on purpose among the first that `train --folds` suspects?

    python benchmarks/label_errors.py DATA/dsb2018_stage1 --out SCRATCH [--time 10m] [--folds 5]
        [--images 150] [--share 0.1] [--seed 0] [--epochs 8]

Copies the set's train list to SCRATCH and spoils a tenth of its masks: shifted by about an object's
radius, eroded, objects erased, or swapped with another image's mask. Trains with folds on that, and
reports which share of the spoilt ones is among the first 20% of suspects.csv (the goal is 80%).
Adds a row to benchmarks/results/label_errors.json; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from page import RESULTS, machine
from PIL import Image
from scipy import ndimage

FIRST = 0.2  # of the images: the part of the list that somebody would look through
LEAST = 0.1  # that a mask must lose in Dice to count as spoilt
_EIGHT = np.ones((3, 3), bool)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", default="10m")
    parser.add_argument("--epochs", type=int, help="instead of a time, on a machine that is busy")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--images", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    stems = (options.data / "split_train.txt").read_text().split()[: options.images]
    spoilt = copy(options.data, options.out, stems, options.share, options.seed)
    run = options.out / "run"
    words = ["train", str(options.out / "images"), str(options.out / "masks"), "--out", str(run)]
    words += ["--folds", str(options.folds), "--seed", str(options.seed)]
    words += ["--epochs", str(options.epochs)] if options.epochs else ["--time", options.time]
    subprocess.run([sys.executable, "-m", "contorno", *words], check=True)
    settings = {
        "set": options.data.name,
        "length": f"{options.epochs} epochs" if options.epochs else options.time,
        "folds": options.folds,
        "images": len(stems),
        "seed": options.seed,
    }
    row = settings | found(run, stems, spoilt) | {"machine": machine()}
    path = RESULTS / "label_errors.json"
    kept = json.loads(path.read_text())["runs"] if path.exists() else []
    kept = [old for old in kept if not settings.items() <= old.items()] + [row]
    path.write_text(json.dumps({"runs": kept}, indent=1))
    print(json.dumps(row, indent=1))


def found(run: Path, stems: list[str], spoilt: dict[str, Any]) -> dict[str, Any]:
    """Which of the spoilt masks are among the first suspects, in all and by kind."""
    with (run / "suspects.csv").open(newline="") as file:
        order = [row["image"] for row in csv.DictReader(file)]
    order += [stem for stem in stems if stem not in order]
    first = set(order[: round(FIRST * len(order))])
    kinds: dict[str, list[bool]] = {}
    for stem, how in spoilt.items():
        kinds.setdefault(how["kind"], []).append(stem in first)
    results = json.loads((run / "results.json").read_text())
    return {
        "spoilt": len(spoilt),
        "found": sum(stem in first for stem in spoilt),
        "among": len(first),
        "kinds": {kind: [sum(hits), len(hits)] for kind, hits in sorted(kinds.items())},
        "ranks": sorted(order.index(stem) + 1 for stem in spoilt),
        "out_of_fold_dice": results["per_image"]["dice"]["mean"],
    }


# Spoiling ---------------------------------------------------------------------------------------


def copy(data: Path, out: Path, stems: list[str], share: float, seed: int) -> dict[str, Any]:
    """Copy the pairs of these stems, some with a spoilt mask; how each of those was spoilt."""
    rng = np.random.default_rng(seed)
    files = {part: {f.stem: f for f in (data / part).iterdir()} for part in ("images", "masks")}
    for part, paths in files.items():
        (out / part).mkdir(parents=True, exist_ok=True)
        for stem in stems:
            shutil.copy(paths[stem], out / part)
    masks = {stem: np.asarray(Image.open(files["masks"][stem]).convert("L")) for stem in stems}
    spoilt: dict[str, Any] = {}
    wanted = round(share * len(stems))
    for stem in rng.permutation(stems).tolist():
        if len(spoilt) == wanted:
            break
        kinds = list(KINDS)[len(spoilt) % len(KINDS) :] + list(KINDS)
        for kind in kinds:
            mask = KINDS[kind](masks[stem], rng, masks)
            dice = overlap(mask, masks[stem])
            if dice < 1 - LEAST:
                Image.fromarray(mask).save(out / "masks" / files["masks"][stem].name)
                spoilt[stem] = {"kind": kind, "dice": round(dice, 4)}
                break
    (out / "spoilt.json").write_text(json.dumps(spoilt, indent=1))
    return spoilt


def overlap(one: Any, other: Any) -> float:
    """Dice of the foreground of two masks."""
    a, b = one >= 128, other >= 128
    return float(2 * (a & b).sum() / max(a.sum() + b.sum(), 1)) if a.any() or b.any() else 1.0


def shift(mask: Any, rng: np.random.Generator, masks: dict[str, Any]) -> Any:
    """By half to one and a half radii of a disc as large as the median object, at least 3 pixels.

    Beyond the rim the mask is repeated.
    """
    where, count = ndimage.label(mask >= 128, _EIGHT)
    areas = np.bincount(where.ravel(), minlength=count + 1)[1:]
    radius = np.sqrt(np.median(areas) / np.pi) if count else 0.0
    length, angle = max(3.0, radius * rng.uniform(0.5, 1.5)), rng.uniform(0, 2 * np.pi)
    y, x = round(length * np.sin(angle)), round(length * np.cos(angle))
    rows = np.clip(np.arange(mask.shape[0]) - y, 0, mask.shape[0] - 1)
    columns = np.clip(np.arange(mask.shape[1]) - x, 0, mask.shape[1] - 1)
    return mask[rows][:, columns]


def erode(mask: Any, rng: np.random.Generator, masks: dict[str, Any]) -> Any:
    """By 40% of the largest inscribed radius of the median object, at least a pixel."""
    depth = ndimage.distance_transform_edt(np.pad(mask >= 128, 1))[1:-1, 1:-1]
    where, count = ndimage.label(mask >= 128, _EIGHT)
    radii = ndimage.maximum(depth, where, range(1, count + 1)) if count else [0.0]
    return np.where(depth > max(1.0, 0.4 * float(np.median(radii))), mask, 0).astype(mask.dtype)


def erase(mask: Any, rng: np.random.Generator, masks: dict[str, Any]) -> Any:
    """Half of the objects, at least one."""
    where, count = ndimage.label(mask >= 128, _EIGHT)
    gone = rng.permutation(count)[: -(-count // 2)] + 1
    near = ndimage.binary_dilation(np.isin(where, gone), _EIGHT, 2)  # with their soft edges
    kept = np.isin(where, gone, invert=True) & (where > 0)
    return np.where(near & ~kept, 0, mask).astype(mask.dtype)


def swap(mask: Any, rng: np.random.Generator, masks: dict[str, Any]) -> Any:
    """The mask of another image of the same size; this one where there is none."""
    others = [other for other in masks.values() if other.shape == mask.shape and other is not mask]
    return others[rng.integers(len(others))] if others else mask


KINDS: dict[str, Callable[[Any, np.random.Generator, dict[str, Any]], Any]] = {
    "shifted": shift,
    "eroded": erode,
    "erased": erase,
    "swapped": swap,
}

if __name__ == "__main__":
    main()
