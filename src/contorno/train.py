"""Training: one loop that reads as a procedure.

`fit` continues from any position to the same bits as if it had never stopped; only in how many
epochs it has does a run that keeps a time follow the clock. What is trained on is decided by
`recipes`, when things happen by `schedule`, what a step is by `trainer`.
"""

from __future__ import annotations

import copy
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np

from contorno.early import FirstSteps
from contorno.engines import whole_image
from contorno.errors import Interrupted
from contorno.progress import Advance, bar, say, warn
from contorno.runlog import RunLog
from contorno.schedule import cool_if_stuck, fit_to_time, follow, validates
from contorno.signals import StopRequest
from contorno.trainer import Trainer

SAVE_EVERY = 120.0  # seconds between saves within an epoch
TUNING = 0.02  # of the time, to measure what averaging would do
_RECENT = 4  # epochs that the pace is measured over
_REPORT = 6.0  # seconds for the report
_SCORING = 2.0  # times a validation with every image: tuning, the final score and its figures


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
    pace, first = Pace(trainer), FirstSteps(warn, done=done)
    with StopRequest() as stop, bar(title, position.epochs * steps, start=done) as advance:
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


class Pace:
    """Keeps a run's time, if it has one: the schedule is fitted anew after every epoch.

    Args:
        trainer: whose.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._epochs = deque[float](maxlen=_RECENT)  # seconds that the last ones took
        self._validation = 0.0  # seconds of the last
        pixels = [facts.pixels for facts in trainer.validation.facts]
        self._times = sum(pixels) / sum(pixels[index] for index in trainer.validating())

    def keep(self, epoch: float, validation: float | None) -> None:
        """Call at the end of an epoch, with the seconds that it and its validation took."""
        trainer, recipe = self._trainer, self._trainer.config.training
        if recipe.time is None:
            return
        self._epochs.append(epoch)
        self._validation = self._validation if validation is None else validation
        left = recipe.time - trainer.spent - after(recipe.time, self._times * self._validation)
        each = sum(self._epochs) / len(self._epochs) + self._validation / recipe.validate_every
        follow(trainer.position, left=left, epoch=each, validated=validation is not None)


def after(budget: float, validation: float) -> float:
    """Seconds to leave for what follows training: tuning, the final score, figures and report.

    Args:
        budget: of the whole run, in seconds.
        validation: seconds that all validation images take.
    """
    return _REPORT + _SCORING * validation + TUNING * budget


def plan(trainer: Trainer, seconds: float, *, workers: int) -> dict[str, int]:
    """Fit the schedule to a time: a few batches and one validation image are timed.

    Args:
        trainer: new; its weights are put back.
        seconds: for everything from the beginning of the command to the report.
        workers: as in `fit`.

    Returns:
        See `fit_to_time`.
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
    images = len(trainer.validation)
    pixels = sum(facts.pixels for facts in trainer.validation.facts) / images
    one *= pixels / (image.shape[0] * image.shape[1])
    left = max(seconds - trainer.spent - after(seconds, one * images), seconds / 10)
    return fit_to_time(left, step=step, image=one, images=images, whole=trainer.sampler.steps)


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
    raise Interrupted(
        f"Stopped at epoch {trainer.position.epoch + 1}; everything is saved. Go on with:\n"
        f"  contorno train --resume {trainer.run}",
        exit_code=128 + stop.signal,
    )
