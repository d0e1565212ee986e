"""How good a predicted mask is: counts, Dice, IoU, precision, recall, boundary F and HD95.

Works on two boolean (H, W) arrays at a time and then on the list of their scores; numpy and
scipy.ndimage only. Which pixels are foreground, which images belong together and where results
are written is for others. `RULES` says in words what tools usually leave unsaid: how empty masks
count, how boundaries match, what an interval means. It is printed beside the figures.

Boundary F follows the DAVIS benchmark (Perazzi et al., CVPR 2016) with the tolerance of the
Berkeley one (Martin et al., PAMI 2004); HD95 is MONAI's HausdorffDistanceMetric(percentile=95), but
with the percentile in float64, where MONAI's float32 is off by up to about 1e-5 px.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

OVERLAPS = ("dice", "iou", "precision", "recall")  # functions of the counts, so they can be pooled
FIGURES = (*OVERLAPS, "boundary_f", "hd95")

TOLERANCE = 0.0075  # of the image diagonal: 5.4 px at 512 x 512

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
    "intervals": (
        "Percentile bootstrap over images, 95%: the images are drawn again with replacement, the "
        "figure is computed from each draw, and the interval runs from the 2.5th to the 97.5th "
        "percentile; draws in which the figure is undefined are left out. It tells how much the "
        "figure depends on which images were scored, not on training. With fewer than about 20 "
        "images it is too narrow, and with one image it has no width."
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


def count(truth: Mask, prediction: Mask) -> Counts:
    """Count the pixels on which two masks agree and differ.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.

    Returns:
        Counts that sum to H * W.

    Raises:
        ValueError: the shapes differ, or an array is not boolean or not two-dimensional.
    """
    _require_masks(truth, prediction)
    tp = int(np.count_nonzero(truth & prediction))
    fp = int(np.count_nonzero(prediction)) - tp
    fn = int(np.count_nonzero(truth)) - tp
    return Counts(tp=tp, fp=fp, fn=fn, tn=truth.size - tp - fp - fn)


def boundary_tolerance(height: int, width: int) -> float:
    """Return how far apart two boundaries of an image may lie and still match, in pixels.

    0.75% of the diagonal, as in the Berkeley benchmark (DAVIS takes 0.8% and rounds up), and at
    least 1: below that, not even an outline beside the true one could match.
    """
    return max(1.0, TOLERANCE * math.hypot(height, width))


def boundary_f(truth: Mask, prediction: Mask, *, tolerance: float) -> float:
    """Return the F1 of boundary precision and recall; see ``RULES["boundary_f"]``.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.
        tolerance: largest Euclidean distance of a match, in pixels, >= 0;
            see `boundary_tolerance`.

    Returns:
        0..1; 1 when both masks are empty, 0 when one is.

    Raises:
        ValueError: the masks do not fit together (see `count`), or tolerance is not >= 0.
    """
    _require_masks(truth, prediction)
    if not tolerance >= 0:  # also catches NaN
        raise ValueError(f"tolerance ({tolerance}) must be >= 0 pixels; try boundary_tolerance()")
    return _boundary_f(_surface_distances(truth, prediction), tolerance)


def hd95(truth: Mask, prediction: Mask) -> float | None:
    """Return the 95% Hausdorff distance in pixels; see ``RULES["hd95"]``.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.

    Returns:
        >= 0; 0 when both masks are empty, None when one is.

    Raises:
        ValueError: the masks do not fit together (see `count`).
    """
    _require_masks(truth, prediction)
    return _hd95(_surface_distances(truth, prediction))


def score(truth: Mask, prediction: Mask) -> ImageScore:
    """Compute every figure of one image, with the tolerance of `boundary_tolerance`.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.

    Raises:
        ValueError: the masks do not fit together (see `count`).
    """
    counts = count(truth, prediction)
    distances = _surface_distances(truth, prediction)
    height, width = truth.shape
    return ImageScore(
        counts=counts,
        dice=counts.dice,
        iou=counts.iou,
        precision=counts.precision,
        recall=counts.recall,
        boundary_f=_boundary_f(distances, boundary_tolerance(height, width)),
        hd95=_hd95(distances),
    )


def summarise(
    scores: Sequence[ImageScore], *, seed: int = 0, resamples: int = 2000
) -> dict[str, dict[str, Any]]:
    """Average the scores of many images, with bootstrap intervals; see ``RULES["intervals"]``.

    Args:
        scores: one per image, in any order (the intervals, not the values, depend on the order
            through the random draws).
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
    means = [_mean(column) for column in values.T]
    # Deviations from the mean keep the interval of equal values free of rounding noise.
    defined = ~np.isnan(values)
    deviations = np.where(defined, values - [m or 0.0 for m in means], 0.0)
    pixels = np.array([astuple(c) for c in counts], dtype=np.float64).reshape(len(scores), 4)
    table = np.hstack([deviations, defined, pixels])  # (images, 6 + 6 + 4)
    sums = _bootstrap_sums(table, seed=seed, resamples=resamples)
    return {
        "per_image": _per_image(means, defined, sums[:, :6], sums[:, 6:12]),
        "pooled": _pooled(counts, sums[:, 12:]),
        "empty": _empty(counts),
    }


