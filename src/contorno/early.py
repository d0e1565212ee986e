"""Early words: what looks wrong before much time is spent. They change nothing.

Before training: whether the time has room for hardly a step; from the two parts of the data,
whether validation is too small to tell, or unlike the training part. Once the first `SHARE` of a
run, or its first minute, is over: whether the loss stands still, or masks come out empty or full.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from contorno.data.dataset import Dataset

Array = NDArray[np.float64]
SHARE = 0.05  # of the steps
MINUTE = 60.0  # seconds, if these are over first
_LEAST_STEPS = 20  # a loss tells nothing before
_FEW = 6  # images: fewer are not tuned on either
_FALL = 0.02  # of the loss: less is none
_DOUBT = 1e-3  # chance of such a difference where there is none
_APART = 0.85  # chance that an image of one part has more than one of the other: less is no matter


def about_time(steps: int) -> list[str]:
    """A sentence on a time that has room for so few steps that nothing is learnt."""
    if steps >= _LEAST_STEPS:
        return []
    return [
        f"The time has room for {steps} step(s) only, too few to learn anything: the masks will "
        "hardly be of use. Give it more, minutes where you can (--time 10m)."
    ]


def about_parts(
    training: Dataset, validation: Dataset, *, fold: bool = False, listed: bool = False
) -> list[str]:
    """Sentences on a validation part that tells little, or of something else.

    Args:
        training, validation: the two parts.
        fold: whether the validation part is one fold of several.
        listed: whether the user named those that validate.
    """
    words = []
    if len(validation) < _FEW:
        words.append(
            f"Validation has {len(validation)} image(s), too few to tell a good model from a lucky "
            f"one: {_remedy(len(training) + len(validation), fold=fold, listed=listed)}."
        )
    theirs = _properties(validation)
    unlike = [
        f"{name} {'more' if more > 0.5 else 'less'} in {max(more, 1 - more):.0%} of all pairs"
        for name, values in _properties(training).items()
        if (more := _more(values, theirs[name])) is not None
    ]
    if unlike:
        words.append(
            "The validation images are unlike those for training: "
            f"{', '.join(unlike)}. Its Dice says how the model does on such images, and it chooses "
            "the model; if that is not meant, leave the choice to contorno."
        )
    return words


def _remedy(pairs: int, *, fold: bool, listed: bool) -> str:
    """What to do about a validation part of fewer than `_FEW` of so many pairs."""
    if fold:
        return "look at the score of all folds instead"
    if listed:
        return f"read its Dice with care, or name {_FEW} or more in the list of --validation-files"
    share = math.ceil(100 * _FEW / pairs) / 100
    if share <= 0.5:
        return f"read its Dice with care, or give it more (--validation {share:g})"
    return f"read its Dice with care, or let each image validate once (--folds {min(pairs, 5)})"


def _more(training: Array, validation: Array) -> float | None:
    """How often a validation image has more than one for training, if that is no chance."""
    if min(len(training), len(validation)) < _FEW:
        return None
    test = mannwhitneyu(validation, training)
    share = float(test.statistic) / (len(training) * len(validation))
    return share if test.pvalue < _DOUBT and abs(share - 0.5) > _APART - 0.5 else None


def _properties(part: Dataset) -> dict[str, Array]:
    """What images may differ in, a value for each image; channels together."""
    light = []
    for facts in part.facts:
        assert facts.statistics is not None  # `load` asks for them
        light.append([one.mean() for one in facts.statistics.mean_and_spread(facts.pixels)])
    brightness, contrast = np.array(light).T
    foreground = np.array([part.foreground_share(i) for i in range(len(part))])
    return {"brightness": brightness, "contrast": contrast, "foreground": foreground}


class FirstSteps:
    """Watches the beginning of a run, and speaks once about each thing.

    Args:
        say: what to speak with.
        done: steps that lie behind; a run that is resumed beyond its beginning is not watched.
    """

    def __init__(self, say: Callable[[str], None], *, done: int = 0) -> None:
        self._say, self._done = say, done
        self._losses: list[float] = []
        self._watching = {"loss", "masks"} if done < _LEAST_STEPS else set()

    def step(self, loss: float, *, total: int, seconds: float) -> None:
        """Call after each step.

        Args:
            loss: of the step.
            total: steps of the whole run.
            seconds: since the run began.
        """
        self._done += 1
        if "loss" not in self._watching:
            return
        self._losses.append(loss)
        if not self._over(total, seconds):
            return
        self._watching.discard("loss")
        if flat(self._losses):
            self._say(
                f"After {self._done} steps the loss has hardly moved from "
                f"{np.mean(self._losses):.4f}. If it stays so, look whether the masks belong to "
                "their images (contorno check), and try another --learning-rate."
            )

    def validated(self, drawn: float, true: float, *, total: int, seconds: float) -> None:
        """Call after each validation.

        Args:
            drawn, true: shares of the validation pixels that are foreground in the masks drawn, and
                in those given.
            total, seconds: as in `step`.
        """
        if "masks" not in self._watching or not self._over(total, seconds):
            return
        self._watching.discard("masks")
        if drawn in (0, 1) and drawn != true:
            self._say(
                f"After {self._done} steps every validation mask is still "
                f"{'full' if drawn else 'empty'}, while {true:.2%} of the pixels are foreground. "
                "Rare or thin objects need longer; if it stays so, look at the masks (contorno "
                "check) and give more --time."
            )

    def _over(self, total: int, seconds: float) -> bool:
        enough = self._done >= SHARE * total or seconds > MINUTE
        return self._done >= _LEAST_STEPS and enough


def flat(losses: Sequence[float]) -> bool:
    """Whether the last half of the losses is not lower than the first, but for noise."""
    middle = len(losses) // 2
    before, after = np.array(losses[:middle]), np.array(losses[middle:])
    fall = before.mean() - after.mean()
    return bool(fall < _FALL * abs(before.mean()))
