"""Decoded pairs: read once by several threads, checked, kept in memory where they fit.

How examples are drawn and batched is left to `batches`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.data.labels import Labels, add_counts, count_values, decide, misread
from contorno.data.pairs import Pair
from contorno.errors import InputError, Problem
from contorno.images import ImageError, RawMask, as_channels, read_image, read_raw_mask

Array = NDArray[Any]
TYPES = ("uint8", "uint16", "int16", "float32")


@dataclass(frozen=True)
class Facts:
    """What one pass over a pair found; enough to plan without decoding it again."""

    shape: tuple[int, int, int]
    dtype: str
    sums: tuple[tuple[float, ...], tuple[float, ...]]  # per channel: of values, of squares
    counts: dict[int, int]
    kind: str
    palette: tuple[int, ...]
    digest: bytes

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def bytes(self) -> int:
        """Memory taken when cached: the image and one byte a pixel of mask."""
        return self.pixels * (self.shape[2] * np.dtype(self.dtype).itemsize + 1)


@dataclass
class Dataset:
    """Pairs that can be read, with what is known of them.

    Args:
        pairs: the good pairs, in order of name.
        facts: one for each pair.
        labels: what the masks mean.
        channels: channels of every image that `read` gives.
        dtype: type of every image.
    """

    pairs: list[Pair]
    facts: list[Facts]
    labels: Labels
    channels: int
    dtype: str
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
        """Image (H, W, channels) and class indices (H, W) uint8 of one pair.

        Raises:
            ImageError: a file that was good has vanished or changed.
        """
        if index in self._cache:
            return self._cache[index]
        pair = self.pairs[index]
        image = as_channels(usable(read_image(pair.image)), self.channels, path=str(pair.image))
        return image, self.labels.classes(_values(read_raw_mask(pair.mask), self.labels.kind))

    def subset(self, names: Sequence[str]) -> Dataset:
        """The pairs of these names; shares what is cached."""
        where = {name: index for index, name in enumerate(self.names)}
        chosen = [where[name] for name in names]
        cache = {new: self._cache[old] for new, old in enumerate(chosen) if old in self._cache}
        return Dataset(
            [self.pairs[i] for i in chosen],
            [self.facts[i] for i in chosen],
            self.labels,
            self.channels,
            self.dtype,
            cache,
        )

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per channel over all pixels, in file units."""
        sums = np.zeros((2, self.channels))
        for facts in self.facts:
            sums += np.array(facts.sums)  # (2, channels), or (2, 1) of grey among colour
        pixels = sum(facts.pixels for facts in self.facts)
        mean = sums[0] / pixels
        std = np.sqrt(np.maximum(sums[1] / pixels - mean**2, 0))
        std[std < 1e-6] = 1.0  # a constant channel says nothing; do not divide by zero
        return tuple(mean.tolist()), tuple(std.tolist())

    def foreground_share(self) -> float:
        """Share of foreground among all mask pixels."""
        front = 0
        for facts in self.facts:
            values = np.array(list(facts.counts))
            classes = self.labels.classes(values)
            front += int(np.array(list(facts.counts.values()))[classes > 0].sum())
        return front / sum(facts.pixels for facts in self.facts)

    def digest(self) -> str:
        """SHA-256 over names and decoded contents: equal when a run would see the same data."""
        hasher = hashlib.sha256()
        for pair, facts in zip(self.pairs, self.facts, strict=True):
            hasher.update(pair.name.encode("utf-8", "surrogateescape") + b"\0" + facts.digest)
        return hasher.hexdigest()


