"""The training loop: it learns, keeps the best, and stopping it at any moment changes nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from making import (
    EXACT,
    WORDS,
    digest,
    digests,
    easy,
    pictures,
    read_all,
    save,
    save_palette,
    trainer,
)
from PIL import Image
from torch import Tensor, nn

from contorno import api, training
from contorno.checkpoint import load_model
from contorno.cli import main
from contorno.config import read_config
from contorno.errors import ConfigError, Interrupted, ModelFileError, StorageError, TrainingError
from contorno.finish import finish
from contorno.images import read_image
from contorno.losses import LOSSES
from contorno.runfolder import locked
from contorno.schedule import learning_rate
from contorno.train import fit
from contorno.trainer import Trainer, Validation


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("discs"), 10)  # 8 to train on, 2 to validate


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pictures(tmp_path_factory.mktemp("cells"))


def log(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def timeless(run: Path) -> list[dict[str, Any]]:
    """The log without what depends on the machine's speed."""
    return [
        {key: value for key, value in record.items() if "second" not in key} for record in log(run)
    ]


def model(run: Path) -> str:
    return digest(run / "model.safetensors")


def validation_dice(trained: Trainer) -> float:
    """Mean Dice per validation image of the model file, by plain means."""
    segmenter, card = load_model(trained.run)
    each = []
    for index in range(len(trained.validation)):
        image, truth = trained.validation.read(index)
        if card.preprocessing.normalise == "image":
            image = (image - image.mean((0, 1))) / image.std((0, 1))
        with torch.no_grad():
            output = segmenter(torch.from_numpy(np.float32(image)).permute(2, 0, 1)[None])
        drawn = finish(output[0].numpy(), card)
        both = np.count_nonzero(drawn & truth)
        each.append(2 * both / (np.count_nonzero(drawn) + np.count_nonzero(truth)))
    return float(np.mean(each))


# Learning


def test_it_learns_logs_and_keeps_the_best(discs: Path, tmp_path: Path) -> None:
    trained = trainer(discs, tmp_path, epochs=30, learning_rate=0.01)
    fit(trained, workers=0)
    records = log(tmp_path)
    losses = [record["loss"] for record in records]
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    for number, record in enumerate(records, start=1):
        assert set(record) == {
            "epoch",
            "epochs",
            "step",
            "loss",
            "validation_loss",
            "validation_dice",
            "best",
            "learning_rate",
            "images_per_second",
            "seconds",
            "validation_seconds",
        }
        assert (record["epoch"], record["epochs"], record["step"]) == (number, 30, 2 * number)
        assert record["images_per_second"] > 0
        assert 0 <= record["validation_dice"] <= 1
    running = (-1.0, -math.inf)
    for record in records:  # best is a new best Dice, or the same with a smaller error
        now = (record["validation_dice"], -record["validation_loss"])
        assert record["best"] == (now > running)
        running = max(running, now)
    _, card = load_model(tmp_path)
    best = max(record["epoch"] for record in records if record["best"])
    assert card.provenance["epoch"] == best
    assert validation_dice(trained) == pytest.approx(running[0])
    assert running[0] > 0.9


@pytest.mark.parametrize(
    ("recipe", "loss"),
    [
        *(("auto", loss) for loss in sorted(LOSSES) if "bce" in loss or "ce" not in loss),
        ("classic", "bce"),
    ],
)
def test_every_loss_trains(discs: Path, tmp_path: Path, recipe: str, loss: str) -> None:
    trained = trainer(discs, tmp_path, recipe=recipe, loss=loss, epochs=40, learning_rate=0.003)
    fit(trained, workers=0)
    assert trained.config.training.loss == loss
    assert all(math.isfinite(record["loss"]) for record in log(tmp_path))
    assert validation_dice(trained) > 0.85
    if loss in ("mse", "bce"):  # which ask for probabilities; 0.2 is an untrained network's
        assert trained.position.best_loss < 0.1


def test_learning_rate_follows_a_cosine(discs: Path, tmp_path: Path) -> None:
    new = trainer(discs, tmp_path, epochs=50, learning_rate=0.5)
    for now in range(100):  # 50 epochs of 2 steps
        new.position.epoch, new.position.step = divmod(now, 2)
        expected = (1 + math.cos(math.pi * now / 100)) / 2
        assert learning_rate(new.config.training, new.position) == pytest.approx(0.5 * expected)


def test_validation_every_few_epochs_and_at_the_end(discs: Path, tmp_path: Path) -> None:
    fit(trainer(discs, tmp_path, epochs=7, validate_every=3), workers=0)
    validated = [r["epoch"] for r in log(tmp_path) if "validation_dice" in r]
    assert validated == [3, 6, 7]
    assert all("best" not in r for r in log(tmp_path) if r["epoch"] not in validated)


