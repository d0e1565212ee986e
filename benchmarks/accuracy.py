"""The best mask for the time: contorno and other tools, same lists, same clock, same scoring.

    python benchmarks/accuracy.py DATA --out WORK --peers PYTHON [--budgets 60s 5m] [--pixels N]
        [--sets SET ...] [--methods METHOD ...] [--seeds 0 1 2] [--again]

DATA holds a folder for each set with images/, masks/, split_train.txt and split_test.txt. Every
method trains on the train list for a time, draws the masks of the test list as PNG, and is scored
from those files. --pixels gives all the same number of training pixels (crop x batch x steps) in
place of a time. --peers is an interpreter that has the other tools; see accuracy_peers.py for how
each is run. A cell is a set, a budget, a method and a seed: those in the results are skipped, and
what is left is measured one after the other, so stop and go on as you like.

Writes benchmarks/results/accuracy.json after each cell; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_sets import SETS, prepare, read_classes, stems
from page import RESULTS, machine

from contorno.metrics import combine, score, summarise

HERE = Path(__file__).resolve().parent
METHODS = ("contorno", "nnunet", "nnunet_small", "R1", "R2", "monai", "smp")
START = [sys.executable, "-m", "contorno"]
LIMIT = 6 * 3600  # seconds for a peer's whole command: nnU-Net mirrors large pictures for long


@dataclass(frozen=True)
class Cell:
    """`budget` is a time such as 5m, or "N pixels"."""

    set: str
    budget: str
    method: str
    seed: int

    @property
    def key(self) -> str:
        return f"{self.set}, {self.budget}, {self.method}, seed {self.seed}"

    @property
    def pixels(self) -> int | None:
        number, _, unit = self.budget.partition(" ")
        return int(number) if unit == "pixels" else None

    @property
    def seconds(self) -> float | None:
        if self.pixels is not None:
            return None
        return float(self.budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[self.budget[-1]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="runs, masks and prepared sets")
    parser.add_argument("--peers", help="interpreter of the other tools; without, contorno alone")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--budgets", nargs="+", default=["5m"], help="such as 60s, 5m or 1h")
    parser.add_argument("--pixels", nargs="+", type=int, help="in place of budgets")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--again", action="store_true", help="measure cells that are there, too")
    parser.add_argument("--results", type=Path, default=RESULTS / "accuracy.json")
    options = parser.parse_args()
    budgets = [f"{n} pixels" for n in options.pixels] if options.pixels else options.budgets
    # seeds outermost: a first figure of everything before a second of anything
    for seed, name, budget, method in product(
        options.seeds, options.sets, budgets, options.methods
    ):
        cell = Cell(name, budget, method, seed)
        there = read(options.results)
        if method != "contorno" and not options.peers:
            continue
        if cell.key in there["cells"] and not options.again:
            continue
        result = measure(cell, options.data, options.out, options.peers)
        there = read(options.results)  # what was measured meanwhile is kept
        there["cells"][cell.key] = result
        write(options.results, there)
        print(cell.key, result.get("failed") or result["per_image"]["dice"], flush=True)


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text()) if file.exists() else {"cells": {}}


def write(file: Path, results: dict[str, Any]) -> None:
    results["cells"] = dict(sorted(results["cells"].items()))
    part = file.with_suffix(".part")
    part.write_text(json.dumps(results, indent=1))
    os.replace(part, file)


def measure(cell: Cell, data: Path, out: Path, peers: str | None) -> dict[str, Any]:
    """Train, draw and score one cell; a method that fails gives the reason as its result."""
    shared = (out / cell.set).resolve()
    if not (shared / "split_test.txt").exists():
        prepare(data / cell.set, shared, list(SETS[cell.set].values()))
    work = shared / cell.budget.replace(" ", "-") / f"{cell.method}-{cell.seed}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    about = {
        "set": cell.set,
        "budget": cell.budget,
        "method": cell.method,
        "seed": cell.seed,
        "machine": machine(),
    }
    began, used = time.perf_counter(), processor_time()
    try:
        if cell.method == "contorno":
            report = contorno(cell, shared, work)
        else:
            report = peer(cell, shared, work, str(peers))
        report["seconds"] = round(time.perf_counter() - began, 1)
        report["processor_seconds"] = round(processor_time() - used, 1)
        if cell.method == "contorno":
            report |= own_figures(shared, work)
        return about | report | scored(shared, work / "masks", list(SETS[cell.set].values()))
    except Failed as reason:
        return about | {"failed": str(reason)}


def processor_time() -> float:
    """Of all commands that have ended: beside the seconds it shows what was disturbed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Failed(Exception):
    pass


def command(words: list[str], log: Path, limit: float | None = None) -> float:
    """Run a command; seconds that it took."""
    began = time.perf_counter()
    with log.open("w") as file:
        try:
            done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done after {limit:.0f} s") from None
    if done.returncode:
        killed = " (killed, likely for its memory)" if done.returncode == -9 else ""
        lines = log.read_text().strip().splitlines()
        raise Failed(f"exit {done.returncode}{killed}: {lines[-1] if lines else ''}"[:300])
    return round(time.perf_counter() - began, 1)


# Methods


