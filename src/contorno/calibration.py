"""Whether a probability of 0.8 means that 8 of 10 such pixels are foreground.

Counts pixels by probability; the words for it stand in `RULE`. Expected calibration error after
Naeini et al. (2015), with 15 bins as in Guo et al. (2017), of the event that a pixel belongs to a
class. All counts are integers, so that they can be summed over images and classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
BINS = 15
STEPS = 65535  # probabilities are counted in steps of 1/65535, as in the 16-bit PNG
_REACH = 0.02  # of the image diagonal
RULE = (
    "Counted are the pixels of which a class could reasonably be asked: those of the class in the "
    "truth, those given a probability of 0.5 or more (of the largest one, where classes exclude "
    "each other), and those within 2% of the image diagonal of either, across or down (at least 3 "
    "pixels). Farther background is left out: it is easy, there is any amount of it, and it would "
    "make every model look calibrated. Each class is counted on its own and the counts are summed. "
    "Pixels are put into 15 equal bins by their probability, in steps of 1/65535; the expected "
    "calibration error is the difference between mean probability and share of true pixels of each "
    "bin, averaged over the pixels."
)


def reach(height: int, width: int) -> int:
    """How far around truth and prediction pixels count, in pixels: 14 at 512 x 512."""
    return max(3, int(_REACH * float(np.hypot(height, width))))


def relevant(truth: Array, predicted: Array, valid: Array | None = None) -> Array:
    """Pixels that count; see `RULE`.

    Args:
        truth, predicted: where a class is, boolean (H, W); predicted without tuning.
        valid: where pixels count at all, boolean (H, W); None: everywhere.
    """
    edge = 2 * reach(*truth.shape) + 1
    near = ndimage.maximum_filter((truth | predicted).view(np.uint8), edge, mode="constant") > 0
    return np.asarray(near if valid is None else near & valid)


@dataclass(frozen=True)
class Reliability:
    """Pixels counted by their probability.

    Args:
        pixels: in each of `BINS` bins.
        positives: those that are of the class.
        steps: sums of their probabilities in steps of 1/65535.
    """

    pixels: tuple[int, ...] = (0,) * BINS
    positives: tuple[int, ...] = (0,) * BINS
    steps: tuple[int, ...] = (0,) * BINS

    def __add__(self, other: Reliability) -> Reliability:
        return Reliability(
            *(
                tuple(a + b for a, b in zip(mine, theirs, strict=True))
                for mine, theirs in (
                    (self.pixels, other.pixels),
                    (self.positives, other.positives),
                    (self.steps, other.steps),
                )
            )
        )

    @property
    def ece(self) -> float | None:
        """Expected calibration error, 0..1; None where no pixel was counted."""
        total = sum(self.pixels)
        apart = sum(
            abs(steps - STEPS * positives)
            for steps, positives in zip(self.steps, self.positives, strict=True)
        )
        return apart / (STEPS * total) if total else None

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        counts = {"pixels": self.pixels, "positives": self.positives, "steps": self.steps}
        return {"ece": self.ece} | {name: list(values) for name, values in counts.items()}


def reliability(probabilities: Array, truth: Array) -> Reliability:
    """Count pixels by probability.

    Args:
        probabilities: of the pixels that count, (n,), 0..1.
        truth: whether they are of the class, boolean (n,).
    """
    steps = np.rint(probabilities.astype(np.float64) * STEPS).astype(np.int64)
    place = np.minimum(steps // (STEPS // BINS), BINS - 1)  # 65535 is 15 times 4369
    return Reliability(
        _whole(np.bincount(place, minlength=BINS)),
        _whole(np.bincount(place[truth], minlength=BINS)),
        # Sums of float64 are exact below 2**53: 137 billion pixels of the largest step.
        _whole(np.bincount(place, weights=steps, minlength=BINS)),
    )


def _whole(counts: Sequence[float] | Array) -> tuple[int, ...]:
    return tuple(int(count) for count in counts)
