"""How good a predicted mask is: counts, Dice, IoU, precision, recall, boundary F and HD95.

Works on two boolean (H, W) arrays at a time, those of one class, then on the scores of an image's
classes, then on the list of the images' scores. Which pixels are of which class, which images
belong together and where results are written is for others; distances are `boundary`'s. `RULES`
says in words what tools usually leave unsaid: how empty masks count, how boundaries match, what
an interval means. It is printed beside the figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from contorno.boundary import Floats, Mask, boundary_figures, boundary_tolerance, require_masks

OVERLAPS = ("dice", "iou", "precision", "recall")  # functions of the counts, so they can be pooled
FIGURES = (*OVERLAPS, "boundary_f", "hd95")

RULES: dict[str, str] = {
    "empty": (
        "When truth and prediction are both empty, Dice, IoU and boundary F are 1 and HD95 is 0. "
        "When only one is empty, Dice, IoU and boundary F are 0 and HD95 is undefined. Precision "
        "is undefined when nothing was predicted, recall when the truth is empty. Undefined "
        "values are left out of a mean, and n says how many images are in it. Images with an "
        "empty truth are also counted apart, with the share that has any false positive."
    ),
    "boundary_f": (
        "F1 of boundary precision and recall. The boundary is the foreground pixels with a "
        "4-neighbour in the background or outside the image. A boundary pixel matches when the "
        "other boundary has a pixel within 0.75% of the image diagonal (at least 1 pixel), "
        "Euclidean; one pixel may match many."
    ),
    "hd95": (
        "In pixels: the larger of the two directed 95th percentiles (linear interpolation) of the "
        "Euclidean distances from each boundary pixel to the other boundary, with the boundary as "
        "in boundary F. Lower is better."
    ),
    "classes": (
        "Each class but the background is scored on its own, as one mask of foreground. An image's "
        "figure is the mean over its classes: every class weighs the same, a class that is in "
        "neither truth nor prediction is left out, and so are undefined values; if no class is in "
        "either, the figures are those of two empty masks. An image's pixel counts are the sums "
        "over classes, and pooled figures come from these. The figures of a class alone are over "
        "all images, with its absence from both counted as two empty masks: those of a rare class "
        "are high for that reason alone, so look at its pooled Dice."
    ),
    "ignored": (
        "Pixels that the truth marks as ignored count nowhere, whatever was predicted there. For "
        "boundary F and HD95 truth and prediction are both taken as background there, so that the "
        "edge of an ignored area is a boundary of each object that it cuts. An image without any "
        "other pixel is not scored."
    ),
    "intervals": (
        "Percentile bootstrap over images, 95%: the images are drawn again with replacement, the "
        "figure is computed from each draw, and the interval runs from the 2.5th to the 97.5th "
        "percentile; draws in which the figure is undefined are left out. Where images belong to "
        "groups (a patient, a slide), whole groups are drawn. It tells how much the figure depends "
        "on which images were scored, not on training. With fewer than about 20 images, or groups, "
        "it is too narrow, and of one alone there is none."
    ),
    "averages": (
        "Per image: the figure is computed for each image and averaged, so every image weighs the "
        "same. Pooled: the pixel counts of all images are summed and divided once, so large "
        "objects weigh more. Neither depends on how images were batched."
    ),
}


@dataclass(frozen=True)
class Counts:
    """Pixels of one image, or of many summed: true/false positives and negatives."""

    tp: int
    fp: int
    fn: int
    tn: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp, self.fp + other.fp, self.fn + other.fn, self.tn + other.tn
        )

    @property
    def absent(self) -> bool:
        """Whether truth and prediction are both empty."""
        return not self.tp + self.fp + self.fn

    @property
    def dice(self) -> float:
        """2 tp / (2 tp + fp + fn), in 0..1; 1 when truth and prediction are both empty."""
        size = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / size if size else 1.0

    @property
    def iou(self) -> float:
        """tp / (tp + fp + fn), in 0..1; 1 when truth and prediction are both empty."""
        union = self.tp + self.fp + self.fn
        return self.tp / union if union else 1.0

    @property
    def precision(self) -> float | None:
        """tp / (tp + fp), in 0..1; None when nothing was predicted."""
        predicted = self.tp + self.fp
        return self.tp / predicted if predicted else None

    @property
    def recall(self) -> float | None:
        """tp / (tp + fn), in 0..1; None when the truth is empty."""
        positive = self.tp + self.fn
        return self.tp / positive if positive else None


@dataclass(frozen=True)
class ImageScore:
    """Every figure of one image; None where `RULES` calls it undefined. `hd95` is in pixels."""

    counts: Counts
    dice: float
    iou: float
    precision: float | None
    recall: float | None
    boundary_f: float
    hd95: float | None


def count(truth: Mask, prediction: Mask, *, valid: Mask | None = None) -> Counts:
    """Count the pixels on which two masks agree and differ.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.
        valid: boolean (H, W), same shape: True where pixels count; None: everywhere.

    Returns:
        Counts that sum to the pixels that count.

    Raises:
        ValueError: the shapes differ, or an array is not boolean or not two-dimensional.
    """
    require_masks(truth, prediction, valid)
    pixels = truth.size
    if valid is not None:
        truth, prediction, pixels = truth & valid, prediction & valid, int(valid.sum())
    tp = int(np.count_nonzero(truth & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Counts(tp=tp, fp=fp, fn=fn, tn=pixels - tp - fp - fn)


def score(truth: Mask, prediction: Mask, *, valid: Mask | None = None) -> ImageScore:
    """Compute every figure of one class in one image, with the tolerance of `boundary_tolerance`.

    Args:
        truth, prediction, valid: as in `count`; see ``RULES["ignored"]``.

    Raises:
        ValueError: the masks do not fit together (see `count`).
    """
    counts = count(truth, prediction, valid=valid)
    if valid is not None:
        truth, prediction = truth & valid, prediction & valid
    tolerance = boundary_tolerance(*truth.shape)
    boundary_f, hd95 = boundary_figures(truth, prediction, tolerance=tolerance)
    return ImageScore(
        counts=counts,
        dice=counts.dice,
        iou=counts.iou,
        precision=counts.precision,
        recall=counts.recall,
        boundary_f=boundary_f,
        hd95=hd95,
    )


def combine(scores: Sequence[ImageScore]) -> ImageScore:
    """Make one score of those of an image's classes; see ``RULES["classes"]``.

    Raises:
        ValueError: there is no class.
    """
    if not scores:
        raise ValueError("no class to combine; give the score of at least one")
    if len(scores) == 1:
        return scores[0]
    present = [s for s in scores if not s.counts.absent] or scores[:1]
    figures: dict[str, Any] = {name: _mean(getattr(s, name) for s in present) for name in FIGURES}
    return ImageScore(counts=sum((s.counts for s in scores), Counts(0, 0, 0, 0)), **figures)


def mean_dice(layers: Iterable[tuple[Mask, Mask]], valid: Mask | None = None) -> float:
    """Compute the Dice that `combine` gives, without the figures that take long.

    Args:
        layers: truth and prediction of each class, boolean (H, W).
        valid: as in `count`.

    Raises:
        ValueError: masks that do not fit together (see `count`).
    """
    counts = [count(truth, prediction, valid=valid) for truth, prediction in layers]
    mean = _mean(c.dice for c in counts if not c.absent)
    return 1.0 if mean is None else mean


def summarise(
    scores: Sequence[ImageScore],
    *,
    groups: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = 2000,
) -> dict[str, dict[str, Any]]:
    """Average the scores of many images, with bootstrap intervals; see ``RULES["intervals"]``.

    Args:
        scores: one per image, in any order (the intervals, not the values, depend on the order
            through the random draws).
        groups: of each image, which are drawn in place of images; None: each stands alone.
        seed: of the draws; the same seed and scores give the same intervals.
        resamples: number of draws, >= 1.

    Returns:
        A JSON-ready dict. ``per_image`` has mean, low, high and n (images for which it is defined)
        of each figure; ``pooled`` has value, low and high of Dice, IoU, precision and recall;
        ``empty`` tells of the images whose truth is empty. What no image defines is None.

    Raises:
        ValueError: resamples is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples ({resamples}) must be >= 1; try 2000")
    counts = [s.counts for s in scores]
    values = np.array([[getattr(s, name) for name in FIGURES] for s in scores], dtype=np.float64)
    values = values.reshape(len(scores), len(FIGURES))  # NaN for None; keeps 6 columns of no rows
    # Deviations from the mean keep the interval of equal values free of rounding noise.
    defined = ~np.isnan(values)
    means = [_mean(getattr(s, name) for s in scores) for name in FIGURES]
    deviations = np.where(defined, values - [m or 0.0 for m in means], 0.0)
    pixels = np.array([astuple(c) for c in counts], dtype=np.float64).reshape(len(scores), 4)
    table = np.hstack([deviations, defined, pixels])  # (images, 6 + 6 + 4)
    if groups is not None:
        table = _by_group(table, groups)
    sums = _bootstrap_sums(table, seed=seed, resamples=resamples)
    return {
        "per_image": _per_image(means, defined, table[:, 6:12], sums[:, :12]),
        "pooled": _pooled(counts, sums[:, 12:]),
        "empty": _empty(counts),
    }


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    # fsum is exact, so neither the order of the images nor their batches can change a mean.
    return math.fsum(present) / len(present) if present else None


