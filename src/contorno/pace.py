"""How a run keeps its time: a plan from a few timed batches, which then follows the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from contorno.engines import whole_image
from contorno.schedule import fit_to_time, follow
from contorno.tiles import TILE, WHOLE
from contorno.trainer import Trainer

TUNING = 0.02  # of the time, to measure what averaging would do
_TIMING = 2.0  # seconds that timing batches may take, or an image; the clock corrects it later
_OVERLAP = 4  # times that a pixel is seen where tiles overlap by half, down and across
_RECENT = 4  # epochs that the pace is measured over
_REPORT = 4.0  # seconds for loading the model, the figures and the report
_SCORING = 2.0  # times a validation with every image: tuning, the final score and its figures


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
        trainer: new; its first steps are taken, so another one must do the training.
        seconds: for everything from the beginning of the command to the report.
        workers: as in `fit`.

    Returns:
        See `fit_to_time`.
    """
    batches = trainer.sampler.batches(0, start=0, workers=workers)
    step = _pace(trainer.step, batches, seconds)
    images = len(trainer.validation)
    one = _validation_image(trainer, seconds)
    left = max(seconds - trainer.spent - after(seconds, one * images), seconds / 10)
    return fit_to_time(left, step=step, image=one, images=images, whole=trainer.sampler.steps)


def _validation_image(trainer: Trainer, budget: float) -> float:
    """Seconds that a validation image of mean size takes; of one cut into tiles, one is timed."""
    image, _ = trainer.validation.read(0)
    tiled = image.shape[0] * image.shape[1] > WHOLE
    piece = image[:TILE, :TILE] if tiled else image
    seconds = _pace(lambda piece: whole_image(trainer.engine, piece), [piece] * 5, budget)
    facts = trainer.validation.facts
    pixels = sum(one.pixels for one in facts) / len(facts)
    times: float = pixels / (piece.shape[0] * piece.shape[1]) * (_OVERLAP if tiled else 1)
    return seconds * times


def _pace(work: Callable[[Any], Any], items: Iterable[Any], budget: float) -> float:
    """Seconds that one item takes: the median, without the first two, which set things up.

    Ends after 3% of the budget or `_TIMING`, but not before three items.
    """
    began = before = time.monotonic()
    times = []
    for item in items:  # the wait for an item counts too
        work(item)
        now = time.monotonic()
        times.append(now - before)
        before = now
        if len(times) >= 3 and now - began > min(0.03 * budget, _TIMING):
            break
    return float(np.median(times[2:] or times))
