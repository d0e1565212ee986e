"""Training: one loop that reads as a procedure.

`fit` continues from any position to the same bits as if it had never stopped. What is trained on is
decided by `recipes`, when things happen by `schedule`, what a step is by `trainer`.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np

from contorno.engines import whole_image
from contorno.errors import Interrupted
from contorno.progress import Advance, bar, say
from contorno.runlog import RunLog
from contorno.schedule import cool_if_stuck, fit_to_time, validates
from contorno.signals import StopRequest
from contorno.trainer import Trainer

SAVE_EVERY = 120.0  # seconds between saves within an epoch


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
    log = RunLog(trainer.run, classic=recipe.recipe == "classic")
    steps = trainer.sampler.steps
    done = position.epoch * steps + position.step
    with StopRequest() as stop, bar(title, position.epochs * steps, start=done) as advance:
        while position.epoch < position.epochs:
            _train_epoch(trainer, stop, advance, workers)
            record = _record(trainer)
            if validates(recipe, position):
                record |= _validate_epoch(trainer, stop)
            log.epoch(record)
            position.epoch, position.step = position.epoch + 1, 0
            position.loss = position.seconds = 0.0
            if trainer.save_is_due() or position.epoch == position.epochs:
                trainer.save()


def _train_epoch(trainer: Trainer, stop: StopRequest, advance: Advance, workers: int) -> None:
    """The steps of the epoch that are still to be done."""
    position = trainer.position
    began = time.monotonic() - position.seconds
    for batch in trainer.sampler.batches(position.epoch, start=position.step, workers=workers):
        position.loss += trainer.step(batch)
        position.step += 1
        position.seconds = time.monotonic() - began
        advance(_words(trainer))
        if stop.requested:
            _interrupt(trainer, stop)
        if trainer.unsaved() > SAVE_EVERY:
            trainer.save()


def _validate_epoch(trainer: Trainer, stop: StopRequest) -> dict[str, Any]:
    """Score the model, keep it if it is the best, see whether to end early; what to log."""
    scores = trainer.validate(stop)
    if scores is None:
        _interrupt(trainer, stop)
    dice, error = scores
    better = trainer.keep_if_best(dice, error)
    if cool_if_stuck(trainer.config.training, trainer.position):
        say(
            f"No better mask for {trainer.config.training.patience} epochs: annealing now, ending "
            f"after epoch {trainer.position.epochs}."
        )
    return {
        "validation_dice": dice,
        "validation_loss": error,
        "best": better,
        "epochs": trainer.position.epochs,
    }


def plan(trainer: Trainer, seconds: float, *, workers: int) -> dict[str, int]:
    """Fit the schedule to a time: a few batches and one validation image are timed.

    Args:
        trainer: new; its weights are put back.
        seconds: for training and validation together.
        workers: as in `fit`.

    Returns:
        Values of epochs, steps_per_epoch, validate_every and patience.
    """
    before = copy.deepcopy(trainer.segmenter.state_dict())
    step = 1.1 * _pace(  # the update itself and the data come on top
        lambda batch: trainer.gradients(*trainer.normalised(batch)),
        trainer.sampler.batches(0, start=0, workers=workers),
        seconds,
    )
    trainer.segmenter.load_state_dict(before)
    image, _ = trainer.validation.read(0)
    one = _pace(lambda image: whole_image(trainer.engine, image), [image] * 5, seconds)
    pixels = sum(facts.pixels for facts in trainer.validation.facts)
    validation = one * pixels / (image.shape[0] * image.shape[1])
    return fit_to_time(seconds, step=step, validation=validation, whole=trainer.sampler.steps)


def _pace(work: Callable[[Any], Any], items: Iterable[Any], budget: float) -> float:
    """Seconds that one item takes: the median, without the first two, which set things up.

    Ends after 3% of the budget, but not before three items.
    """
    began, times = time.monotonic(), []
    for item in items:
        before = time.monotonic()
        work(item)
        times.append(time.monotonic() - before)
        if len(times) >= 3 and time.monotonic() - began > 0.03 * budget:
            break
    return float(np.median(times[2:] or times))


def _record(trainer: Trainer) -> dict[str, Any]:
    """The line of log.jsonl for the epoch that has just been trained."""
    position = trainer.position
    return {
        "epoch": position.epoch + 1,
        "epochs": position.epochs,
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
    raise Interrupted(
        f"Stopped at epoch {trainer.position.epoch + 1}; everything is saved. Go on with:\n"
        f"  contorno train --resume {trainer.run}",
        exit_code=128 + stop.signal,
    )