def _by_group(table: Floats, groups: Sequence[str]) -> Floats:
    """Sum the rows of each group: (images, K) to (groups, K)."""
    place = {group: row for row, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(place), table.shape[1]))
    np.add.at(sums, np.array([place[group] for group in groups], dtype=np.intp), table)
    return sums


def _bootstrap_sums(table: Floats, *, seed: int, resamples: int) -> Floats:
    """Sum the rows of each draw with replacement: (images or groups, K) to (resamples, K)."""
    images, columns = table.shape
    if images < 2:
        return np.zeros((0, columns))  # nothing to draw from, or the same each time
    random = np.random.default_rng(seed)
    sums = np.empty((resamples, columns))
    for row in sums:  # one draw at a time: 2000 x 100,000 images at once would be 1.6 GB
        times_drawn = np.bincount(random.integers(images, size=images), minlength=images)
        row[:] = times_drawn @ table
    return sums


def _per_image(
    means: Sequence[float | None], defined: Mask, drawn_from: Floats, sums: Floats
) -> dict[str, dict[str, float | int | None]]:
    figures: dict[str, dict[str, float | int | None]] = {}
    deviations, present = np.hsplit(sums, 2)
    for i, (name, mean) in enumerate(zip(FIGURES, means, strict=True)):
        usable = (present[:, i] > 0) & (np.count_nonzero(drawn_from[:, i]) > 1)
        low, high = _interval((mean or 0.0) + deviations[usable, i] / present[usable, i])
        n = int(np.count_nonzero(defined[:, i]))
        figures[name] = {"mean": mean, "low": low, "high": high, "n": n}
    return figures


def _pooled(counts: Sequence[Counts], sums: Floats) -> dict[str, dict[str, float | None]]:
    if not counts:  # summed counts of no images would read as a perfect Dice
        return {name: {"value": None, "low": None, "high": None} for name in OVERLAPS}
    total = sum(counts, Counts(0, 0, 0, 0))
    # float64 sums of integers are exact below 2**53: 90 million images of 10,000 x 10,000 px
    drawn = [Counts(*map(int, row)) for row in sums.tolist()]
    figures: dict[str, dict[str, float | None]] = {}
    for name in OVERLAPS:
        values = [value for c in drawn if (value := getattr(c, name)) is not None]
        low, high = _interval(np.array(values, dtype=np.float64))
        figures[name] = {"value": getattr(total, name), "low": low, "high": high}
    return figures


def _interval(values: Floats) -> tuple[float | None, float | None]:
    if not values.size:
        return None, None
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def _empty(counts: Sequence[Counts]) -> dict[str, float | int | None]:
    empty = [c for c in counts if c.tp + c.fn == 0]
    wrong = sum(c.fp > 0 for c in empty)
    return {
        "images": len(empty),
        "with_false_positives": wrong,
        "false_positive_rate": wrong / len(empty) if empty else None,
    }