def judged(new: Trainer, dice: Sequence[float]) -> Trainer:
    """The trainer, whose validation finds this Dice after each epoch."""
    new.validate = lambda stop: Validation(  # type: ignore[method-assign]
        dice[new.position.epoch], 0.1, 0.3, 0.3
    )
    return new


def test_the_best_epoch_is_kept_also_by_a_run_that_was_stopped(discs: Path, tmp_path: Path) -> None:
    dice = [0.75, 0.9, 0.5, 0.75, 0.75, 0.75, 0.75, 0.92, 0.75, 0.75]
    fit(judged(trainer(discs, tmp_path / "whole", epochs=10), dice), workers=0)
    assert load_model(tmp_path / "whole")[1].provenance["epoch"] == 8
    for step, before in ((7, 2), (17, 8)):  # in the fourth epoch, and in the ninth
        run = tmp_path / str(step)
        stopped = judged(trainer(discs, run, epochs=10), dice)
        stop_at(stopped, step)
        with pytest.raises(Interrupted):
            fit(stopped, workers=0)
        assert load_model(run)[1].provenance["epoch"] == before
        again = judged(trainer(discs, run, epochs=10), dice)
        again.restore()
        fit(again, workers=0)
        assert load_model(run)[1].provenance["epoch"] == 8


