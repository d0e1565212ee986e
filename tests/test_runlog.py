"""What a run tells while it trains: the log counts, TensorBoard is a courtesy."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import pytest
from making import easy, trainer

from contorno import runlog
from contorno.runlog import LOG, RunLog
from contorno.train import fit

RECORD = {"epoch": 1, "epochs": 2, "loss": 0.5, "images_per_second": 3.0, "seconds": 4.0}


class FullDisk:
    """A board that cannot write."""

    asked = 0

    def add_scalar(self, *values: Any) -> None:
        self.asked += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def logged(log: RunLog, run: Path) -> list[dict[str, Any]]:
    for _ in range(2):
        log.epoch(dict(RECORD))
    return [json.loads(line) for line in (run / LOG).read_text().splitlines()]


def test_a_board_that_cannot_write_is_done_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    board = FullDisk()
    monkeypatch.setattr(runlog, "_tensorboard", lambda run, begin: board)
    assert logged(RunLog(tmp_path, classic=False), tmp_path) == [RECORD, RECORD]
    assert board.asked == 1
    assert capsys.readouterr().err.count("No space left on device") == 1


@pytest.mark.parametrize("name", ["taken", "latin-\udcf1"])
def test_a_board_that_cannot_be_opened_is_done_without(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    pytest.importorskip("torch.utils.tensorboard")
    run = tmp_path / name
    run.mkdir()
    if name == "taken":
        (run / "tensorboard").touch()
    assert logged(RunLog(run, classic=False), run) == [RECORD, RECORD]
    assert "going on with log.jsonl alone" in capsys.readouterr().err


def test_training_leaves_no_thread_behind(tmp_path: Path) -> None:
    pytest.importorskip("torch.utils.tensorboard")
    before = threading.active_count()
    new = trainer(easy(tmp_path / "data"), tmp_path / "run", epochs=1)
    fit(new, workers=2)
    assert (tmp_path / "run" / "tensorboard").is_dir()
    assert threading.active_count() == before


def test_tensorboard_shows_an_epoch_that_is_done_again_once(tmp_path: Path) -> None:
    pytest.importorskip("torch.utils.tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    killed = RunLog(tmp_path, classic=False)
    for epoch, loss in ((1, 3.0), (2, 2.0), (3, 1.5)):
        killed.epoch(RECORD | {"epoch": epoch, "loss": loss})
    resumed = RunLog(tmp_path, classic=False, begin=2)  # the state of epoch 1 was the last saved
    resumed.epoch(RECORD | {"epoch": 2, "loss": 1.0})
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("loss")
    assert [(one.step, one.value) for one in shown] == [(1, 3.0), (2, 1.0)]


@pytest.mark.parametrize(("every", "left"), [(1, "2:00"), (4, "1:00")])
def test_time_left_has_room_for_validation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], every: int, left: str
) -> None:
    log = RunLog(tmp_path, classic=False, validate_every=every)
    log.epoch(RECORD | {"epochs": 11, "validation_dice": 0.5, "validation_seconds": 8.0})
    assert f"{left} left" in capsys.readouterr().out
    log.epoch(RECORD | {"epochs": 11})  # without one: the last counts
    assert f"{left} left" in capsys.readouterr().out
