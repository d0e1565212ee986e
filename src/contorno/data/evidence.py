"""What masks tell before anybody knows what their values mean: one mask, and all together.

Two kinds of pixel tell values that were drawn from values that arose by scaling or compression:
a pixel is *solid* when its eight neighbours all have its value, and *between* when it has both
lower and higher neighbours. A drawn class has solid pixels, or, where lines are one pixel wide, is
seldom between; a soft edge is hardly ever solid and mostly between. What the values then mean is
decided in `coding`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from contorno.data.labels import IGNORE, MOST_CLASSES, count_values, distance
from contorno.images import RawMask

Array = NDArray[Any]
_HAZE = 0.15  # of the span: how far compression noise strays from the value that was drawn
_COLOUR_HAZE = 40  # levels of one channel: the same for colours
_COMMON = 0.05  # of the pixels that are not background: more is no stray value
_LABELLED = 0.4  # of those pixels: fewer in the drawn values (or near) are no label masks
_MANY = 32  # values: more come from compression or scaling, not from drawing
_FLAT = 4  # levels: colours of neighbours that differ no more are one, of a mask of many
_ROUND = 8  # levels: how far one drawn value comes apart where JPEG rounds
_CLEAN = 4  # values: a mask of so few has no compression noise
_RARE = 1e-4  # of the pixels that are not background: fewer, and none solid, is a stray value
_STRAY = 0.005  # of them: fewer, where nothing is solid, may be slips of the hand
_ONE_CODING = 0.8  # of the masks of two values: if so many agree, the rest is coded otherwise
_PIECES = 0.9  # of the values of numbered objects are in one piece
_SEEN = 512  # values of which that is looked at
_KEPT = 256  # values of one mask that are remembered; numbered objects and photographs have more
_MOST = 65_536  # values of all masks that are

Counts = dict[int, int]


@dataclass(frozen=True)
class MaskFacts:
    """What one mask tells.

    Args:
        counts: pixels of each value, of the commonest `_KEPT` and the largest.
        near: pixels of all others, by the remembered value that is nearest to theirs.
        solid, between: how many of them are solid, or between; empty for masks of two values.
        numbered: whether its values look like numbers of objects: several, each in one piece.
        kind, palette, coloured, unit, negative, lossy: as `RawMask`, or as it is read beside the
            others of its set.
    """

    counts: Counts
    near: Counts
    solid: Counts
    between: Counts
    numbered: bool
    kind: str
    palette: tuple[int, ...]
    coloured: bool
    unit: int
    negative: bool
    lossy: bool

    @property
    def rest(self) -> int:
        """Pixels whose value is not remembered."""
        return sum(self.near.values())


def look_at(mask: RawMask) -> MaskFacts:
    """Count what there is to know of one mask; cheap for masks of one or two values."""
    counts = count_values(mask)
    solid: Counts = {}
    between: Counts = {}
    near: Counts = {}
    numbered = False
    if len(counts) > 2:
        solid, between = _neighbours(mask.values, mask.kind if len(counts) > _MANY else "")
        if mask.kind != "colour":
            numbered = _numbered(mask.values, counts)
    if len(counts) > _KEPT:
        kept = {*sorted(counts, key=lambda v: -counts[v])[:_KEPT], max(counts)}
        near = _nearest(counts, kept, mask.kind)
        counts, solid, between = (
            {v: n for v, n in one.items() if v in kept} for one in (counts, solid, between)
        )
    return MaskFacts(
        counts,
        near,
        solid,
        between,
        numbered,
        mask.kind,
        mask.palette,
        mask.coloured,
        mask.unit,
        mask.negative,
        mask.lossy,
    )


def _nearest(counts: Counts, kept: Collection[int], kind: str) -> Counts:
    """Pixels of the values that are not kept, by the kept one that is nearest to each."""
    from scipy.spatial import cKDTree  # takes a while to import

    known, others = sorted(kept), sorted(counts.keys() - set(kept))
    shifts = (16, 8, 0) if kind == "colour" else (0,)
    level = 255 if kind == "colour" else -1  # all bits

    def points(values: Sequence[int]) -> Array:
        return np.stack([np.array(values, np.int64) >> shift & level for shift in shifts], axis=1)

    _, place = cKDTree(points(known)).query(points(others), p=np.inf)  # as `labels.distance`
    pixels = np.bincount(place, [counts[value] for value in others], minlength=len(known))
    return {value: int(n) for value, n in zip(known, pixels, strict=True) if n}


def _neighbours(values: Array, kind: str) -> tuple[Counts, Counts]:
    """Pixels of each value that are solid, and that are between."""
    if kind == "colour":
        channels = [_extremes(values >> shift & 255) for shift in (16, 8, 0)]
        flat = np.logical_and.reduce([high - low <= _FLAT for low, high in channels])
        return count_values(RawMask(values[flat])), {}
    low, high = _extremes(values)
    return (
        count_values(RawMask(values[low == high])),
        count_values(RawMask(values[(low < values) & (values < high)])),
    )


def _extremes(values: Array) -> tuple[Array, Array]:
    """Least and most of each pixel and its eight neighbours."""
    padded = np.pad(values, 1, mode="edge")
    rows = [padded[:-2], padded[1:-1], padded[2:]]
    low = np.minimum(np.minimum(rows[0], rows[1]), rows[2])  # (H, W + 2)
    high = np.maximum(np.maximum(rows[0], rows[1]), rows[2])
    low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:])  # (H, W)
    high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
    return low, high


def _numbered(values: Array, counts: Counts) -> bool:
    """Whether the values besides 0 are several and each is one connected piece."""
    order = np.array(sorted(counts), np.int64)
    ranks = np.searchsorted(order, values) + 1  # find_objects wants small positive numbers
    boxes = [
        (rank, box)
        for rank, box in enumerate(ndimage.find_objects(ranks), 1)
        if order[rank - 1] > 0 and box is not None
    ][:_SEEN]
    area = sum((box[0].stop - box[0].start) * (box[1].stop - box[1].start) for _, box in boxes)
    if len(boxes) < 2 or area > 20 * values.size:  # scattered all over: no objects
        return False
    pieces = sum(ndimage.label(ranks[box] == rank, np.ones((3, 3)))[1] == 1 for rank, box in boxes)
    return bool(pieces >= _PIECES * len(boxes))


@dataclass
class Evidence:
    """What all masks tell together."""

    counts: Counts = field(default_factory=dict)
    near: Counts = field(default_factory=dict)
    rest: int = 0
    solid: Counts = field(default_factory=dict)
    between: Counts = field(default_factory=dict)
    images: Counts = field(default_factory=dict)
    clean: Counts = field(default_factory=dict)  # pixels in masks of a few values
    sets: Counter[frozenset[int]] = field(default_factory=Counter)
    numbered: int = 0
    several: int = 0  # masks of more than two values
    lossy: int = 0  # masks whose values compression changed
    masks: int = 0

    def add(self, facts: MaskFacts) -> None:
        """Take in one mask; one of two values has no soft edge, so all of it counts as solid."""
        for total, part in (
            (self.counts, facts.counts),
            (self.near, facts.near),
            (self.solid, facts.solid or facts.counts),
            (self.between, facts.between),
            (self.images, dict.fromkeys(facts.counts, 1)),
            (self.clean, facts.counts if len(facts.counts) <= _CLEAN and not facts.lossy else {}),
        ):
            for value, number in part.items():
                if value in total or len(total) < _MOST:
                    total[value] = total.get(value, 0) + number
        if len(facts.counts) <= MOST_CLASSES:
            self.sets[frozenset(facts.counts)] += 1
        self.rest += facts.rest
        self.numbered += facts.numbered
        self.several += len(facts.counts) > 2
        self.lossy += facts.lossy
        self.masks += 1

    @property
    def mostly_numbered(self) -> bool:
        """Whether values look like numbers of objects in half of the masks that can tell."""
        return 2 * self.numbered >= self.several > 0

    @property
    def compressed(self) -> bool:
        """Whether compression changed the values of most masks, however few of them there are."""
        return 2 * self.lossy > self.masks

    @property
    def pixels(self) -> int:
        return sum(self.counts.values()) + self.rest

    def share(self, values: Collection[int], *, rest: bool = False) -> float:
        """Share of all pixels that have one of these values, or one that was not kept."""
        known = sum(self.counts.get(v, 0) for v in values)
        return (known + rest * self.rest) / self.pixels

    def class_share(self, values: Collection[int]) -> float:
        """The same, with what was not kept and is nearest to one of these values."""
        return self.share(values) + sum(self.near.get(v, 0) for v in values) / self.pixels


def gather(masks: Sequence[MaskFacts]) -> Evidence:
    """The evidence of many masks."""
    evidence = Evidence()
    for facts in masks:
        evidence.add(facts)
    return evidence


# Values that were drawn


def drawn_values(seen: Evidence, kind: str) -> list[int]:
    """The values that somebody drew, the commonest first; the rest is edges and noise."""
    values = sorted(seen.counts, key=lambda v: -seen.counts[v])
    if seen.compressed and kind == "grey" and max(values) - min(values) < MOST_CLASSES:
        return values[:1]  # what was drawn cannot be told from noise
    if len(values) <= 2 or kind == "palette":
        return values
    exact = not seen.compressed
    narrow = exact and kind == "grey" and numbers_classes(values)
    haze = _HAZE * (max(values) - min(values)) if kind == "grey" else _COLOUR_HAZE
    others = max(seen.pixels - seen.counts[values[0]], 1)  # all but the commonest
    drawn: list[int] = []
    for value in values:
        count, solid = seen.counts[value], seen.solid.get(value, 0)
        if count < _RARE * others and solid == 0:
            continue
        common = count > _COMMON * others
        if kind == "colour":
            line = exact and len(values) <= _MANY
        else:
            few = common or (exact and len(values) <= _CLEAN and count > _STRAY * others)
            line = few and seen.between.get(value, 0) < count / 2
            # Lines of one pixel between two others are between. Class numbers are hardly ever
            # scaled softly, and a class too many shows, while one that is lost does not.
            line = line or narrow or (common and len(values) == 3)
        if not (solid > 0.01 * count or line):
            continue
        if not narrow and _is_haze(value, drawn, seen, haze, kind):
            continue
        drawn.append(value)
        if len(drawn) > 4 * MOST_CLASSES:  # no classes; perhaps numbered objects
            break
    return drawn


def numbers_classes(values: Collection[int]) -> bool:
    """Whether greys are so small that they number classes, with no noise around them."""
    numbers = [value for value in values if value != IGNORE]
    return len(numbers) > 1 and max(numbers) - min(numbers) < MOST_CLASSES


def _is_haze(value: int, drawn: Sequence[int], seen: Evidence, reach: float, kind: str) -> bool:
    """Whether a value is the compression noise of a commoner one near it."""
    if 2 * seen.clean.get(value, 0) > seen.counts[value]:
        return False
    many = len(seen.counts) > _MANY
    rounded = seen.compressed or (many and not seen.mostly_numbered)
    for peak in drawn:
        away = float(distance(np.array(value), np.array(peak), kind))
        if away <= _ROUND and rounded:
            return True
        if away > reach or 4 * seen.counts[value] > seen.counts[peak]:
            continue
        if kind == "colour":
            return seen.compressed or many
        low, high = sorted((value, peak))
        steps = high - low - 1
        if sum(v in seen.counts for v in range(low + 1, high)) >= steps / 2:
            return True  # the values from one to the other are filled: no spaced class numbers
    return False


def labelled(
    seen: Evidence, drawn: Collection[int], kind: str, *, least: float = _LABELLED
) -> bool:
    """Whether enough of what is not the commonest value is in the drawn values or near them."""
    if kind == "palette" or seen.counts.keys() <= set(drawn):
        return True
    peaks = np.array(sorted(drawn), np.int64)
    values = np.array(list(seen.counts), np.int64)
    counts = np.array(list(seen.counts.values()))
    away = distance(values[:, None], peaks[None], kind)  # (values, drawn)
    gap = int(np.diff(peaks).min()) if kind == "grey" else 270
    near = [int(counts[row].sum()) for row in (away <= max(_HAZE * gap, 1)).T]
    far = int(counts[away.min(axis=1) > max(_HAZE * gap, 1)].sum())
    rest = sum(near) - max(near)  # all but the commonest class
    return rest >= least * max(rest + far, 1)


def photographed(seen: Evidence, drawn: Sequence[int], kind: str) -> bool:
    """Whether colours are so near each other, among so many, that nobody chose them for classes."""
    if kind != "colour" or len(seen.counts) <= _MANY:
        return False
    exact = sum(seen.counts[value] for value in drawn[1:])
    if exact >= _LABELLED * (seen.pixels - seen.counts[drawn[0]]):
        return False  # scaled, perhaps, but not compressed
    values = np.array(drawn, np.int64)
    away = distance(values[:, None], values[None], kind)
    return bool((away[np.triu_indices(len(values), 1)] <= _COLOUR_HAZE).any())


def are_objects(seen: Evidence, drawn: Sequence[int]) -> bool:
    """Whether values are numbers of objects: each in one piece, in numbers that vary."""
    if not seen.mostly_numbered or len(drawn) < 6:
        return False
    ids = sum(seen.images[value] == 1 for value in drawn)  # numbers that no other mask has
    return (
        len(drawn) > MOST_CLASSES
        or (ids >= len(drawn) - 1 > seen.masks > 1)
        or min(v for v in drawn if v) > 255
        or _counted(seen)
    )


def may_be_objects(seen: Evidence, drawn: Sequence[int]) -> bool:
    """Whether so few values that they may be classes could be numbers of objects as well."""
    return len(drawn) > 3 and seen.mostly_numbered and _counted(seen)


def _counted(seen: Evidence) -> bool:
    """Whether nearly every mask counts 1, 2, 3 ... without a gap, to numbers that vary."""
    vary = len({len(values) for values in seen.sets}) >= 3
    counted = sum(
        number for values, number in seen.sets.items() if max(values) == len(values - {0})
    )
    return vary and counted >= 0.8 * seen.masks


def is_void(seen: Evidence, drawn: Sequence[int]) -> bool:
    """Whether 255 is "ignore", as in Pascal VOC: with class numbers 0, 1, 2 ... beside it.

    Never when it is the only foreground, or never together with another class in one mask.
    """
    numbers = sorted(v for v in drawn if v != IGNORE)
    if IGNORE not in drawn or len(numbers) < 2:
        return False
    together = any(IGNORE in values and len(values) > 2 for values in seen.sets)
    return numbers[0] in (0, 1) and numbers[-1] < MOST_CLASSES and together


def one_coding(seen: Evidence, drawn: list[int], kind: str) -> list[int]:
    """The values of the commonest coding, where every mask has two values and most have the same.

    1 in some masks and 255, or 65535, in the others are surely two codings; of other greys, at
    least `_ONE_CODING` of the masks must agree. The masks of another coding are reported, one by
    one.
    """
    pairs = Counter({values: n for values, n in seen.sets.items() if len(values) == 2})
    if len(drawn) < 3 or not pairs or any(len(values) > 2 for values in seen.sets):
        return drawn
    values, number = pairs.most_common(1)[0]
    known = 0 in values and set(drawn) <= {0, 1, 255, 65535}
    spaced = kind == "grey" and max(drawn) - min(drawn) >= MOST_CLASSES  # not 0/1 beside 0/2
    if known or (spaced and number >= _ONE_CODING * pairs.total()):
        return [v for v in drawn if v in values]
    return drawn