def test_a_state_of_another_version_is_named(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("contorno.trainer.asdict", lambda position: {**asdict(position), "late": 1})
        trainer(discs, tmp_path, epochs=1).save()
    with pytest.raises(ModelFileError, match="another version of contorno"):
        trainer(discs, tmp_path, epochs=1).restore()


def test_cooling_begins_early_when_nothing_gets_better(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = [0.5] * 60
    wishes = {"epochs": 60, "patience": 4, "learning_rate": 1e-3}
    fit(judged(trainer(discs, tmp_path / "whole", **wishes), dice), workers=0)
    records = log(tmp_path / "whole")
    assert len(records) == 11  # best at 1, four more, then a tenth of 60 to anneal
    assert [r["epochs"] for r in records] == [60] * 4 + [11] * 7
    rates = [r["learning_rate"] for r in records[5:]]
    assert np.allclose(np.diff(rates), rates[1] - rates[0])  # a straight line, to nearly zero
    assert 0 < rates[-1] < rates[0] / 10
    assert "No better mask for 4 epochs" in capsys.readouterr().out
    assert [r["best"] for r in records] == [True] + [False] * 10

    stopped = judged(trainer(discs, tmp_path / "stopped", **wishes), dice)
    stop_at(stopped, 15)  # in the eighth epoch, while cooling
    with pytest.raises(Interrupted):
        fit(stopped, workers=0)
    again = judged(trainer(discs, tmp_path / "stopped", **wishes), dice)
    again.restore()
    fit(again, workers=0)
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")


def test_another_seed_is_another_model(discs: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        fit(trainer(discs, tmp_path / str(seed), seed=seed, epochs=1), workers=0)
    assert model(tmp_path / "0") != model(tmp_path / "1")


def test_random_streams_never_repeat(discs: Path, tmp_path: Path) -> None:
    sampler = trainer(discs, tmp_path, seed=5).sampler
    keys = [(a,) for a in range(6)] + [(a, b) for a in range(6) for b in range(6)]
    keys += [(a, b, c) for a in range(6) for b in range(6) for c in range(6)]
    drawn = {key: float(sampler.rng(*key).random()) for key in keys}
    assert len(set(drawn.values())) == len(keys)  # order, crops and augmentation: each its own


# Losses that are no numbers


def test_a_loss_that_is_not_finite_names_the_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(5):  # the dark ones are farther from the mean than float32 reaches
        dark = np.random.default_rng(index).random((32, 32)) < 0.1
        values = np.where(dark, -3.3e38, 3.3e38)
        save(tmp_path / "images" / f"huge{index}.tif", values.astype(np.float32))
        save(tmp_path / "masks" / f"huge{index}.png", np.eye(32, dtype=np.uint8))
    code = main(
        [
            "train",
            str(tmp_path / "images"),
            str(tmp_path / "masks"),
            "--epochs",
            "2",
            "--crop",
            "32",
            "--out",
            str(tmp_path / "run"),
            "--workers",
            "0",
            "--normalise",
            "set",
            *WORDS,
        ]
    )
    assert code == 1
    words = capsys.readouterr().err
    assert re.search(
        r"the loss became (nan|inf) at epoch 1, step 1, on: huge\d(, huge\d){3}\. ", words
    )
    assert "no model was kept yet" in words


def test_weights_thrown_far_are_noticed(discs: Path, tmp_path: Path) -> None:
    new = trainer(discs, tmp_path, epochs=20, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss became .*smaller --learning-rate"):
        fit(new, workers=0)


# Memory


class StandInForFullMemory:
    """Raises what torch raises without memory, when more than `most` examples are passed."""

    def __init__(self, network: nn.Module, most: int, error: Exception | None = None) -> None:
        self.most, self.sizes = most, []
        self.error = error or torch.OutOfMemoryError("stand-in: no memory")
        network.register_forward_pre_hook(self)

    def __call__(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.sizes.append(len(inputs[0]))
        if len(inputs[0]) > self.most:
            raise self.error


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_accumulates_smaller_batches(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception | None
) -> None:
    short = trainer(discs, tmp_path / "short", epochs=3)
    memory = StandInForFullMemory(short.segmenter.network, 1, error)
    fit(short, workers=0)
    assert memory.sizes[:6] == [4, 2, 1, 1, 1, 1]
    assert set(memory.sizes[2:]) == {1}
    words = " ".join(capsys.readouterr().err.split())
    assert "going on with 2 example(s) at a time, accumulated to batches of 4" in words
    assert "going on with 1 example(s) at a time" in words

    small = trainer(discs, tmp_path / "small", epochs=3)
    small.position.micro_batch = 1
    fit(small, workers=0)
    assert model(tmp_path / "short") == model(tmp_path / "small")

    again = trainer(discs, tmp_path / "short", epochs=3)
    again.restore()
    assert again.position.micro_batch == 1  # a resumed run does not try in vain


@pytest.mark.parametrize("loss", ["mse", "bce"])
def test_accumulated_gradients_are_those_of_the_mean(
    discs: Path, tmp_path: Path, loss: str
) -> None:
    new = trainer(discs, tmp_path, loss=loss)
    new.position.micro_batch = 3  # of 4: the pieces are not equal
    (batch, *_) = new.sampler.batches(0, start=0, workers=0)
    reported = new.gradients(*new.normalised(batch))
    accumulated = [p.grad.clone() for p in new.segmenter.parameters()]
    pieces = [(batch.images[:3], batch.masks[:3]), (batch.images[3:], batch.masks[3:])]
    each = torch.cat(
        [
            (
                nn.functional.mse_loss
                if loss == "mse"
                else nn.functional.binary_cross_entropy_with_logits
            )(new.segmenter.network(new.segmenter.normalise(images)), masks, reduction="none")
            for images, masks in pieces
        ]
    )
    gradients = torch.autograd.grad(each.mean(), list(new.segmenter.parameters()))
    assert reported == pytest.approx(each.mean().item(), rel=1e-5)
    for mine, reference in zip(accumulated, gradients, strict=True):
        assert torch.allclose(mine, reference, rtol=1e-4, atol=1e-6)


def test_out_of_memory_with_one_example_is_an_error(discs: Path, tmp_path: Path) -> None:
    short = trainer(discs, tmp_path, epochs=3)
    StandInForFullMemory(short.segmenter.network, 0)
    with pytest.raises(TrainingError, match=r"one example at a time. Use a smaller --crop"):
        fit(short, workers=0)


def test_other_errors_are_not_taken_for_memory(discs: Path, tmp_path: Path) -> None:
    broken = trainer(discs, tmp_path)
    StandInForFullMemory(broken.segmenter.network, 0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(broken, workers=0)
    assert broken.position.micro_batch == 4


# Stopping and resuming


def stop_at(new: Trainer, step: int, number: int = signal.SIGINT) -> None:
    """Send this process a real signal during the given step of this trainer."""
    work, left = new.step, [step]

    def counted(batch: Any) -> float:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), number)
        return work(batch)

    new.step = counted  # type: ignore[method-assign]


@pytest.mark.parametrize("recipe", ["auto", "classic"])
def test_stopped_at_any_step_the_run_ends_in_the_same_bytes(
    discs: Path, tmp_path: Path, recipe: str
) -> None:
    fit(trainer(discs, tmp_path / "whole", recipe=recipe, epochs=3), workers=0)
    for step in range(1, 6):  # 3 epochs of 2 steps
        run = tmp_path / f"stopped{step}"
        stopped = trainer(discs, run, recipe=recipe, epochs=3)
        stop_at(stopped, step)
        with pytest.raises(Interrupted, match=rf"contorno train --resume {run}") as caught:
            fit(stopped, workers=2)
        assert caught.value.exit_code == 130
        again = trainer(discs, run, recipe=recipe, epochs=3)
        again.restore()
        assert (again.position.epoch, again.position.step) in (
            divmod(step, 2),
            (step // 2 - 1, 2),
        )  # an epoch's end is before its validation
        fit(again, workers=step % 3)
        assert model(run) == model(tmp_path / "whole"), step
        assert timeless(run) == timeless(tmp_path / "whole")


def test_stopped_again_and_again(discs: Path, tmp_path: Path) -> None:
    fit(trainer(discs, tmp_path / "whole", epochs=3), workers=0)
    attempts = 0
    while attempts < 10:
        attempts += 1
        new = trainer(discs, tmp_path / "often", epochs=3)
        new.restore()
        stop_at(new, 1)
        try:
            fit(new, workers=0)
        except Interrupted:
            continue
        break
    assert attempts == 7  # one step each time, and then the last validation
    assert model(tmp_path / "often") == model(tmp_path / "whole")
    assert timeless(tmp_path / "often") == timeless(tmp_path / "whole")


def test_stopped_during_validation(discs: Path, tmp_path: Path) -> None:
    fit(trainer(discs, tmp_path / "whole", epochs=3), workers=0)
    stopped = trainer(discs, tmp_path / "stopped", epochs=3)
    read, seen = stopped.validation.read, []

    def signalled(index: int) -> Any:
        seen.append(index)
        if len(seen) == 3:  # the first image of the second epoch's validation
            os.kill(os.getpid(), signal.SIGTERM)
        return read(index)

    stopped.validation.read = signalled  # type: ignore[method-assign]
    with pytest.raises(Interrupted) as caught:
        fit(stopped, workers=0)
    assert caught.value.exit_code == 143
    assert seen == [0, 1, 0]  # the second image was not waited for
    again = trainer(discs, tmp_path / "stopped", epochs=3)
    again.restore()
    fit(again, workers=0)
    assert model(tmp_path / "stopped") == model(tmp_path / "whole")
    assert timeless(tmp_path / "stopped") == timeless(tmp_path / "whole")


def test_stopped_while_the_last_epoch_is_saved(discs: Path, tmp_path: Path) -> None:
    new = trainer(discs, tmp_path, epochs=2)
    save_state = new.save

    def signalled() -> None:
        if new.position.epoch == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        save_state()

    new.save = signalled  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=r"after the last epoch; everything is saved") as caught:
        fit(new, workers=0)
    assert caught.value.exit_code == 143
    again = trainer(discs, tmp_path, epochs=2)
    again.restore()
    assert again.position.epoch == 2


def test_signals_are_given_back_after_training(discs: Path, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    fit(trainer(discs, tmp_path, epochs=1), workers=0)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_saving_within_an_epoch(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["contorno.train"], "SAVE_EVERY", 0.0)
    fit(trainer(discs, tmp_path / "often", epochs=2), workers=0)
    monkeypatch.undo()
    fit(trainer(discs, tmp_path / "seldom", epochs=2), workers=0)
    assert model(tmp_path / "often") == model(tmp_path / "seldom")
    assert len(list((tmp_path / "often" / "state").iterdir())) == 2


def test_a_damaged_state_is_passed_over_and_named(
    discs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Trainer, "save_is_due", lambda self: True)  # epochs here take moments
    fit(trainer(discs, tmp_path, epochs=3), workers=0)
    whole = model(tmp_path)
    newest = max((tmp_path / "state").iterdir())
    newest.write_bytes(newest.read_bytes()[:1000])
    again = trainer(discs, tmp_path, epochs=3)
    again.restore()
    assert again.position.epoch == 2
    assert newest.name in capsys.readouterr().err
    assert len(log(tmp_path)) == 2
    fit(again, workers=0)
    assert model(tmp_path) == whole
    assert len(log(tmp_path)) == 3


LONG = 40  # epochs: seconds enough for a signal to arrive on the way


def command(cells: Path, run: Path, *, workers: int) -> list[str]:
    return [
        "train",
        str(cells / "images"),
        str(cells / "masks"),
        "--out",
        str(run),
        "--epochs",
        str(LONG),
        "--crop",
        "32",
        "--workers",
        str(workers),
        *WORDS,
    ]


@pytest.fixture(scope="module")
def uninterrupted(cells: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert main(command(cells, run, workers=0)) == 0
    return run


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGINT, 2), (signal.SIGTERM, 0)])
def test_a_stopped_process_is_resumed_to_the_same_bytes(
    cells: Path,
    uninterrupted: Path,
    tmp_path: Path,
    number: int,
    workers: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "contorno", *command(cells, run, workers=workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        while not (run / "log.jsonl").exists() or len(log(run)) < 3:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert f"contorno train --resume {run}" in err
    assert "Traceback" not in err
    assert 3 <= len(log(run)) < LONG
    assert len(re.findall(r"^Epoch \d+/40  loss", out, re.M)) == len(log(run))
    assert not (run / "results.json").exists()
    assert main(["train", "--resume", str(run), "--workers", str(1 - workers // 2)]) == 0
    assert "Resuming" in capsys.readouterr().out
    assert model(run) == model(uninterrupted)
    assert timeless(run) == timeless(uninterrupted)
    drawn = [r / "predictions" for r in (run, uninterrupted)]
    assert [digest(p) for p in sorted(drawn[0].iterdir())] == [
        digest(p) for p in sorted(drawn[1].iterdir())
    ]


def test_a_finished_run_is_resumed_to_itself(uninterrupted: Path, tmp_path: Path) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    before = model(run), log(run), (run / "results.json").read_text()
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 0
    assert (model(run), log(run)) == before[:2]
    results = [json.loads(text) for text in (before[2], (run / "results.json").read_text())]
    assert results[0]["images"] == results[1]["images"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_files_are_read_again_the_run_can_go_on(
    uninterrupted: Path,
    tmp_path: Path,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    contents, before = digests(run), signal.getsignal(number)

    def signalled(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("nothing more is done")

    monkeypatch.setattr(training, "decode", signalled)
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else before)
    try:
        assert main(["train", "--resume", str(run)]) == 128 + number
    finally:
        signal.signal(number, before)
    words = f"contorno: Stopped. Go on with:\n  contorno train --resume {run}\n"
    assert capsys.readouterr().err == words
    assert digests(run) == contents


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tune", signal.SIGTERM),
        ("evaluate", signal.SIGINT),
        ("write_report", signal.SIGINT),
        ("write_report", signal.SIGTERM),
    ],
)
def test_stopped_after_the_last_epoch_the_run_goes_on(
    uninterrupted: Path,
    tmp_path: Path,
    name: str,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    before = signal.getsignal(number)

    def signalled(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("nothing more is done")

    monkeypatch.setattr(training, name, signalled)
    signal.signal(number, signal.SIG_IGN if number == signal.SIGTERM else before)
    try:
        assert main(["train", "--resume", str(run), "--workers", "0"]) == 128 + number
    finally:
        signal.signal(number, before)
    words = "Stopped after the last epoch; everything is saved. Go on with:\n  contorno train "
    assert f"{words}--resume {run}\n" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 0
    assert model(run) == model(uninterrupted)


def resumed(run: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The error of a resume that is refused, without a traceback and with nothing changed."""
    before = {p: digest(p) for p in run.rglob("*") if p.is_file()}
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 2
    assert {p: digest(p) for p in run.rglob("*") if p.is_file()} == before
    words = capsys.readouterr().err
    assert "Traceback" not in words
    return words


def test_a_changed_run_is_not_resumed(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = shutil.copytree(discs, tmp_path / "data")
    run = tmp_path / "run"
    api.train(data / "images", data / "masks", out=run, epochs=1, widths=(4,), crop=32, **EXACT)
    config = run / "config.toml"
    text = config.read_text()
    assert "learning_rate = 0.001" in text

    config.write_text(text.replace("learning_rate = 0.001", "learning_rate = 0.003"))
    assert "the config changed since this run was stopped" in resumed(run, capsys)
    for line in ("validation = 0.5", 'group = "^p"', 'classes = "a=255,b=0"'):
        config.write_text(text.replace("[data]\n", f"[data]\n{line}\n"))
        assert "the section [data] of the config changed" in resumed(run, capsys)
    config.write_text(text.replace("epochs = 1\n", 'epochs = "many"\n'))
    assert "training.epochs: 'many'" in resumed(run, capsys)
    config.write_text(text)

    image = data / "images" / "p3.png"
    original = image.read_bytes()
    pixels = np.asarray(Image.open(image)).copy()
    pixels[5, 5] += 1
    save(image, pixels)
    assert "the data changed since this run was stopped" in resumed(run, capsys)
    image.unlink()
    words = resumed(run, capsys)
    assert "cannot be read any more" in words
    assert str(image) in words
    image.write_bytes(original)

    split = (run / "split.json").read_text()
    (run / "split.json").write_text(split[:20])
    assert "split.json cannot be read" in resumed(run, capsys)
    (run / "split.json").write_text(split)
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 0


def test_a_run_of_a_device_that_is_not_here_is_not_resumed(
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('device = "cpu"', 'device = "cuda"'))
    monkeypatch.setattr("contorno.hardware._may_have_gpu", lambda: False)
    words = resumed(run, capsys)
    assert "was begun on the device 'cuda', which is not available here" in words
    assert "choose" not in words  # a run that is resumed takes no --device


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts.update(validation=list(parts["validation"])),
        lambda parts: parts.update(problems="none"),
        lambda parts: parts["training"]["p1"].update(masks=[]),
        lambda parts: parts["training"]["p1"].pop("images"),
    ],
)
def test_a_split_that_was_changed_beyond_reading_is_named(
    uninterrupted: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    parts = json.loads((run / "split.json").read_text())
    change(parts)
    (run / "split.json").write_text(json.dumps(parts))
    assert f"{run}: split.json cannot be read" in resumed(run, capsys)


def test_masks_with_palettes_of_their_own_are_resumed(tmp_path: Path) -> None:
    data = easy(tmp_path / "data", 8)
    for index, path in enumerate(sorted((data / "masks").iterdir())):
        indices = np.asarray(Image.open(path)) // 255
        save_palette(path, indices, (0, 0, 0, 30 * index, 255, 0))
    api.train(
        data / "images",
        data / "masks",
        out=tmp_path / "run",
        epochs=1,
        widths=(4,),
        crop=32,
        validation=0.5,
        **EXACT,
    )
    api.train(resume=tmp_path / "run", workers=0)  # refused, were the masks read in another order


@pytest.mark.parametrize("gone", ["state", "state/*"])
@pytest.mark.parametrize("left", ["model.safetensors", "log.jsonl"])
def test_a_trained_run_without_its_state_is_not_begun_again(
    uninterrupted: Path, tmp_path: Path, gone: str, left: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    for path in run.glob(gone):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / ("log.jsonl" if left == "model.safetensors" else "model.safetensors")).unlink()
    words = resumed(run, capsys)
    assert f"{run / 'state'}: no state to resume from" in words
    assert "start a new run with another --out" in words
    usable = f"{run / 'model.safetensors'} is left as it is and can be used"
    assert (usable in words) == (left == "model.safetensors")


@pytest.mark.parametrize("lines", [None, ""])
def test_killed_before_the_first_save_a_run_begins_again(
    discs: Path, tmp_path: Path, lines: str | None
) -> None:
    again = trainer(discs, tmp_path)
    if lines is not None:
        (tmp_path / "log.jsonl").write_text(lines)
    again.restore()
    assert (again.position.epoch, again.position.step) == (0, 0)


@pytest.mark.parametrize("written", [0, 1])
def test_killed_while_its_folder_was_written_a_run_is_begun_again(
    discs: Path, tmp_path: Path, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before config.toml stands, the folder is none yet: the command that made it takes it."""
    options = {"out": tmp_path / "run", "epochs": 1, "widths": (4,), "crop": 32} | EXACT
    places: list[str] = []
    real = os.replace

    def killed(source: Path, target: Path) -> None:
        if len(places) == written:
            shutil.copytree(target.parent, tmp_path / "killed")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        places.append(target.name)
        real(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(StorageError, match="no space to write it"):
        api.train(discs / "images", discs / "masks", **options)
    monkeypatch.undo()
    assert places == ["split.json"][:written]
    assert not (tmp_path / "run").exists()  # whoever can clean up leaves nothing
    left = (tmp_path / "killed").rename(tmp_path / "run")
    assert (left / "lock").exists()
    assert len(list(left.glob(".contorno-*"))) == 1
    with pytest.raises(ConfigError, match="stopped before training began"):
        api.train(resume=left)
    api.train(discs / "images", discs / "masks", **options)
    assert not list(left.glob(".contorno-*"))


def test_masks_that_were_half_written_go_with_the_next_lock(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in (".", "predictions", "truths", "predictions/nucleus")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ".contorno-0123456789abcdef").touch()
        (folder / "p0.png").touch()
    with locked(tmp_path):
        for folder in folders:
            assert (folder / "p0.png").exists()
            assert not (folder / ".contorno-0123456789abcdef").exists()


def test_a_split_of_somebody_elses_is_left_as_it_is(discs: Path, tmp_path: Path) -> None:
    (tmp_path / "split.json").write_text('{"train": ["p1"], "test": ["p2"]}')
    with pytest.raises(ConfigError, match="exists already and is left as it is"):
        api.train(discs / "images", discs / "masks", out=tmp_path, epochs=1, **EXACT)


def test_killed_before_its_first_save_a_run_is_offered_to_go_on(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"out": tmp_path / "run", "epochs": 1, "widths": (4,), "crop": 32} | EXACT
    monkeypatch.setattr(training, "finish", lambda *arguments, **others: None)
    api.train(discs / "images", discs / "masks", **options)
    assert not (tmp_path / "run" / "state").exists()
    with pytest.raises(ConfigError, match=f"or go on with --resume {tmp_path / 'run'}"):
        api.train(discs / "images", discs / "masks", **options)


@pytest.mark.parametrize("changed", ["config", "data"])
def test_killed_before_its_first_save_a_changed_run_is_not_resumed(
    discs: Path,
    tmp_path: Path,
    changed: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = shutil.copytree(discs, tmp_path / "data")
    run, config = tmp_path / "run", tmp_path / "run" / "config.toml"
    options = {"out": run, "epochs": 1, "widths": (4,), "crop": 32} | EXACT
    monkeypatch.setattr(training, "finish", lambda *arguments, **others: None)
    api.train(data / "images", data / "masks", **options)
    monkeypatch.undo()
    before = config.read_bytes(), (data / "masks" / "p3.png").read_bytes()
    if changed == "config":
        config.write_text(config.read_text().replace("epochs = 1\n", "epochs = 3\n"))
    else:
        shutil.copy(data / "masks" / "p4.png", data / "masks" / "p3.png")
    assert f"the {changed} changed since this run was stopped" in resumed(run, capsys)
    config.write_bytes(before[0])
    (data / "masks" / "p3.png").write_bytes(before[1])
    api.train(resume=run, workers=0)
    assert len(log(run)) == 1


HOLDER = """
import sys, time
from pathlib import Path
from contorno.runfolder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is locked there")
def test_a_run_that_another_process_trains_is_not_resumed(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "copy")
    assert not (run / "lock").exists()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert f"{run}: another process is training in this folder" in resumed(run, capsys)
    finally:
        holder.kill()
        holder.communicate()
    assert (run / "lock").exists()  # the file of a killed process holds nobody up
    assert main(["train", "--resume", str(run), "--workers", "0"]) == 0
    assert not (run / "lock").exists()


def test_a_run_is_locked_while_it_trains(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refusals = Trainer.step, []

    def step(self: Trainer, batch: Any) -> float:
        with pytest.raises(ConfigError, match="another process is training") as caught:
            api.train(resume=self.run)
        refusals.append(str(caught.value))
        return real(self, batch)

    monkeypatch.setattr(Trainer, "step", step)
    options = {"epochs": 1, "widths": (4,), "crop": 32} | EXACT
    api.train(discs / "images", discs / "masks", out=tmp_path / "run", **options)
    api.train(discs / "images", discs / "masks", out=tmp_path / "folds", folds=2, **options)
    for name in ("run", "folds/fold1", "folds/fold2"):
        assert any(words.startswith(f"{tmp_path / name}:") for words in refusals)


def test_without_locks_training_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fcntl = pytest.importorskip("fcntl")

    def flock(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(tmp_path / "run"), locked(tmp_path / "run"):
        assert "cannot be locked" in " ".join(capsys.readouterr().err.split())


def test_a_folder_that_no_model_can_be_read_from_is_refused_at_once(
    discs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "latin-\udcf1"
    with pytest.raises(ConfigError, match="not UTF-8"):
        api.train(discs / "images", discs / "masks", out=run, epochs=1, **EXACT)
    assert not run.exists()


def test_there_is_nothing_to_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


# Classic: the reference notebooks


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_classic_says_one_line_an_epoch_in_the_notebooks_words(
    discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], up: str
) -> None:
    run = tmp_path / "run"
    assert (
        main(
            [
                "train",
                str(discs / "images"),
                str(discs / "masks"),
                "--recipe",
                "classic",
                "--up",
                up,
                "--size",
                "32",
                "--epochs",
                "3",
                "--out",
                str(run),
                *WORDS,
            ]
        )
        == 0
    )
    lines = [line for line in capsys.readouterr().out.splitlines() if "Lote" in line]
    assert len(lines) == 3
    for number, (line, record) in enumerate(zip(lines, log(run), strict=True), start=1):
        assert line == f"Lote 0, Epoch {number}/3, Loss {record['loss']:.4f}"
    config = read_config(run / "config.toml")
    assert (config.training.loss, config.training.optimizer) == ("mse", "adam")
    assert config.training.schedule == "constant"
    assert not config.training.augment
    assert config.preprocessing.size == (32, 32)
    assert config.preprocessing.std == (255.0,)
    assert config.network.activation == ("sigmoid" if up == "bilinear" else None)


def test_a_classic_epoch_is_the_notebooks_loop(discs: Path, tmp_path: Path) -> None:
    new = trainer(discs, tmp_path, recipe="classic", epochs=2, learning_rate=1e-3)
    reference = trainer(discs, tmp_path / "other", recipe="classic").segmenter.network
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3, weight_decay=1e-5)
    losses = []
    reference.train()
    for epoch in range(2):
        total = 0.0
        for batch in new.sampler.batches(epoch, start=0, workers=0):
            loss = ((reference(batch.images / 255) - batch.masks) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total / 2)
    fit(new, workers=0)
    assert [record["loss"] for record in log(tmp_path)] == pytest.approx(losses, rel=1e-4)


def test_classic_without_bytes_divides_by_the_largest_value(tmp_path: Path) -> None:
    data = easy(tmp_path / "data", 4)
    for path in (data / "images").iterdir():
        save(path, np.asarray(Image.open(path)).astype(np.uint16) * 257)
    config = trainer(data, tmp_path / "run", recipe="classic").config
    assert config.preprocessing.std == (65535.0,)
    assert config.preprocessing.dtype == "uint16"


@pytest.mark.parametrize("normalise", ["set", "image"])
def test_recipe_classic_normalises_where_that_is_asked_for(
    discs: Path, tmp_path: Path, normalise: str
) -> None:
    found = trainer(discs, tmp_path, recipe="classic", normalise=normalise)
    chosen = found.config.preprocessing
    assert (chosen.mean, chosen.std) == found.training.statistics()
    images, _ = found.normalised(next(found.sampler.batches(0, start=0, workers=0)))
    assert abs(images.mean()) < 0.3
    assert 0.7 < images.std() < 1.3


# Options that cannot work together


@pytest.mark.parametrize(
    ("recipe", "wishes", "words"),
    [
        ("best", {}, "recipe 'best' is unknown; choose auto or classic"),
        ("classic", {"up": "bilinear", "loss": "bce"}, "needs plain outputs"),
        ("classic", {"crop": 32}, "crop is for recipe auto, not classic"),
        ("auto", {"size": (32, 32)}, "size is for recipe classic, not auto"),
        ("classic", {"augment": True}, "needs square crops"),
        ("auto", {"widths": (4, 0)}, "widths"),
        ("auto", {"colour": "blue"}, "colour"),
    ],
)
def test_options_that_cannot_work(
    discs: Path, tmp_path: Path, recipe: str, wishes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        trainer(discs, tmp_path, recipe=recipe, **wishes)


def test_all_bad_values_of_a_section_are_listed(discs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        trainer(discs, tmp_path, epochs=0, batch_size=0, learning_rate=-1.0)
    assert [p.path for p in caught.value.problems] == [
        "training.learning_rate",
        "training.epochs",
        "training.batch_size",
    ]


def test_the_recipe_asks_less_of_a_short_time(discs: Path) -> None:
    from contorno.config import DataConfig
    from contorno.fingerprint import fingerprint
    from contorno.hardware import choose
    from contorno.recipes import ENOUGH, larger, resolve

    seen, hardware = fingerprint(read_all(discs)), choose(device="cpu", precision="32")
    assert (seen.images, seen.height, seen.width, seen.channels) == (10, 32, 32, 1)
    data = DataConfig(images="i")
    quick = resolve("auto", data, seen, hardware, {"time": 3600.0})
    default = resolve("auto", data, seen, hardware, {})
    assert (quick.network.widths[0], quick.network.patch) == (16, 2)
    assert larger(quick, 4 * ENOUGH - 1) is None
    wide, whole = larger(quick, 4 * ENOUGH), larger(quick, 16 * ENOUGH)
    assert wide is not None
    assert (wide.network.widths[0], wide.network.patch) == (32, 2)
    assert f"about {ENOUGH} steps" in wide.reasons["network.patch"]
    assert whole is not None
    assert (whole.network.widths[0], whole.network.patch) == (32, 1)
    assert larger(wide, 10**6) is None
    for wish in ({"widths": quick.network.widths}, {"patch": 2}):
        asked = resolve("auto", data, seen, hardware, {"time": 3600.0, **wish})
        assert larger(asked, 10**6) is None
        assert "that of the quickest network" in asked.reasons.values()
        assert "the time is short for a larger one" not in asked.reasons.values()
    assert larger(resolve("classic", data, seen, hardware, {}), 10**6) is None
    small = resolve("auto", data, seen, hardware, {"time": 3600.0, "crop": 32})
    assert (small.network.widths[0], small.network.patch) == (16, 1)  # 32 pixels halve 4 times
    assert "crops of 32" in small.reasons["network.patch"]
    assert larger(small, 4 * ENOUGH - 1) is None
    deep = resolve("auto", data, seen, hardware, {"time": 3600.0, "widths": (4,) * 6})
    assert deep.network.patch == 1  # 64 pixels halve 5 times, but not after a patch of 2
    roomy = larger(small, 4 * ENOUGH)
    assert roomy is not None
    assert (roomy.network.widths[0], roomy.network.patch) == (32, 1)
    counted = resolve("auto", data, seen, hardware, {"epochs": 3})
    assert (counted.network.widths[0], counted.network.patch) == (32, 1)
    assert default.training.time == 600
    assert quick.reasons["training.time"] == "as asked"
    everything = {
        f"{section}.{name}"
        for section in ("network", "preprocessing", "training")
        for name in getattr(quick, section).model_dump()
    }
    assert set(quick.reasons) <= everything
    assert read_image(discs / "images" / "p0.png").shape == (32, 32, 1)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("32", torch.float32)])
def test_convolutions_compute_in_the_precision_announced(
    discs: Path, tmp_path: Path, precision: str, dtype: torch.dtype
) -> None:
    """Autocast must reach the network: a wrapper that loses it halves the speed in silence."""
    new = trainer(discs, tmp_path, precision=precision)
    seen = []
    new.segmenter.network.bottom.register_forward_hook(
        lambda layer, inputs, output: seen.append(output.dtype)
    )
    new.step(next(new.sampler.batches(0, start=0, workers=0)))
    assert seen == [dtype]