def contorno(cell: Cell, shared: Path, work: Path) -> dict[str, Any]:
    """`contorno train` and `contorno predict`, with no option but the budget and the seed."""
    lists = {part: str(shared / f"split_{part}.txt") for part in ("train", "test")}
    pair = [str(shared / "images"), str(shared / "masks"), "--files", lists["train"]]
    train = [*START, "train", *pair, "--seed", str(cell.seed)]
    if len(SETS[cell.set]) > 2:
        train += ["--classes", ",".join(f"{n}={v}" for n, v in SETS[cell.set].items())]
    run = work / "run"
    if cell.pixels is None:
        budget = ["--time", f"{cell.seconds:.0f}s"]
    else:  # an epoch is a whole number of steps, so the pixels are those of the nearest epochs
        command([*train, "--epochs", "1", "--out", str(work / "probe")], work / "probe.txt")
        one = crops(work / "probe")
        budget = ["--epochs", str(max(1, round(cell.pixels / one["pixels"])))]
    training = command([*train, *budget, "--out", str(run)], work / "train.txt")
    draw = [*START, "predict", str(run), str(shared / "images"), "--files", lists["test"]]
    predicting = command([*draw, "--out", str(work / "masks")], work / "predict.txt")
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return {
        "train_command_seconds": training,
        "training_seconds": round(sum(record["seconds"] for record in log), 1),
        "predicting_seconds": predicting,
        **crops(run),
    }


def own_figures(shared: Path, work: Path) -> dict[str, Any]:
    """What contorno says of its own masks of the test list, and of those that `--tta` draws."""
    pair = [str(shared / "images"), str(shared / "masks")]
    words = [*START, "evaluate", str(work / "run"), *pair]
    words += ["--files", str(shared / "split_test.txt")]
    results = []
    for name, option in (("evaluated", []), ("averaged", ["--tta"])):
        command([*words, *option, "--out", str(work / name)], work / f"{name}.txt")
        results.append(json.loads((work / name / "results.json").read_text()))
    plain, averaged = results
    return {
        "calibration_error": [plain["calibration"][part]["ece"] for part in ("before", "after")],
        "temperature": plain["calibration"]["temperature"],
        "rank_correlation": plain["doubt"]["rank_correlation"],
        "dice_with_tta": averaged["per_image"]["dice"]["mean"],
    }


def crops(run: Path) -> dict[str, Any]:
    """What a run of contorno trained with."""
    with (run / "config.toml").open("rb") as file:
        config = tomllib.load(file)
    training = config["training"]
    last = json.loads((run / "log.jsonl").read_text().splitlines()[-1])
    return {
        "steps": last["step"],
        "pixels": last["step"] * training["batch_size"] * training["crop"] ** 2,
        "recipe": {
            "batch": training["batch_size"],
            "crop": [training["crop"]] * 2,
            "widths": config["network"]["widths"],
            "patch": config["network"]["patch"],
        },
    }


def peer(cell: Cell, shared: Path, work: Path, python: str) -> dict[str, Any]:
    job = {
        "method": cell.method,
        "shared": str(shared),
        "work": str(work),
        "train": stems(shared / "split_train.txt"),
        "test": stems(shared / "split_test.txt"),
        "classes": SETS[cell.set],
        "seed": cell.seed,
        "seconds": cell.seconds,
        "pixels": cell.pixels,
    }
    (work / "job.json").write_text(json.dumps(job))
    words = [python, str(HERE / "accuracy_peers.py"), str(work / "job.json")]
    command(words, work / "log.txt", (cell.seconds or 0) + LIMIT)
    return json.loads((work / "report.json").read_text())


# Scoring


def scored(shared: Path, masks: Path, values: list[int]) -> dict[str, Any]:
    """Figures of the PNG in a folder; the rules are `contorno.metrics.RULES`.

    The background of three classes is not scored. Both empty is 1, one empty 0.
    """
    images, by_class = [], [[] for _ in values[1:]]
    for stem in stems(shared / "split_test.txt"):
        truth = read_classes(shared / f"masks/{stem}.png", values)
        file = masks / f"{stem}.png"
        if not file.exists():
            raise Failed(f"no mask was drawn for {stem}")
        drawn = read_classes(file, values)
        if truth.shape != drawn.shape:
            raise Failed(f"the mask of {stem} is {drawn.shape}, not {truth.shape}")
        found = [score(truth == index, drawn == index) for index in range(1, len(values))]
        images.append(combine(found))
        for one, scores in zip(found, by_class, strict=True):
            scores.append(one)
        plain = plain_dice(truth, drawn, len(values))
        if abs(images[-1].dice - plain) > 1e-12:
            raise AssertionError(f"{stem}: Dice is {plain}, not {images[-1].dice}")
    summary = summarise(images)
    return {
        "images": len(images),
        "per_image": {name: summary["per_image"][name] for name in ("dice", "iou", "boundary_f")},
        "dice_of_images": [image.dice for image in images],  # in the order of the test list
        "pooled": {name: summary["pooled"][name] for name in ("dice", "iou")},
        "pooled_dice_of_class": [
            summarise(scores, resamples=1)["pooled"]["dice"]["value"] for scores in by_class
        ],
    }


def plain_dice(truth: Any, drawn: Any, classes: int) -> float:
    """Mean Dice of one image by other lines than contorno's: the reference of every cell."""
    dice = []
    for index in range(1, classes):
        size = np.sum(truth == index) + np.sum(drawn == index)
        if size:
            dice.append(2 * np.sum((truth == index) * (drawn == index)) / size)
    return float(np.mean(dice)) if dice else 1.0


if __name__ == "__main__":
    main()
