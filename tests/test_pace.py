"""A run that keeps a time: its plan, and how it follows the clock."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from making import WORDS, easy, trainer

from contorno import pace
from contorno.cli import main
from contorno.config import read_config
from contorno.data.batches import Batch
from contorno.engines import whole_image
from contorno.errors import Interrupted
from contorno.pace import after, plan
from contorno.signals import StopRequest
from contorno.train import fit
from contorno.trainer import Trainer
from contorno.training import begin


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("discs"), 10)  # 8 to train on, 2 to validate


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("recipe", ["auto", "classic"])
def test_a_plan_fits_the_time(discs: Path, tmp_path: Path, recipe: str) -> None:
    new = trainer(discs, tmp_path, recipe=recipe)
    plans = [plan(new, seconds, workers=0) for seconds in (1e-6, 2.0, 200.0)]
    for planned in plans:
        assert planned["epochs"] >= 1
        assert 1 <= planned["steps_per_epoch"] <= new.sampler.steps
        assert 1 <= planned["validate_every"] <= planned["epochs"]
        assert planned["validate_images"] == len(new.validation)
    totals = [planned["epochs"] * planned["steps_per_epoch"] for planned in plans]
    assert totals[0] < totals[1] < totals[2]


@pytest.mark.parametrize("tiled", [False, True])
def test_a_plan_is_that_of_the_times_measured(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiled: bool
) -> None:
    """A step of a second, the first of ten; a validation image, or a tile of it, of half a one."""
    clock = Clock(monkeypatch)
    new = trainer(discs, tmp_path, steps_per_epoch=9)
    steps = iter([10.0, 10.0])
    clock.count(new, lambda: next(steps, 1.0), validation=0.0)
    seen = []

    def watched(engine: Any, image: Any) -> Any:
        clock.now += 0.5
        seen.append(image.shape[:2])
        return whole_image(engine, image)

    monkeypatch.setattr(pace, "whole_image", watched)
    if tiled:
        monkeypatch.setattr(pace, "WHOLE", 32 * 32 - 1)
        monkeypatch.setattr(pace, "TILE", 16)
    given: dict[str, float] = {}
    monkeypatch.setattr(pace, "fit_to_time", lambda left, **times: given.update(times, left=left))
    plan(new, 1000.0, workers=0)
    image = 0.5 * 4 * 4 if tiled else 0.5  # four tiles of 16, each pixel seen by four
    assert {*seen} == {(16, 16) if tiled else (32, 32)}
    assert (given["step"], given["image"]) == (1.0, image)
    assert (given["images"], given["whole"]) == (2, new.sampler.steps)
    # Of the time, what was spent on measuring, 2% and 4 s, and two validations of two images go.
    assert given["left"] == pytest.approx(1000 - clock.now - 20 - 4 - 2 * 2 * image)


def test_the_steps_of_a_plan_are_not_in_the_run(discs: Path, tmp_path: Path) -> None:
    begun = begin(trainer(discs, tmp_path / "run", time=2.0), (), rule="", groups=None, workers=0)
    fresh = trainer(discs, tmp_path / "other")
    new = fresh.segmenter.state_dict()
    mine = begun.segmenter.state_dict()
    assert all(torch.equal(value, new[name]) for name, value in mine.items())
    assert len(begun.optimizer.optimizer.state) == 0


def test_time_fills_the_schedule(discs: Path, tmp_path: Path) -> None:
    words = [w for w in WORDS if w not in ("--widths", "4,8")]
    assert (
        main(
            [
                "train",
                str(discs / "images"),
                str(discs / "masks"),
                *words,
                "--widths",
                "4",
                "--time",
                "1s",
                "--out",
                str(tmp_path / "run"),
                "--workers",
                "0",
            ]
        )
        == 0
    )
    config = read_config(tmp_path / "run" / "config.toml")
    assert config.training.time == 1
    assert config.training.patience == 0
    records = log(tmp_path / "run")
    assert len(records) == records[-1]["epochs"]
    assert "speed measured here" in config.reasons["training.epochs"]


class Clock:
    """Stands in for the machine's clock: only steps and validations take time on it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        for name in ("pace", "train", "trainer"):
            module = import_module(f"contorno.{name}")  # contorno.train itself is the function
            monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    def count(self, new: Trainer, step: Callable[[], float], validation: float) -> None:
        """Let a trainer's steps and validations take these seconds."""
        real_step, real_validate = new.step, new.validate

        def slow_step(batch: Batch) -> float:
            self.now += step()
            return real_step(batch)

        def slow_validate(stop: StopRequest) -> Any:
            self.now += validation
            return real_validate(stop)

        new.step, new.validate = slow_step, slow_validate  # type: ignore[method-assign]


@pytest.mark.parametrize("later", [1.0, 3.0, 0.4])  # seconds of a step, once a third is over
def test_the_time_is_kept_as_the_machine_changes(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: float
) -> None:
    clock, budget = Clock(monkeypatch), 300.0
    new = trainer(discs, tmp_path, time=budget, epochs=60, patience=0, validate_every=2)
    clock.count(new, lambda: 1.0 if clock.now < 100 else later, validation=4.0)
    fit(new, workers=0)
    ended = clock.now + after(budget, 4.0)
    one = 2 * later + 4.0  # an epoch with its validation
    assert budget - 2 * one <= ended <= budget + one
    records = log(tmp_path)
    assert records[-1]["learning_rate"] < 0.05 * max(r["learning_rate"] for r in records)
    assert records[-1]["validation_dice"] >= 0  # the last one is validated


def test_a_resumed_run_keeps_the_rest_of_its_time(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, wishes = Clock(monkeypatch), {"time": 200.0, "epochs": 100, "patience": 0}
    first = trainer(discs, tmp_path, **wishes)
    clock.count(first, lambda: 1.0, validation=0.0)
    count = first.step

    def stopping(batch: Batch) -> float:
        if clock.now == 60:
            os.kill(os.getpid(), signal.SIGINT)
        return count(batch)

    first.step = stopping  # type: ignore[method-assign]
    with pytest.raises(Interrupted):
        fit(first, workers=0)
    spent, clock.now = clock.now, 10_000.0  # hours later
    again = trainer(discs, tmp_path, **wishes)
    clock.count(again, lambda: 1.0, validation=0.0)
    again.restore()
    assert again.spent == spent
    fit(again, workers=0)
    whole = spent + clock.now - 10_000 + after(200.0, 0.0)
    assert abs(whole - 200) <= 4


def test_where_validation_is_dear_some_images_do(discs: Path, tmp_path: Path) -> None:
    new = trainer(discs, tmp_path, validate_images=1)
    read: list[int] = []
    real = new.validation.read
    object.__setattr__(new.validation, "read", lambda i: read.append(i) or real(i))
    with StopRequest() as stop:
        first, again = new.validate(stop), new.validate(stop)
    assert len(read) == 2
    assert read[0] == read[1]  # always the same ones
    assert first == again
    assert new.validating() == read[:1]
