"""How far apart two outlines lie: boundary F and HD95 of two boolean (H, W) masks.

The words for both stand in `metrics.RULES`. Boundary F follows the DAVIS benchmark (Perazzi et al.,
CVPR 2016) with the tolerance of the Berkeley one (Martin et al., PAMI 2004); HD95 is MONAI's
HausdorffDistanceMetric(percentile=95), but with the percentile in float64, where MONAI's float32 is
off by up to about 1e-5 px.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Mask: TypeAlias = NDArray[np.bool_]
Floats: TypeAlias = NDArray[np.float64]

TOLERANCE = 0.0075  # of the image diagonal: 5.4 px at 512 x 512


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
        ValueError: the masks do not fit together (see `require_masks`), or tolerance is not >= 0.
    """
    return boundary_figures(truth, prediction, tolerance=tolerance)[0]


def hd95(truth: Mask, prediction: Mask) -> float | None:
    """Return the 95% Hausdorff distance in pixels; see ``RULES["hd95"]``.

    Args:
        truth: boolean (H, W), True on the object.
        prediction: boolean (H, W), same shape.

    Returns:
        >= 0; 0 when both masks are empty, None when one is.

    Raises:
        ValueError: the masks do not fit together (see `require_masks`).
    """
    return boundary_figures(truth, prediction, tolerance=0)[1]


def boundary_figures(
    truth: Mask, prediction: Mask, *, tolerance: float
) -> tuple[float, float | None]:
    """Both of the above from one search for the distances, which is what takes the time."""
    require_masks(truth, prediction)
    if not tolerance >= 0:  # also catches NaN
        raise ValueError(f"tolerance ({tolerance}) must be >= 0 pixels; try boundary_tolerance()")
    distances = _surface_distances(truth, prediction)
    return _boundary_f(distances, tolerance), _hd95(distances)


def require_masks(truth: Mask, prediction: Mask, valid: Mask | None = None) -> None:
    """Check that masks are boolean planes of one shape.

    Raises:
        ValueError: the shapes differ, or an array is not boolean or not two-dimensional.
    """
    named = {"truth": truth, "prediction": prediction}
    if valid is not None:
        named["valid"] = valid
    for name, mask in named.items():
        if mask.shape != truth.shape:
            raise ValueError(
                f"truth has shape {truth.shape} but {name} has shape {mask.shape}; "
                f"they must be equal: resize the {name} to its image"
            )
    for name, mask in named.items():
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
