"""What the moving average and the annealing are worth: one training scored with both its weights.

    python benchmarks/averages.py DATA [--steps 400] [--sets isbi2012_em ...] [--seeds 0 1 2]
        [--schedules cosine constant] [--jobs 2] [--results FILE]

The average changes nothing in training, so that the same training can be scored with it and with
its newest weights, at each quarter of the way: the steps, the random numbers and the luck are the
same, which two trainings (ablation.py) do not have. Data, parts and rules are those of ablation.py.
Cells that are in the results (benchmarks/results/averages.json, all of one machine) are skipped;
then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from ablation import Never, parted, read, train_list
from accuracy_sets import SETS
from page import RESULTS, machine

SCHEDULES = ("cosine", "constant")
QUARTERS = 4
DECAY = 0.99


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=400, help="of training")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--schedules", nargs="+", default=list(SCHEDULES), choices=SCHEDULES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=RESULTS / "averages.json")
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # SET/SEED/SCHEDULE: measure one, here
    options = parser.parse_args()
    if options.cell:
        name, seed, schedule = options.cell.split("/")
        print(json.dumps(train(options.data / name, int(seed), schedule, options.steps)))
        return
    cores, lock = SimpleQueue[int](), Lock()
    for core in sorted(os.sched_getaffinity(0))[: options.jobs]:
        cores.put(core)
    with ThreadPoolExecutor(options.jobs) as pool:
        keys = product(options.seeds, options.sets, options.schedules)
        for cell in [pool.submit(measure, *key, options, cores, lock) for key in keys]:
            cell.result()  # raises what went wrong


def measure(seed: int, name: str, schedule: str, options: Any, cores: Any, lock: Any) -> None:
    """One cell in a process of its own, on a core of its own."""
    key = f"{name}, {options.steps} steps, {schedule}, seed {seed}"
    with lock:
        if key in read(options.results):
            return
    core = cores.get()
    words = [sys.executable, __file__, str(options.data), "--steps", str(options.steps)]
    done = subprocess.run(
        [*words, "--cell", f"{name}/{seed}/{schedule}"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: os.sched_setaffinity(0, [core]),
    )
    cores.put(core)
    done.check_returncode()
    scores = json.loads(done.stdout.splitlines()[-1])
    about = {"set": name, "steps": options.steps, "schedule": schedule, "seed": seed}
    print(key, scores, flush=True)
    with lock:
        cells = read(options.results) | {key: about | {"scores": scores}}
        options.results.write_text(json.dumps({"machine": machine(), "cells": cells}, indent=1))


def train(data: Path, seed: int, schedule: str, steps: int) -> list[dict[str, float]]:
    """Train on two thirds of the train list, score on the rest after each quarter."""
    from contorno.engines.pytorch import PyTorchEngine
    from contorno.hardware import choose
    from contorno.recipes import fingerprint, resolve
    from contorno.trainer import Trainer

    material, found = train_list(data)
    parts = [found.pairs.subset(part) for part in parted(found, found.pairs.names, 1 / 3, seed)]
    wishes = {"time": 300.0, "seed": seed, "schedule": schedule}  # the network of short times
    hardware = choose(device="cpu", precision="auto")
    config = resolve("auto", material, fingerprint(parts[0]), hardware, wishes)
    config = config.replace("training", epochs=1, steps_per_epoch=steps, time=None)
    scored = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, *parts, hardware, Path(folder))
        average = copy.deepcopy(trainer.segmenter)
        weights = {"average": average, "newest": trainer.segmenter}
        for batch in trainer.sampler.batches(0, start=0, workers=1):
            trainer.step(batch)
            update(average, trainer.segmenter, done=trainer.position.step)
            trainer.position.step += 1
            if trainer.position.step % (steps // QUARTERS):
                continue
            found_by = {}
            for kind, segmenter in weights.items():
                trainer.engine = PyTorchEngine(segmenter, hardware)
                found_by[kind] = trainer.validate(Never()).dice
            scored.append({"step": trainer.position.step} | found_by)
    return scored


def update(average: Any, newest: Any, *, done: int) -> None:
    """Exponential moving average of weights and batch statistics, quicker at the start."""
    weight = 1 - min(DECAY, (1 + done) / (10 + done))
    pairs = zip(average.state_dict().values(), newest.state_dict().values(), strict=True)
    for mean, value in pairs:
        if mean.is_floating_point():
            mean.lerp_(value, weight)


if __name__ == "__main__":
    main()
