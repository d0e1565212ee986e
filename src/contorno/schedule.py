"""When things happen in a run: where it stands, the learning rate, validation, early annealing.

Arithmetic on a `Position` only; the loop that moves it is `train`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from contorno.config import TrainingConfig

_LEAST_EPOCHS = 20  # that a time is cut into, so that the best of several is kept
_LEAST_STEPS = 10  # in an epoch, so that its loss means something
_VALIDATION = 0.15  # of the time may go to validation


@dataclass
class Position:
    """Where a run stands: all that its state holds beside tensors."""

    epochs: int  # length of the schedule
    micro_batch: int  # examples that go through the network at once
    epoch: int = 0
    step: int = 0  # within the epoch
    loss: float = 0.0  # summed over the epoch's steps
    seconds: float = 0.0  # spent on the epoch
    learning_rate: float = 0.0  # of the last step
    saves: int = 0
    best: float = -1.0  # validation Dice
    best_loss: float = math.inf
    best_epoch: int = 0
    cooling: int | None = None  # epoch in which early annealing began


def learning_rate(recipe: TrainingConfig, position: Position) -> float:
    """Warm-up, then constant or cosine; a straight line to zero once cooling began."""
    steps = recipe.steps_per_epoch
    now = position.epoch * steps + position.step
    if position.cooling is None:
        return recipe.learning_rate * _factor(recipe, now)
    began, end = position.cooling * steps, position.epochs * steps
    return recipe.learning_rate * _factor(recipe, began) * (end - now) / (end - began)


def validates(recipe: TrainingConfig, position: Position) -> bool:
    """Whether the epoch that has just ended is followed by validation; the last always is."""
    done = position.epoch + 1
    return done % recipe.validate_every == 0 or done >= position.epochs


def cool_if_stuck(recipe: TrainingConfig, position: Position) -> bool:
    """Early stopping that fits the schedule: anneal at once rather than stop un-annealed.

    Returns:
        Whether annealing begins now; `position.epochs` is then the earlier end.
    """
    done = position.epoch + 1
    length = max(2, position.epochs // 10)
    stuck = recipe.patience > 0 and done - position.best_epoch >= recipe.patience
    if not stuck or position.cooling is not None or done + length >= position.epochs:
        return False
    position.cooling, position.epochs = done, done + length
    return True


def fit_to_time(seconds: float, *, step: float, validation: float, whole: int) -> dict[str, int]:
    """Cut a time into epochs.

    Args:
        seconds: for training and validation together.
        step, validation: seconds that one step and one validation take.
        whole: steps that see all the data once, the most that an epoch has.

    Returns:
        Values of epochs, steps_per_epoch, validate_every and patience.
    """
    total = max(1, int(seconds / step))
    steps = min(whole, total, max(total // _LEAST_EPOCHS, _LEAST_STEPS))
    every = max(1, math.ceil(validation / (_VALIDATION * steps * step)))
    epochs = max(1, round(seconds / (steps * step + validation / every)))
    every = min(every, epochs)
    patience = max(20, epochs // 3, 5 * every)
    return {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "validate_every": every,
        "patience": patience,
    }


def _factor(recipe: TrainingConfig, now: int) -> float:
    """Factor on the learning rate at step `now` of the schedule."""
    total = recipe.epochs * recipe.steps_per_epoch
    warm = int(recipe.warmup * total)
    if now < warm:
        return (now + 1) / warm
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (now - warm) / max(total - warm, 1)))
