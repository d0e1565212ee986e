"""The arithmetic of a schedule, without any training."""

from __future__ import annotations

import pytest

from contorno.config import TrainingConfig
from contorno.schedule import Position, cool_if_stuck, fit_to_time, learning_rate, validates


@pytest.mark.parametrize("seconds", [1, 60, 600, 36000])
@pytest.mark.parametrize("step", [0.01, 0.9, 26.0])
@pytest.mark.parametrize("validation", [0.01, 5.0])
@pytest.mark.parametrize("whole", [3, 30, 3000])
def test_a_schedule_fills_the_time(
    seconds: float, step: float, validation: float, whole: int
) -> None:
    planned = fit_to_time(seconds, step=step, validation=validation, whole=whole)
    steps, epochs, every = (planned[k] for k in ("steps_per_epoch", "epochs", "validate_every"))
    assert 1 <= steps <= whole
    assert 1 <= every <= epochs
    assert planned["patience"] >= min(epochs // 3, 20)
    assert planned["patience"] >= 5 * every  # several validations before it gives up
    spent = epochs * (steps * step + validation / every)
    one = steps * step + validation  # what rounding to whole epochs can add
    assert spent <= seconds + one
    assert spent >= min(seconds - one, one)


def test_cooling_begins_once_and_ends_the_run_at_zero() -> None:
    recipe = TrainingConfig(epochs=100, steps_per_epoch=2, patience=10, warmup=0.0)
    position = Position(epochs=100, micro_batch=4, epoch=29, best_epoch=20)
    assert cool_if_stuck(recipe, position)
    assert (position.cooling, position.epochs) == (30, 40)
    assert not cool_if_stuck(recipe, position)
    position.epoch = 30
    top = learning_rate(recipe, position)
    position.epoch, position.step = 39, 1
    assert 0 < learning_rate(recipe, position) == pytest.approx(top / 20)
    assert validates(recipe, position)


def test_patience_of_zero_never_stops() -> None:
    recipe = TrainingConfig(epochs=100, steps_per_epoch=2, patience=0)
    assert not cool_if_stuck(recipe, Position(epochs=100, micro_batch=4, epoch=80))