def load(
    pairs: Sequence[Pair],
    *,
    workers: int,
    foreground: str = "bright",
    labels: Labels | None = None,
    channels: int | None = None,
    dtype: str | None = None,
    cache_limit: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> tuple[Dataset, list[Problem]]:
    """Decode every pair once, find what is wrong, decide what the masks mean.

    Args:
        pairs: from `pairs.find_pairs`.
        workers: threads that decode.
        foreground: see `labels.decide`.
        labels: an earlier decision (a trained model's), kept if these masks are coded like it.
        channels, dtype: what a trained model needs; the commonest of the images when None.
        cache_limit: bytes of decoded data to keep; the rest is decoded again when needed.
        advance: called after each pair.

    Returns:
        The good pairs and the problems of the others.

    Raises:
        InputError: no good pair is left (all problems are listed), or masks that are not of two
            classes.
    """
    problems: list[Problem] = []
    good: list[tuple[Pair, Facts]] = []
    kept: dict[str, tuple[Array, RawMask]] = {}
    taken = 0
    for pair, result in _in_order(pairs, workers, channels):
        advance()
        if isinstance(result, Problem):
            problems.append(result)
            continue
        facts, image, mask = result
        good.append((pair, facts))
        if taken + facts.bytes <= cache_limit:
            kept[pair.name] = (image, mask)
            taken += facts.bytes
    kind = _kind([facts for _, facts in good], "grey" if labels is None else labels.kind)
    good = _uniform(good, problems, channels, dtype, kind)
    if not good:
        raise InputError("no usable pair of image and mask", problems)
    if kind == "colour":
        good = [(pair, _as_colour(facts)) for pair, facts in good]
    if kind == "palette":
        good = _one_palette(good, problems)
    labels = _decide([facts for _, facts in good], foreground, labels, kind)
    good = _well_read(good, problems, labels)
    if not good:
        raise InputError("no usable pair of image and mask", problems)
    channels = channels or _channels([facts for _, facts in good])
    dataset = Dataset(
        [pair for pair, _ in good], [facts for _, facts in good], labels, channels, good[0][1].dtype
    )
    for index, (pair, _) in enumerate(good):
        if pair.name in kept:
            image, mask = kept.pop(pair.name)
            classes = labels.classes(_values(mask, labels.kind))
            dataset._cache[index] = (as_channels(image, channels), classes)
    return dataset, problems


def _in_order(pairs: Sequence[Pair], workers: int, channels: int | None) -> Any:
    """Pairs with the result of decoding each, a bounded number ahead of the reader."""
    with ThreadPoolExecutor(max(workers, 1)) as pool:
        ahead = max(workers, 1) + 1  # decoded pairs that wait in memory
        waiting = [pool.submit(_examine, pair, channels) for pair in pairs[:ahead]]
        for position, pair in enumerate(pairs):
            result = waiting.pop(0).result()
            if position + ahead < len(pairs):
                waiting.append(pool.submit(_examine, pairs[position + ahead], channels))
            yield pair, result


def _examine(pair: Pair, channels: int | None) -> Problem | tuple[Facts, Array, RawMask]:
    """Decode one pair; its facts, image and raw mask, or what is wrong with it."""
    try:
        image = usable(read_image(pair.image))
        mask = read_raw_mask(pair.mask)
    except ImageError as error:
        return error.problem
    if image.shape[:2] != mask.values.shape:
        return Problem(
            str(pair.mask),
            f"a mask of {_size(mask.values.shape)}",
            f"{_size(image.shape)}, the size of {pair.image.name}",
            "save the image upright: a rotation that its EXIF data ask for is not applied"
            if image.shape[1::-1] == mask.values.shape
            else "export the mask at the image's size (scaling it here would invent outlines)",
        )
    if channels is not None:
        with suppress(ImageError):  # as a prediction takes it; told apart in _uniform
            image = as_channels(image, channels)
    if image.dtype == np.float32 and not np.isfinite(image).all():
        return Problem(
            str(pair.image),
            "NaN or infinite values",
            "finite numbers",
            "replace them, for example with 0",
        )
    return _facts(image, mask), image, mask


def _facts(image: Array, mask: RawMask) -> Facts:
    flat = image.reshape(-1, image.shape[2])
    sums = tuple(float(flat[:, c].sum(dtype=np.float64)) for c in range(flat.shape[1]))
    squares = tuple(
        float(np.square(flat[:, c], dtype=np.float64).sum()) for c in range(flat.shape[1])
    )
    digest = hashlib.sha256(image.tobytes() + mask.values.tobytes()).digest()
    height, width, channels = image.shape
    return Facts(
        (height, width, channels),
        str(image.dtype),
        (sums, squares),
        count_values(mask),
        mask.kind,
        mask.palette,
        digest,
    )


def usable(image: Array) -> Array:
    """The image in one of the types that are trained on; wide types become float32."""
    return image if str(image.dtype) in TYPES else image.astype(np.float32)


def _uniform(
    good: list[tuple[Pair, Facts]],
    problems: list[Problem],
    channels: int | None,
    dtype: str | None,
    kind: str,
) -> list[tuple[Pair, Facts]]:
    """Keep the pairs of one image type, of channels that fit and of one mask kind."""
    if not good:
        return good
    whose = "as the model was trained on" if dtype else "as most of the others"
    dtype = dtype or Counter(facts.dtype for _, facts in good).most_common(1)[0][0]
    channels = channels or _channels([facts for _, facts in good])
    kept = []
    for pair, facts in good:
        if facts.dtype != dtype:
            problems.append(
                Problem(
                    str(pair.image),
                    f"an image of type {facts.dtype}",
                    f"{dtype}, {whose}",
                    f"convert it to {dtype}",
                )
            )
        elif facts.shape[2] not in (channels, 1 if channels == 3 else channels):
            problems.append(
                Problem(
                    str(pair.image),
                    f"an image of {facts.shape[2]} channel(s)",
                    f"{channels}, {whose}",
                    f"convert it to {channels} channel(s)",
                )
            )
        elif facts.kind != kind and len(facts.counts) > 1:
            problems.append(
                Problem(
                    str(pair.mask),
                    f"a {facts.kind} mask",
                    f"a {kind} mask, as most of the others",
                    "save it like those",
                )
            )
        else:
            kept.append((pair, facts))
    return kept


def _one_palette(
    good: list[tuple[Pair, Facts]], problems: list[Problem]
) -> list[tuple[Pair, Facts]]:
    """Leave out masks whose palette holds the others' colours in another order.

    Indices are what counts; but white as 0 in one mask and as 1 in the rest is surely no choice.
    """
    index_of: dict[tuple[int, ...], int] = {}
    kept = []
    for pair, facts in good:
        own = {facts.palette[3 * i : 3 * i + 3]: i for i in facts.counts} if facts.palette else {}
        moved = [c for c, index in own.items() if index_of.get(c, index) != index]
        if moved:
            problems.append(
                Problem(
                    str(pair.mask),
                    f"a palette in which colour {moved[0]} is index {own[moved[0]]}",
                    f"index {index_of[moved[0]]}, as in the other masks",
                    "save all masks with one palette, or as grey values",
                )
            )
            continue
        index_of = own | index_of
        kept.append((pair, facts))
    return kept


def _well_read(
    good: list[tuple[Pair, Facts]], problems: list[Problem], labels: Labels
) -> list[tuple[Pair, Facts]]:
    """Keep the masks that are coded like the others, such as no 0/1 among 0/255."""
    kept = []
    for pair, facts in good:
        if misread(labels, facts.counts):
            problems.append(
                Problem(
                    str(pair.mask),
                    f"values {' and '.join(map(str, sorted(facts.counts)))}",
                    f"masks coded like the others, cut at {labels.threshold:g}",
                    "save it with the values of the others",
                )
            )
        else:
            kept.append((pair, facts))
    return kept


def _channels(facts: Sequence[Facts]) -> int:
    """The commonest number of channels, or 3 where grey and colour are mixed."""
    counts = Counter(f.shape[2] for f in facts)
    return 3 if set(counts) == {1, 3} else counts.most_common(1)[0][0]


def _kind(facts: Sequence[Facts], default: str) -> str:
    """The commonest kind of mask; one of a single value tells nothing, whatever it is saved as."""
    kinds = Counter(f.kind for f in facts if len(f.counts) > 1).most_common(1)
    return kinds[0][0] if kinds else default


def _as_colour(facts: Facts) -> Facts:
    """A mask without any colour, such as an empty one, counted as the colour mask it is."""
    if facts.kind != "grey":
        return facts
    return replace(facts, counts={value * 0x010101: n for value, n in facts.counts.items()})


def _values(mask: RawMask, kind: str) -> Array:
    """Mask values, packed as colours where all masks are but this one has no colour in it."""
    grey = mask.kind == "grey" and kind == "colour"
    return mask.values.astype(np.int32) * 0x010101 if grey else mask.values


def _decide(facts: Sequence[Facts], foreground: str, labels: Labels | None, kind: str) -> Labels:
    counts: dict[int, int] = {}
    for one in facts:
        add_counts(counts, one.counts)
    alike = labels is not None and (labels.kind == "colour") == (kind == "colour")
    if labels is not None and alike and (labels.reads(counts) or len(counts) == 1):
        return labels
    if labels is not None and foreground == "bright":
        foreground = "bright" if labels.values[1] > labels.values[0] else "dark"
    palette = next((f.palette for f in facts if f.palette), ())
    return decide(counts, foreground=foreground, kind=kind, palette=palette)


def _size(shape: Sequence[int]) -> str:
    return f"{shape[1]} x {shape[0]} pixels"
