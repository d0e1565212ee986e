"""The kill harness: whatever stops a run, resuming it ends in the very same bytes.

Real processes, real SIGKILL. A fork server that has imported everything starts each in a moment.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from contorno.data.demo import write

pytestmark = pytest.mark.slow

EPOCHS = 12
KILLS = 15  # at any moment, and as many during a save
TRUNCATIONS = 20


@pytest.fixture(scope="module")
def context():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["contorno.api", "lightning_fabric", "torch.utils.tensorboard"])
    return context


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    write(folder, train=10, test=1, size=64)
    return folder / "train"


@pytest.fixture(scope="module")
def whole(context, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, float]:
    """Digest of the uninterrupted run's model, and how long it trained."""
    run = tmp_path_factory.mktemp("whole") / "run"
    process = start(context, run, pairs)
    wait_for(run, process)
    began = time.monotonic()
    process.join()
    assert process.exitcode == 0
    return digest(run), time.monotonic() - began


def digest(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def command(words: list[str], log: str, limit: int | None) -> None:
    """In the child: the command line, its output to a file, with a limit on the size of files."""
    if limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    stream = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    from contorno.cli import main

    code = main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def start(
    context, run: Path, pairs: Path | None = None, *, workers: int = 1, limit: int | None = None
) -> multiprocessing.Process:
    """A new run, or a resumed one when no pairs are given."""
    if pairs is None:
        words = ["train", "--resume", str(run)]
    else:
        words = [
            "train",
            str(pairs / "images"),
            str(pairs / "masks"),
            "--out",
            str(run),
            "--epochs",
            str(EPOCHS),
            "--widths",
            "32,64,128",
            "--crop",
            "64",
        ]
    words += ["--workers", str(workers)]
    log = str(run.parent / f"{run.name}.log")
    process = context.Process(target=command, args=(words, log, limit))
    process.start()
    return process


def wait_for(run: Path, process: multiprocessing.Process) -> None:
    """Until the first state stands."""
    while process.is_alive() and not any((run / "state").glob("state-*")):
        time.sleep(0.001)


def finish(context, run: Path, *, workers: int = 1) -> str:
    process = start(context, run, workers=workers)
    process.join()
    assert process.exitcode == 0, (run.parent / f"{run.name}.log").read_text()
    return digest(run)


def killed(context, run: Path, pairs: Path, moment: Callable[[BaseProcess], None]) -> None:
    process = start(context, run, pairs)
    wait_for(run, process)
    moment(process)
    process.kill()
    process.join()


def test_kills_at_any_moment(context, pairs: Path, whole: tuple[str, float], tmp_path: Path):
    expected, seconds = whole
    dice = random.Random(0)
    for number in range(KILLS):
        run = tmp_path / f"run{number}"
        delay = dice.uniform(0, 0.9 * seconds)
        killed(context, run, pairs, lambda process, delay=delay: time.sleep(delay))
        assert finish(context, run, workers=number % 3) == expected, f"killed after {delay:.3f} s"


def test_kills_during_a_save(context, pairs: Path, whole: tuple[str, float], tmp_path: Path):
    """A kill counts when it left a half-written file behind."""
    expected, _ = whole
    dice = random.Random(1)
    caught = 0
    for number in range(10 * KILLS):
        run = tmp_path / f"run{number}"
        saves = dice.randrange(1, EPOCHS // 2)
        killed(
            context,
            run,
            pairs,
            lambda process, run=run, saves=saves: await_save(run, saves, process),
        )
        if not list(run.glob("**/.contorno-*")):
            shutil.rmtree(run)
            continue
        assert finish(context, run) == expected, f"killed in save {saves}"
        assert not list(run.glob("state/.contorno-*")), "litter of the killed writer"
        caught += 1
        if caught == KILLS:
            return
    pytest.fail(f"only {caught} of {10 * KILLS} kills hit a save")


def await_save(run: Path, saves: int, process: BaseProcess) -> None:
    """Until a file is being written, some saves after the first."""
    while process.is_alive():
        names = os.listdir(run / "state")
        done = max((int(n.split("-")[1]) for n in names if n.startswith("state-")), default=0)
        if done > saves and any(n.startswith(".contorno-") for n in names):
            return


@pytest.fixture
def stopped(context, pairs: Path, whole: tuple[str, float], tmp_path: Path) -> Path:
    """A run killed with two states."""
    run = tmp_path / "run"

    def two_states(process: BaseProcess) -> None:
        while process.is_alive() and len(list((run / "state").glob("state-*"))) < 2:
            time.sleep(0.001)

    killed(context, run, pairs, two_states)
    return run


def test_a_truncated_state_falls_back(context, whole: tuple[str, float], stopped: Path):
    newest = max((stopped / "state").glob("state-*"))
    size = newest.stat().st_size
    for number in range(TRUNCATIONS):
        run = stopped.parent / f"cut{number}"
        shutil.copytree(stopped, run)
        os.truncate(run / "state" / newest.name, size * number // TRUNCATIONS)
        assert finish(context, run) == whole[0]
        said = (run.parent / f"{run.name}.log").read_text()
        assert newest.name in said
        assert "going back to the state before" in said


def test_a_full_disk_leaves_the_old_state(context, whole: tuple[str, float], stopped: Path):
    before = {path.name: path.read_bytes() for path in (stopped / "state").glob("state-*")}
    size = max(len(data) for data in before.values())
    process = start(context, stopped, limit=size - 1000)
    process.join()
    assert process.exitcode == 1
    said = (stopped.parent / "run.log").read_text()
    assert f"{stopped / 'state'}" in said
    assert "bytes are needed" in said
    assert "Traceback" not in said
    assert {p.name: p.read_bytes() for p in (stopped / "state").glob("state-*")} == before
    assert finish(context, stopped) == whole[0]
