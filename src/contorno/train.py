"""Training: one loop that reads as a procedure.

`fit` continues from any position to the same bits as if it had never stopped; only in how many
epochs it has does a run that keeps a time follow the clock. What is trained on is decided by
`recipes`, when things happen by `schedule`, what a step is by `trainer`.
"""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, NoReturn

from contorno.early import FirstSteps
from contorno.pace import Pace
from contorno.progress import Advance, bar, say, warn
from contorno.runlog import RunLog
from contorno.schedule import cool_if_stuck, validates
from contorno.signals import StopRequest, stopped
from contorno.trainer import Trainer

SAVE_EVERY = 120.0  # seconds between saves within an epoch
AFTER = "after the last epoch"  # where a run was stopped


def fit(trainer: Trainer, *, workers: int = 2, title: str = "Training") -> None:
    """Train from the trainer's position to the end of its schedule.

    Writes model.safetensors (the best), log.jsonl and state/ in the run folder.

    Args:
        trainer: new or restored.
        workers: threads that prepare batches.
        title: of the progress bar.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the state is saved.
        TrainingError: the loss is not finite, or memory does not suffice.
        StorageError: the disk is full; the last state is whole.
    """
    position, recipe = trainer.position, trainer.config.training
    if position.saves == 0:
        trainer.save()  # the first steps can be resumed too
    classic, every = recipe.recipe == "classic", recipe.validate_every
    begin = position.epoch + 1
    log = RunLog(trainer.run, begin=begin, classic=classic, validate_every=every)
    steps = trainer.sampler.steps
    done = position.epoch * steps + position.step
    pace, first = Pace(trainer), FirstSteps(warn, done=done)
    total = position.epochs * steps
    with closing(log), StopRequest() as stop, bar(title, total, start=done) as advance:
        while position.epoch < position.epochs:
            _train_epoch(trainer, stop, advance, first, workers)
            record = _record(trainer)
            if validates(recipe, position):
                record |= _validate_epoch(trainer, stop, first)
            pace.keep(position.seconds, record.get("validation_seconds"))
            log.epoch(record | {"epochs": position.epochs})
            position.epoch, position.step = position.epoch + 1, 0
            position.loss = position.seconds = 0.0
            if trainer.save_is_due() or position.epoch == position.epochs:
                trainer.save()
    if stop.requested:  # too late for the last epoch to see
        raise stopped(trainer.run, AFTER, 128 + stop.signal)


def _train_epoch(
    trainer: Trainer, stop: StopRequest, advance: Advance, first: FirstSteps, workers: int
) -> None:
    """The steps of the epoch that are still to be done."""
    position = trainer.position
    began = time.monotonic() - position.seconds
    for batch in trainer.sampler.batches(position.epoch, start=position.step, workers=workers):
        loss = trainer.step(batch)
        position.loss += loss
        position.step += 1
        position.seconds = time.monotonic() - began
        total = position.epochs * trainer.sampler.steps
        advance(_words(trainer), total=total)
        first.step(loss, total=total, seconds=trainer.spent)
        if stop.requested:
            _interrupt(trainer, stop)
        if trainer.unsaved() > SAVE_EVERY:
            trainer.save()


def _validate_epoch(trainer: Trainer, stop: StopRequest, first: FirstSteps) -> dict[str, Any]:
    """Score the model, keep it if it is the best, see whether to end early; what to log."""
    began = time.monotonic()
    scores = trainer.validate(stop)
    if scores is None:
        _interrupt(trainer, stop)
    better = trainer.keep_if_best(scores.dice, scores.error)
    total = trainer.position.epochs * trainer.sampler.steps
    first.validated(scores.drawn, scores.true, total=total, seconds=trainer.spent)
    if cool_if_stuck(trainer.config.training, trainer.position):
        say(
            f"No better mask for {trainer.config.training.patience} epochs: annealing now, ending "
            f"after epoch {trainer.position.epochs}."
        )
    return {
        "validation_dice": scores.dice,
        "validation_loss": scores.error,
        "validation_seconds": round(time.monotonic() - began, 3),
        "best": better,
    }


def _record(trainer: Trainer) -> dict[str, Any]:
    """The line of log.jsonl for the epoch that has just been trained."""
    position = trainer.position
    return {
        "epoch": position.epoch + 1,
        "epochs": position.epochs,  # may still change at the end of the epoch
        "step": (position.epoch + 1) * trainer.sampler.steps,
        "loss": position.loss / position.step,
        "learning_rate": position.learning_rate,
        "images_per_second": round(trainer.rate, 2),
        "seconds": round(position.seconds, 2),
    }


def _words(trainer: Trainer) -> str:
    """What stands beside the progress bar."""
    position = trainer.position
    best = f"  Dice {position.best:.3f}" if position.best >= 0 else ""
    return f"loss {position.loss / position.step:.4f}{best}  {trainer.rate:.1f} images/s"


def _interrupt(trainer: Trainer, stop: StopRequest) -> NoReturn:
    trainer.save()
    raise stopped(trainer.run, f"at epoch {trainer.position.epoch + 1}", 128 + stop.signal)
