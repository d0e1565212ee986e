"""Decoded pairs: read once by several threads, checked, kept in memory where they fit.

How examples are drawn and batched is left to `batches`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.config import Preprocessing
from contorno.data.agreement import (
    Reading,
    common_channels,
    retold,
    turned_alike,
    understand,
    usable_pairs,
    well_read,
)
from contorno.data.evidence import MaskFacts
from contorno.data.facts import (
    LEVELS,
    Examined,
    Facts,
    Good,
    examine,
    examine_all,
    size_words,
    usable,
)
from contorno.data.labels import Labels
from contorno.data.pairs import Pair
from contorno.errors import InputError, Problem
from contorno.images import ImageError, RawMask, as_channels, read_channels, read_raw_mask

Array = NDArray[Any]


@dataclass
class Dataset:
    """Pairs that can be read, with what is known of them.

    Args:
        pairs: the good pairs, in order of name.
        facts: one for each pair.
        labels: what the masks mean.
        channels: channels of every image that `read` gives.
        dtype: type of every image.
        pages: whether the pages of a TIFF are channels.
        upright: whether rotations that EXIF asks for are applied to the pictures.
    """

    pairs: list[Pair]
    facts: list[Facts]
    labels: Labels
    channels: int
    dtype: str
    pages: bool = False
    upright: bool = False
    _cache: dict[int, tuple[Array, Array]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[str]:
        return [pair.name for pair in self.pairs]

    @property
    def cached_bytes(self) -> int:
        return sum(image.nbytes + mask.nbytes for image, mask in self._cache.values())

    def read(self, index: int) -> tuple[Array, Array]:
        """Image (H, W, channels) and class map (H, W) uint8 of one pair.

        Raises:
            ImageError: a file that was good has vanished or changed.
        """
        if index in self._cache:
            image, classes = self._cache[index]
            return as_channels(image, self.channels, path=str(self.pairs[index].image)), classes
        pair, turned = self.pairs[index], self.facts[index].turned
        image = read_channels(pair.images, pages=self.pages, upright=turned).array
        masks = [read_raw_mask(path) for path in pair.masks]
        sizes = {image.shape[:2], *(mask.values.shape for mask in masks)}
        if sizes != {self.facts[index].shape[:2]}:
            raise ImageError(_resized(pair, self.facts[index]))
        return (
            as_channels(usable(image), self.channels, path=str(pair.image)),
            class_map(masks, self.labels, self.facts[index].masks),
        )

    def subset(self, names: Sequence[str]) -> Dataset:
        """The pairs of these names; shares what is cached."""
        where = {name: index for index, name in enumerate(self.names)}
        chosen = [where[name] for name in names]
        cache = {new: self._cache[old] for new, old in enumerate(chosen) if old in self._cache}
        return replace(
            self,
            pairs=[self.pairs[i] for i in chosen],
            facts=[self.facts[i] for i in chosen],
            _cache=cache,
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over all pixels, in file units."""
        sums = np.zeros((2, self.channels))
        for facts in self.facts:
            assert facts.statistics is not None  # `load` asks for them
            sums += np.array([facts.statistics.sums, facts.statistics.squares])  # or (2, 1): grey
        pixels = sum(facts.pixels for facts in self.facts)
        mean = sums[0] / pixels
        std = np.sqrt(np.maximum(sums[1] / pixels - mean**2, 0))
        std[std < 1e-6 * np.maximum(np.abs(mean), 1e-30)] = 1.0  # constant: do not divide by zero
        return tuple(mean.tolist()), tuple(std.tolist())

    def levels(self) -> Array:
        """Percentiles `facts.LEVELS` per channel over all images, (channels, len(LEVELS)).

        Each image's own percentiles are mixed, every image weighing the same.
        """
        levels = np.stack(
            [
                np.broadcast_to(f.statistics.levels, (self.channels, len(LEVELS)))
                for f in self.facts
                if f.statistics is not None
            ]
        )  # (images, channels, levels)
        weights = np.gradient(np.array(LEVELS))  # how much of an image lies around each level
        mixed = np.empty(levels.shape[1:])
        for channel in range(self.channels):
            values = levels[:, channel].ravel()
            order = np.argsort(values, kind="stable")
            share = np.tile(weights, len(levels))[order].cumsum()
            at = (share - share[0]) / max(share[-1] - share[0], 1e-30) * 100
            mixed[channel] = np.interp(LEVELS, at, values[order])
        return mixed

    def class_pixels(self, index: int) -> Array:
        """Pixels of each scored class in one pair, (K,)."""
        return np.array(self.facts[index].class_pixels(self.labels), np.int64)

    def foreground_share(self, index: int | None = None) -> float:
        """Share of all scored classes among the mask pixels of one pair, or of all."""
        chosen = range(len(self)) if index is None else [index]
        front = sum(int(self.class_pixels(i).sum()) for i in chosen)
        return front / sum(self.facts[i].pixels for i in chosen)

    def digest(self) -> str:
        """SHA-256 over names and decoded contents: equal when a run would see the same data."""
        hasher = hashlib.sha256()
        for pair, facts in zip(self.pairs, self.facts, strict=True):
            assert facts.statistics is not None  # `load` asks for them
            hasher.update(pair.name.encode("utf-8", "surrogateescape") + b"\0")
            hasher.update(facts.statistics.digest)
        return hasher.hexdigest()


