"""What a recipe knows of the training images: size, type, mean, spread, where outliers begin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.data.dataset import Dataset
from contorno.data.facts import LEVELS

_TAIL = 3.0  # times the range of 99.8% of the values: an outlier beyond says nothing of the object
_CUT_FROM = 0.005  # share of foreground: well above the 0.1% that are cut off


@dataclass(frozen=True)
class Fingerprint:
    """What a recipe knows of the training images.

    Args:
        images: how many.
        height, width: medians, in pixels.
        channels, dtype: of every image.
        mean, std: per channel, in file units.
        range: smallest and largest value of any image.
        dimmest: smallest of the images' largest values.
        cut: per channel the values that are cut off below and above; None: nothing is.
        outputs: channels that the network needs.
        multilabel: whether classes may overlap.
        pages, upright: how pictures are read.
    """

    images: int
    height: int
    width: int
    channels: int
    dtype: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    range: tuple[float, float] = (0.0, 255.0)
    dimmest: float = 0.0
    cut: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    outputs: int = 1
    multilabel: bool = False
    pages: bool = False
    upright: bool = False

    @property
    def exclusive(self) -> bool:
        """Whether there are more than two classes, of which every pixel has one."""
        return self.outputs > 1 and not self.multilabel


def fingerprint(dataset: Dataset) -> Fingerprint:
    """Summarise the training part."""
    heights = sorted(facts.shape[0] for facts in dataset.facts)
    widths = sorted(facts.shape[1] for facts in dataset.facts)
    mean, std = dataset.statistics()
    cut = _cut(dataset)
    if cut is not None:  # outliers would decide mean and spread
        mean, std = _of_levels(dataset.levels())
    return Fingerprint(
        len(dataset),
        heights[len(heights) // 2],
        widths[len(widths) // 2],
        dataset.channels,
        dataset.dtype,
        mean,
        std,
        (min(f.low for f in dataset.facts), max(f.high for f in dataset.facts)),
        min(f.high for f in dataset.facts),
        cut,
        dataset.labels.channels,
        dataset.labels.multilabel,
        dataset.pages,
        dataset.upright,
    )


def _cut(dataset: Dataset) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Where to cut values off, per channel: far beyond 0.1% and 99.9%, if some lie there.

    Far, so that other pictures may be lighter or darker than these. 8-bit pictures have no such
    outliers; and where objects are as rare, they may be the outliers.
    """
    if dataset.dtype == "uint8" or dataset.foreground_share() < _CUT_FROM:
        return None
    levels = dataset.levels()
    low, high = levels[:, LEVELS.index(0.1)], levels[:, LEVELS.index(99.9)]
    seen = [facts.statistics for facts in dataset.facts if facts.statistics is not None]
    least = np.min([np.broadcast_to(one.lows, low.shape) for one in seen], axis=0)
    most = np.max([np.broadcast_to(one.highs, high.shape) for one in seen], axis=0)
    span = high - low
    low, high = low - _TAIL * span, high + _TAIL * span
    if (span <= 0).any() or not ((least < low) | (most > high)).any():
        return None
    return tuple(low.tolist()), tuple(high.tolist())


def _of_levels(levels: NDArray[Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread per channel of what lies between 0.1% and 99.9%, from the percentiles."""
    fine = np.linspace(0.1, 99.9, 999)
    values = np.stack([np.interp(fine, LEVELS, row) for row in levels])  # (channels, 999)
    std = values.std(axis=1)
    std[std == 0] = 1.0
    return tuple(values.mean(axis=1).tolist()), tuple(std.tolist())
