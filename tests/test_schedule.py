"""The arithmetic of a schedule, without any training."""

from __future__ import annotations

import pytest

from contorno.config import TrainingConfig
from contorno.schedule import (
    Position,
    cool_if_stuck,
    fit_to_time,
    follow,
    learning_rate,
    validates,
)


@pytest.mark.parametrize("seconds", [1, 60, 600, 36000])
@pytest.mark.parametrize("step", [0.01, 0.9, 26.0])
@pytest.mark.parametrize("image", [0.001, 0.5])
@pytest.mark.parametrize("images", [2, 100])
@pytest.mark.parametrize("whole", [3, 30, 3000])
def test_a_schedule_fills_the_time(
    seconds: float, step: float, image: float, images: int, whole: int
) -> None:
    planned = fit_to_time(seconds, step=step, image=image, images=images, whole=whole)
    steps, epochs, every = (planned[k] for k in ("steps_per_epoch", "epochs", "validate_every"))
    some = planned["validate_images"]
    assert 1 <= steps <= whole
    assert 1 <= every <= epochs
    assert min(images, 8) <= some <= images
    assert some == images or some <= max(8, 0.015 * seconds / image)
    spent = epochs * (steps * step + some * image / every)
    one = steps * step + some * image  # what rounding to whole epochs can add
    assert spent <= seconds + one
    assert spent >= min(seconds - one, one)


@pytest.mark.parametrize(
    ("seconds", "step", "image", "images", "epochs", "steps", "every", "some"),
    [
        # 15 steps in each of 40 epochs; 1.5% of the time is 18 images, 9 s: 5% of 12 epochs.
        (600, 1.0, 0.5, 100, 38, 15, 12, 18),
        (60, 2.0, 0.01, 5, 3, 10, 1, 5),  # 30 steps: no fewer than 10 in an epoch
        (1, 26.0, 0.5, 100, 1, 1, 1, 8),  # no time at all
        (36_000, 0.5, 0.5, 50, 115, 600, 2, 50),  # an epoch never has more than all the data
    ],
)
def test_schedules_by_hand(
    seconds: float, step: float, image: float, images: int,
    epochs: int, steps: int, every: int, some: int,
) -> None:  # fmt: skip
    planned = fit_to_time(seconds, step=step, image=image, images=images, whole=600)
    assert planned == {
        "epochs": epochs,
        "steps_per_epoch": steps,
        "validate_every": every,
        "validate_images": some,
    }


def test_cooling_waits_for_patience_and_never_makes_a_run_longer() -> None:
    recipe = TrainingConfig(epochs=100, steps_per_epoch=2, patience=10)

    def cools(epoch: int, best: int) -> bool:
        position = Position(epochs=100, micro_batch=4, epoch=epoch, best_epoch=best)
        begins = cool_if_stuck(recipe, position)
        assert position.epochs == (epoch + 1 + 10 if begins else 100)
        return begins

    assert [cools(epoch, best=20) for epoch in (27, 28, 29, 40)] == [False, False, True, True]
    assert [cools(epoch, best=20) for epoch in (88, 89, 90)] == [True, False, False]


def test_cooling_begins_once_and_ends_the_run_at_zero() -> None:
    recipe = TrainingConfig(epochs=100, steps_per_epoch=2, patience=10)
    position = Position(epochs=100, micro_batch=4, epoch=30, best_epoch=20)
    before = learning_rate(recipe, position)
    position.epoch = 29
    assert cool_if_stuck(recipe, position)
    assert (position.cooling, position.epochs) == (30, 40)
    assert not cool_if_stuck(recipe, position)
    position.epoch = 30
    top = learning_rate(recipe, position)
    assert top == pytest.approx(before)
    position.epoch, position.step = 39, 1
    assert 0 < learning_rate(recipe, position) == pytest.approx(top / 20)
    assert validates(recipe, position)


def test_patience_of_zero_never_stops() -> None:
    recipe = TrainingConfig(epochs=100, steps_per_epoch=2, patience=0)
    assert not cool_if_stuck(recipe, Position(epochs=100, micro_batch=4, epoch=80))


def rates(recipe: TrainingConfig, position: Position, epochs: range) -> list[float]:
    """The learning rates of some epochs' steps."""
    found = []
    for position.epoch in epochs:
        for position.step in range(recipe.steps_per_epoch):
            found.append(learning_rate(recipe, position))
    return found


@pytest.mark.parametrize("seconds", [12.0, 3.0])  # for the 40 epochs that are left, twice or half
def test_the_learning_rate_goes_on_from_where_it_was(seconds: float) -> None:
    recipe = TrainingConfig(epochs=50, steps_per_epoch=4, learning_rate=1.0)
    position = Position(epochs=50, micro_batch=4)
    before = rates(recipe, position, range(10))
    follow(position, left=seconds * 40 / 6, epoch=1.0, validated=True)
    assert position.epochs == 10 + round(seconds * 40 / 6)
    after = rates(recipe, position, range(10, position.epochs))
    steps = [abs(a - b) for a, b in zip([before[-1], *after], after, strict=False)]
    assert after == sorted(after, reverse=True)
    assert max(steps) < 0.05  # no jump
    assert after[-1] < 0.01
    assert before[0] == 1


def test_following_changes_nothing_where_the_pace_is_kept() -> None:
    recipe = TrainingConfig(epochs=30, steps_per_epoch=3)
    plain = Position(epochs=30, micro_batch=4)
    expected = rates(recipe, plain, range(30))
    kept, found = Position(epochs=30, micro_batch=4), []
    for epoch in range(30):
        found += rates(recipe, kept, range(epoch, epoch + 1))
        follow(kept, left=2.0 * (29 - epoch), epoch=2.0, validated=True)
    assert kept.epochs == 30
    assert found == pytest.approx(expected)


def test_a_schedule_ends_when_no_time_is_left() -> None:
    position = Position(epochs=30, micro_batch=4, epoch=11)
    follow(position, left=-5.0, epoch=2.0, validated=False)
    assert position.epochs == 13  # the last one is always validated
    position.epoch = 12
    follow(position, left=-7.0, epoch=2.0, validated=True)
    assert position.epochs == 13
    early = Position(epochs=30, micro_batch=4, epoch=11)
    follow(early, left=-5.0, epoch=2.0, validated=True)
    assert early.epochs == 12


def test_an_end_is_an_end() -> None:
    """Neither an annealed schedule nor one that is being cooled is made longer."""
    done = Position(epochs=30, micro_batch=4, epoch=29)
    follow(done, left=100.0, epoch=2.0, validated=True)
    assert done.epochs == 30
    cooled = Position(epochs=30, micro_batch=4, epoch=11, cooling=10)
    follow(cooled, left=100.0, epoch=2.0, validated=True)
    assert cooled.epochs == 30