def load(
    pairs: Sequence[Pair],
    *,
    workers: int,
    reading: Reading | None = None,
    labels: Labels | None = None,
    fixed: bool = False,
    channels: int | None = None,
    dtype: str | None = None,
    units: Preprocessing | None = None,
    cache_limit: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Dataset, list[Problem]]:
    """Decode every pair once, find what is wrong, decide what the masks mean.

    Args:
        pairs: from `pairs.find_pairs`.
        workers: threads that decode.
        reading: what the user said of pictures and masks.
        labels: an earlier decision (a trained model's), kept if these masks are coded like it.
        fixed: whether it is kept in any case.
        channels, dtype: what a trained model needs; the commonest of the images when None.
        units: the preprocessing of a trained model, which tells the range of values it knows.
        cache_limit: bytes of decoded data to keep; the rest is decoded again when needed.
        advance: called after each pair.

    Returns:
        The good pairs and what is wrong with the others.

    Raises:
        InputError: no good pair is left (all problems are listed), or masks that are no labels.
    """
    reading = reading or Reading()
    problems: list[Problem] = []
    good: Good = []
    kept: dict[str, tuple[Array, tuple[RawMask, ...]]] = {}
    taken = 0

    def keep(pair: Pair, seen: Examined) -> None:
        nonlocal taken
        size = seen.image.nbytes + sum(mask.values.nbytes for mask in seen.masks)
        if pair.name in kept or taken + size <= cache_limit:
            taken += 0 if pair.name in kept else size
            kept[pair.name] = (seen.image, seen.masks)

    look = partial(examine, pages=reading.pages, statistics=True)
    first = partial(look, upright=bool(reading.upright))
    for pair, result in examine_all(pairs, first, workers):
        advance()
        if isinstance(result, list):
            problems += result
        else:
            good.append((pair, result.facts))
            keep(pair, result)
    upright = reading.upright
    if upright is None:
        good, upright = turned_alike(good, partial(look, upright=True), keep)
    good = usable_pairs(good, problems, channels=channels, dtype=dtype, units=units, labels=labels)
    if not good:
        raise InputError("no usable pair of image and mask", problems)
    if not fixed or labels is None:
        labels = understand([facts.masks for _, facts in good], reading, labels)
    agreed = well_read(good, problems, labels)
    if not agreed:
        raise InputError("no usable pair of image and mask", problems)
    if len(agreed) < len(good) and not fixed:
        labels = retold(labels, agreed)
    good = agreed
    channels = channels or common_channels([facts for _, facts in good])
    dataset = Dataset(
        [pair for pair, _ in good],
        [facts for _, facts in good],
        labels,
        channels,
        good[0][1].dtype,
        reading.pages,
        upright,
    )
    for index, (pair, facts) in enumerate(good):
        if pair.name in kept:
            image, masks = kept.pop(pair.name)  # grey is repeated when it is read: it is smaller
            dataset._cache[index] = (image, class_map(masks, labels, facts.masks))
    return dataset, problems


def _resized(pair: Pair, facts: Facts) -> Problem:
    return Problem(
        str(pair.image),
        "it or its mask has another size than when it was first read",
        size_words(facts.shape),
        "put the files back, or start again with the new ones",
        "size-mismatch",
    )


def class_map(masks: Sequence[RawMask], labels: Labels, facts: Sequence[MaskFacts]) -> Array:
    """Class map (H, W) of the mask, or masks, of one picture, read as `facts` say."""
    values = [_values(mask, seen) for mask, seen in zip(masks, facts, strict=True)]
    if not labels.multilabel:
        return labels.classes(values[0])
    return labels.combined(
        [part.classes(one) for part, one in zip(labels.parts, values, strict=True)]
    )


def _values(mask: RawMask, seen: MaskFacts) -> Array:
    """Mask values as they are where most masks are of another kind, or have soft edges."""
    if mask.unit != seen.unit:
        return mask.values * seen.unit
    if mask.kind == seen.kind:
        return mask.values
    if mask.kind == "grey":
        return mask.values.astype(np.int32) * 0x010101
    return np.full(mask.values.shape, next(iter(seen.counts)), np.int32)  # one value
