"""What ablation.py, averages.py and kept.py share: train lists, and cells measured side by side.

A cell is one figure or a few of a table. Each is measured in a process of its own on a core of its
own; those that are in the results are skipped, so stop and go on as you like.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

from accuracy_sets import SETS
from page import RESULTS, machine

TIMED = 12  # steps, of which the first four do not count


def arguments(about: str | None, results: str) -> argparse.ArgumentParser:
    """The options that all have; `results` is a file of benchmarks/results."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--results", type=Path, default=RESULTS / results)
    parser.add_argument("--cell", help=argparse.SUPPRESS)  # SET/SEED/...: measure one, here
    return parser


def measure(cells: Mapping[str, tuple[dict[str, Any], list[str]]], options: Any) -> None:
    """Measure what is not in the results yet.

    Args:
        cells: by their key: what is known of each, and this command's words that measure it and
            print the rest of it as a line of JSON, the last.
        options: of `arguments`.
    """
    cores, lock = SimpleQueue[int](), Lock()
    for core in sorted(os.sched_getaffinity(0))[: options.jobs]:
        cores.put(core)

    def one(key: str) -> None:
        if key in read(options.results):
            return
        about, words = cells[key]
        core = cores.get()
        done = subprocess.run(
            [sys.executable, sys.argv[0], str(options.data), *words],
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, [core]),
        )
        cores.put(core)
        if done.returncode:
            print(f"{key} failed:\n{done.stderr}", file=sys.stderr, flush=True)
            return
        cell = about | json.loads(done.stdout.splitlines()[-1])
        print(key, cell, flush=True)
        with lock:
            known = {"machine": machine(), "cells": read(options.results) | {key: cell}}
            options.results.write_text(json.dumps(known, indent=1))

    with ThreadPoolExecutor(options.jobs) as pool:
        for cell in [pool.submit(one, key) for key in cells]:
            cell.result()


def read(target: Path) -> dict[str, Any]:
    return json.loads(target.read_text())["cells"] if target.exists() else {}


def train_list(data: Path) -> tuple[Any, Any]:
    """A set's train list: where it lies (DataConfig), and what was read there (Material)."""
    from contorno.config import DataConfig
    from contorno.training import read_material

    classes = SETS[data.name]
    named = ",".join(f"{n}={v}" for n, v in classes.items()) if len(classes) > 2 else None
    folders = {"images": str(data / "images"), "masks": str(data / "masks")}
    material = DataConfig(**folders, files=str(data / "split_train.txt"), classes=named)
    return material, read_material(material, workers=1)


def parted(found: Any, names: Sequence[str], share: float, seed: int) -> tuple[list[str], ...]:
    """Some names of a Material in two, the second part about a `share`, as a run parts them."""
    from contorno.data.groups import split

    foreground = {name: found.foreground[name] for name in names}
    return split(
        list(names),
        share=share,
        seed=seed,
        chosen=None,
        grouping=found.grouping,
        foreground=foreground,
    )


class Never:
    """A stop that is never asked for."""

    requested = False


def steps_of(trainer: Any) -> list[float]:
    """Train the one epoch that there is; seconds of processor time of every step."""
    times, before = [], time.process_time()
    for batch in trainer.sampler.batches(0, start=0, workers=1):
        trainer.step(batch)
        trainer.position.step += 1
        now = time.process_time()
        times.append(now - before)
        before = now
    return times
