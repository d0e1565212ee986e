"""When things happen in a run: where it stands, the learning rate, validation, early annealing.

Arithmetic on a `Position` only; the loop that moves it is `train`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from contorno.config import TrainingConfig

_LEAST_EPOCHS = 40  # that a time is cut into: the best of many is kept, and the end can be moved
_LEAST_STEPS = 10  # in an epoch, so that its loss means something
_VALIDATION = 0.05  # of the time may go to validation
_ONE_VALIDATION = 0.015  # so that there are ten of them
_LEAST_IMAGES = 8  # that validate, so that their Dice means something


@dataclass
class Position:
    """Where a run stands: all that its state holds beside tensors."""

    epochs: int  # length of the schedule; follows the clock where there is a time to keep
    micro_batch: int  # examples that go through the network at once
    epoch: int = 0
    step: int = 0  # within the epoch
    loss: float = 0.0  # summed over the epoch's steps
    seconds: float = 0.0  # spent on the epoch
    learning_rate: float = 0.0  # of the last step
    saves: int = 0
    best: float = -1.0  # validation Dice of the model that is kept
    best_loss: float = math.inf
    best_epoch: int = 0
    cooling: int | None = None  # epoch in which early annealing began
    top: float = 0.0  # learning rate then
    fitted: int = 0  # epoch in which the length was last changed
    reached: float = 0.0  # share of the schedule that lay behind then
    spent: float = 0.0  # seconds since the command began, those of earlier sessions too


def learning_rate(recipe: TrainingConfig, position: Position) -> float:
    """Constant or cosine; a straight line to zero once cooling began."""
    steps = recipe.steps_per_epoch
    now = position.epoch * steps + position.step
    if position.cooling is None:
        return recipe.learning_rate * _factor(recipe, position, now)
    began, end = position.cooling * steps, position.epochs * steps
    return position.top * (end - now) / (end - began)


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
    position.top = recipe.learning_rate * _factor(recipe, position, done * recipe.steps_per_epoch)
    position.cooling, position.epochs = done, done + length
    return True


def follow(position: Position, *, left: float, epoch: float, validated: bool) -> None:
    """Fit the rest of the schedule to the rest of the time, at the end of an epoch.

    What lies behind stays: the learning rate goes on from where it is, more or less steeply. A
    schedule that is done, or being cooled, is left as it is.

    Args:
        position: still in the epoch that has ended.
        left: seconds.
        epoch: seconds that one takes, with its share of validation.
        validated: whether this one was; if not, there is one more at least.
    """
    done = position.epoch + 1
    if done >= position.epochs or position.cooling is not None:
        return
    position.reached = _progress(position, done)
    position.fitted = done
    position.epochs = done + max(0 if validated else 1, round(left / epoch))


def fit_to_time(
    seconds: float, *, step: float, image: float, images: int, whole: int
) -> dict[str, int]:
    """Cut a time into epochs; `follow` changes how many as they go by.

    Args:
        seconds: for training and validation together.
        step, image: seconds that one step, and one validation image, take.
        images: that validate.
        whole: steps that see all the data once, the most that an epoch has.

    Returns:
        Values of epochs, steps_per_epoch, validate_every and validate_images.
    """
    total = max(1, int(seconds / step))
    steps = min(whole, total, max(total // _LEAST_EPOCHS, _LEAST_STEPS))
    some = min(images, max(_LEAST_IMAGES, int(_ONE_VALIDATION * seconds / image)))
    validation = some * image
    every = max(1, math.ceil(validation / (_VALIDATION * steps * step)))
    epochs = max(1, round(seconds / (steps * step + validation / every)))
    return {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "validate_every": min(every, epochs),
        "validate_images": some,
    }


def _progress(position: Position, epochs: float) -> float:
    """Share of the schedule, 0..1, that lies behind after so many epochs."""
    ahead = max(position.epochs - position.fitted, 1)
    return position.reached + (1 - position.reached) * (epochs - position.fitted) / ahead


def _factor(recipe: TrainingConfig, position: Position, now: int) -> float:
    """Factor on the learning rate at step `now`."""
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * _progress(position, now / recipe.steps_per_epoch)))