def _require_masks(truth: Mask, prediction: Mask) -> None:
    if truth.shape != prediction.shape:
        raise ValueError(
            f"truth has shape {truth.shape} but prediction has shape {prediction.shape}; "
            "they must be equal: resize the prediction to its image"
        )
    for name, mask in (("truth", truth), ("prediction", prediction)):
        # Integers must not pass: 255 & 1 is 1, and the counts would look plausible.
        if mask.dtype != np.bool_ or mask.ndim != 2:
            raise ValueError(
                f"{name} is {mask.dtype} of shape {mask.shape}; it must be bool of shape (H, W): "
                "compare it with its foreground value or threshold first"
            )


def _surface_distances(truth: Mask, prediction: Mask) -> tuple[Floats, Floats]:
    """Distances in pixels from each boundary pixel of the prediction to the truth, and back.

    An array is empty when its own mask is, and infinite when only the other one is.
    """
    # Nothing outside the box of both masks can change a boundary or a nearest pixel, since what
    # lies beyond the edge of an array counts as background in the erosion below.
    box = _bounding_box(truth | prediction)
    true_edge, predicted_edge = _boundary(truth[box]), _boundary(prediction[box])
    return _distances(predicted_edge, true_edge), _distances(true_edge, predicted_edge)


def _bounding_box(mask: Mask) -> tuple[slice, slice]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _boundary(mask: Mask) -> Mask:
    # scipy's default structure is the 4-neighbourhood and its default border is background.
    inside: Mask = ndimage.binary_erosion(mask)
    return mask & ~inside


def _distances(source: Mask, target: Mask) -> Floats:
    """Euclidean distance in pixels from each True of source to the nearest True of target."""
    rows, columns = np.nonzero(source)
    if not rows.size or not target.any():
        return np.full(rows.size, np.inf)
    # Asking for the nearest pixel instead of the distance map saves three float64 maps of the
    # box, and leaves the distances exact: integers under one square root.
    nearest = ndimage.distance_transform_edt(~target, return_distances=False, return_indices=True)
    down = nearest[0, rows, columns] - rows
    right = nearest[1, rows, columns] - columns
    distances: Floats = np.sqrt(down**2 + right**2)
    return distances


def _boundary_f(distances: tuple[Floats, Floats], tolerance: float) -> float:
    to_truth, to_prediction = distances
    if not to_truth.size and not to_prediction.size:
        return 1.0
    if not to_truth.size or not to_prediction.size:
        return 0.0
    precision = float(np.mean(to_truth <= tolerance))
    recall = float(np.mean(to_prediction <= tolerance))
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _hd95(distances: tuple[Floats, Floats]) -> float | None:
    to_truth, to_prediction = distances
    if not to_truth.size and not to_prediction.size:
        return 0.0
    if not to_truth.size or not to_prediction.size:
        return None
    return max(float(np.percentile(to_truth, 95)), float(np.percentile(to_prediction, 95)))


def _mean(column: Floats) -> float | None:
    present = column[~np.isnan(column)].tolist()
    # fsum is exact, so neither the order of the images nor their batches can change a mean.
    return math.fsum(present) / len(present) if present else None


def _bootstrap_sums(table: Floats, *, seed: int, resamples: int) -> Floats:
    """Sum the rows of each draw with replacement: (images, K) to (resamples, K)."""
    images, columns = table.shape
    if not images:
        return np.zeros((0, columns))  # nothing to draw from
    random = np.random.default_rng(seed)
    sums = np.empty((resamples, columns))
    for row in sums:  # one draw at a time: 2000 x 100,000 images at once would be 1.6 GB
        times_drawn = np.bincount(random.integers(images, size=images), minlength=images)
        row[:] = times_drawn @ table
    return sums


def _per_image(
    means: Sequence[float | None], defined: Mask, sums: Floats, present: Floats
) -> dict[str, dict[str, float | int | None]]:
    figures: dict[str, dict[str, float | int | None]] = {}
    for i, (name, mean) in enumerate(zip(FIGURES, means, strict=True)):
        usable = present[:, i] > 0
        low, high = _interval((mean or 0.0) + sums[usable, i] / present[usable, i])
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
