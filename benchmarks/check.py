"""`contorno check` on many pairs beside a bare loop that only decodes the same files.

    python benchmarks/check.py FOLDER [--pairs 20000] [--rounds 3]

Draws the pairs in FOLDER (512 x 512 RGB PNG and 8-bit masks; kept for the next time), then runs
bare loop and check in turn. The bare loop reads each file with Pillow into an array, once with as
many processes as check has threads and once with as many threads; the faster counts. Writes
benchmarks/results/check.json; then run benchmarks/page.py.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
from page import RESULTS, machine
from PIL import Image

SIZE = 512
CORES = len(os.sched_getaffinity(0))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pairs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    draw_all(options.folder, options.pairs)
    rounds = []
    for _ in range(options.rounds):
        row: dict[str, float] = {
            "bare_processes": bare(options.folder, options.pairs, threads=False),
            "bare_threads": bare(options.folder, options.pairs, threads=True),
        }
        row |= check(options.folder)
        rounds.append(row)
        print(row, flush=True)
    ratios = [min(r["bare_processes"], r["bare_threads"]) / r["check"] for r in rounds]
    results = {
        "machine": machine(),
        "pairs": options.pairs,
        "bytes": sum(path.stat().st_size for path in options.folder.rglob("*.png")),
        "workers": CORES,
        "rounds": rounds,
        "ratio": {"median": float(np.median(ratios)), "low": min(ratios), "high": max(ratios)},
    }
    (RESULTS / "check.json").write_text(json.dumps(results, indent=1))
    print(results["ratio"])


def draw_all(folder: Path, pairs: int) -> None:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    missing = [i for i in range(pairs) if not (folder / "masks" / f"p{i:05}.png").exists()]
    with ProcessPoolExecutor(CORES) as pool:
        list(pool.map(draw, [folder] * len(missing), missing, chunksize=32))


def draw(folder: Path, number: int) -> None:
    """Blobs with noise; each pair from its own seed, so that no two are alike."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 12)).astype(np.uint8))
    field = np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    noise = rng.integers(0, 12, (SIZE, SIZE, 3), np.uint8)
    image = field[:, :, None] // np.array([2, 3, 4], np.uint8) + noise
    Image.fromarray(image).save(folder / "images" / f"p{number:05}.png", compress_level=3)
    mask = np.where(field > 150, np.uint8(255), np.uint8(0))
    Image.fromarray(mask).save(folder / "masks" / f"p{number:05}.png")


def bare(folder: Path, pairs: int, *, threads: bool) -> float:
    """Seconds to decode every image and mask, and nothing else."""
    names = sorted(path.name for path in (folder / "images").iterdir())[:pairs]
    pool: Executor
    if threads:
        pool = ThreadPoolExecutor(CORES)
    else:
        pool = ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn"))
    with pool:
        list(pool.map(decode, [folder] * CORES, names[:CORES]))  # the processes have started
        began = time.perf_counter()
        for _ in pool.map(decode, [folder] * len(names), names, chunksize=64):
            pass
        return time.perf_counter() - began


def decode(folder: Path, name: str) -> int:
    size = 0
    for part in ("images", "masks"):
        with Image.open(folder / part / name) as picture:
            size += np.asarray(picture).nbytes
    return size


def check(folder: Path) -> dict[str, float]:
    """Seconds of the whole command, start included, and its peak memory in bytes."""
    command = [sys.executable, "-m", "contorno", "check", str(folder / "images")]
    command += [str(folder / "masks"), "--json", str(folder / "check.json")]
    began = time.perf_counter()
    subprocess.run(command, check=False)  # copies would make it end with 1
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"check": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    main()
