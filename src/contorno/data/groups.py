"""Which pictures belong together, and the parting into training and validation, or into folds.

Slices of one patient or tiles of one slide look alike: with some of them in training, the score on
the others says little about a new patient. Groups come from names, by a pattern of the user's or
by a guess, and from copies that `duplicates` found; they are never parted. What is in the files is
left to others.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.errors import ConfigError, InputError

Array = NDArray[Any]

_SHOWN = 5  # names in an error
_LARGE = 0.25  # of a fold: a group of more is placed before the others


@dataclass(frozen=True)
class Grouping:
    """The group of every name, and how it was found, in words."""

    of: dict[str, str]
    rule: str


def by_pattern(names: Sequence[str], pattern: str) -> Grouping:
    """Groups by a regular expression, searched for in each name.

    Args:
        names: stems of the pairs.
        pattern: its first group in brackets, or all that it matches, is the name of the group.

    Raises:
        ConfigError: not a regular expression.
        InputError: names that it does not match, or that all fall into one group.
    """
    search = compiled(pattern).search
    matches = {name: search(name) for name in names}
    of = {
        name: match[1 if match.re.groups else 0] or "" for name, match in matches.items() if match
    }
    others = sorted(name for name in matches if not of.get(name))
    if others:
        listed = ", ".join(others[:_SHOWN]) + (" ..." if len(others) > _SHOWN else "")
        raise InputError(
            f"group ('{pattern}') finds no group in {len(others)} of {len(matches)} names: {listed}"
            ". Change the pattern so that it matches every name, or rename these files"
        )
    if len(of) > 1 and len(set(of.values())) == 1:
        raise InputError(
            f"group ('{pattern}') puts all {len(of)} names into one group, "
            f"{next(iter(of.values()))!r}; two or more are needed. Put into "
            r"brackets what differs from group to group, as in '^(patient\d+)'"
        )
    return Grouping(of, f"names in which '{pattern}' finds the same are one group")


def compiled(pattern: str) -> re.Pattern[str]:
    """A pattern of groups, or ConfigError where it is no regular expression."""
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(
            f"group ('{pattern}') is not a regular expression: {error}; "
            r"try one such as '^(patient\d+)'"
        ) from None


def in_names(names: Sequence[str], pattern: str | None) -> Grouping | None:
    """Groups by a pattern where one is given, see `by_pattern`, else what `guess` finds."""
    return by_pattern(names, pattern) if pattern else guess(names)


def guess(names: Sequence[str]) -> Grouping | None:
    """Groups of names that begin alike, such as patient01_slice3 and patient01_slice4.

    Of all ways to cut the names, before the first separator, the second and so on, the one with the
    shortest beginnings counts: the tiles of slide2-tile_4_5 belong to the slide, not to its row. It
    must give at least five groups of two names on average, none with more than half of all.
    Beginnings that differ in words, such as cat_1 and dog_1, are kinds rather than cases and are
    not taken; nor is anything in names like p0 or satImage_001, which share nothing or all.
    """
    names = sorted(set(names))
    shapes = {re.sub(r"\d+", "#", name) for name in names}
    # "Image_01L" is cut after its number too; a hash, which has letters and numbers anywhere, not.
    regular = len(shapes) <= max(len(names) // 5, 1)
    cuts = {name: list(_cuts(name, numbers=regular)) for name in names}
    for place in range(max(map(len, cuts.values()), default=0)):
        of = {name: name[: c[place]] if place < len(c) else name for name, c in cuts.items()}
        sizes = Counter(of.values())
        largest = max(sizes.values())
        fits = len(sizes) >= 5 and 2 * len(sizes) <= len(names) and 2 * largest <= len(names)
        if fits and _numbered(list(sizes)):
            example = min(name for name in names if sizes[of[name]] > 1)
            rule = f"names that begin alike are one group, as {of[example]!r} of {example!r}"
            return Grouping(of, rule)
    return None


def joined(
    names: Sequence[str], grouping: Grouping | None, pairs: Iterable[tuple[str, str]]
) -> Grouping | None:
    """Groups of which those that share a copy have become one; None when there is no group.

    Args:
        names: stems of the pairs of image and mask.
        grouping: the groups so far; without one, each name is its own.
        pairs: names of pictures that are copies of each other.
    """
    of = grouping.of if grouping else {}
    parent: dict[str, str] = {}

    def root(label: str) -> str:
        while (above := parent.get(label, label)) != label:
            parent[label] = parent.get(above, above)  # halves the way for the next search
            label = above
        return label

    merged = False
    for first, second in pairs:
        one, other = sorted((root(of.get(first, first)), root(of.get(second, second))))
        if one != other:
            parent[other] = one
            merged = True
    if not merged:
        return grouping
    rule = "copies of a picture are one group"
    if grouping:
        rule = f"{grouping.rule}; groups that share copies of a picture are one"
    return Grouping({name: root(of.get(name, name)) for name in names}, rule)


def split(
    names: Sequence[str],
    *,
    share: float | None = None,
    seed: int,
    chosen: Iterable[str] | None = None,
    grouping: Grouping | None = None,
    foreground: Mapping[str, float] | None = None,
) -> tuple[list[str], list[str]]:
    """Part names into training and validation, both sorted.

    Args:
        names: stems of the pairs.
        share: share of validation, at least one and never all; `usual_share` when None.
        seed: decides which.
        chosen: stems that are validation; takes the place of the share, also within groups.
        grouping: names that must stay together.
        foreground: share of the pixels of each mask that are foreground; validation gets pictures
            from all over its range.

    Raises:
        InputError: a part would be empty.
    """
    if seed < 0:
        raise ConfigError(f"seed ({seed}) must be 0 or more")
    everything = sorted(set(names))
    units = _units(everything, grouping)
    if chosen is not None:
        validation = set(chosen) & set(everything)
    else:
        share = usual_share(len(everything)) if share is None else share
        validation = _drawn(units, share, np.random.default_rng(seed), foreground or {})
    training = sorted(set(everything) - validation)
    if not training or not validation:
        one = grouping is not None and chosen is None and len(units) == 1 < len(everything)
        why = f"; all are in one group ({grouping.rule})" if grouping and one else ""
        raise InputError(
            f"{len(names)} usable pair(s) give {len(training)} for training and {len(validation)} "
            f"for validation; each needs at least one{why}"
        )
    return training, sorted(validation)


def usual_share(count: int) -> float:
    """Of so many pairs, what validates: a fifth, but no more than 50 or 2% need to.

    The mean Dice of 50 images is known to about 0.02, and the others are better trained on.
    """
    return min(0.2, max(50 / count, 0.02))


def folds(
    names: Sequence[str],
    count: int,
    *,
    seed: int,
    grouping: Grouping | None = None,
    foreground: Mapping[str, float] | None = None,
) -> list[list[str]]:
    """Part names into folds of like size and like foreground; every name is in one, sorted.

    Large groups are placed first, each into the fold that holds the least; then the others in order
    of their foreground, so that neighbours in it come into different folds.

    Args:
        names: stems of the pairs.
        count: how many folds.
        seed: decides which of equals.
        grouping: names that must stay together.
        foreground: share of the pixels of each mask that are foreground.

    Raises:
        ConfigError: fewer than 2 folds, or more than groups.
    """
    units = _units(sorted(set(names)), grouping)
    if not 2 <= count <= len(units):
        what = f"groups ({grouping.rule})" if grouping else "usable pairs"
        raise ConfigError(
            f"folds ({count}) must be from 2 to {len(units)}, the number of {what}"
            + (f"; try {max(2, min(5, len(units)))}" if len(units) > 1 else "")
        )
    rng = np.random.default_rng(seed)
    units = [units[i] for i in rng.permutation(len(units))]  # equal ones stay shuffled
    units.sort(key=lambda unit: _mean(unit, foreground or {}))
    large = _LARGE * sum(map(len, units)) / count
    units.sort(key=lambda unit: -len(unit) if len(unit) > max(large, 1) else 0)
    parts: list[list[str]] = [[] for _ in range(count)]
    for unit in units:
        order = rng.permutation(count).tolist()
        parts[min(order, key=lambda fold: len(parts[fold]))] += unit
    return [sorted(part) for part in parts]


def _cuts(name: str, *, numbers: bool) -> Iterator[int]:
    """Where a beginning of `name` may end: before a separator, and after a number if `numbers`."""
    pattern = r"(?<=[^\W_])(?=[\W_])" + (r"|(?<=\d)(?=[^\W\d_])" if numbers else "")
    return (match.start() for match in re.finditer(pattern, name))


def _numbered(beginnings: list[str]) -> bool:
    """Whether beginnings differ by numbers or a letter or two, not by words."""
    first, last = min(beginnings), max(beginnings)  # what these two share, all share
    same = next(
        (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first)
    )
    return all(re.search(r"\d", b[same:]) or len(b) - same <= 2 for b in beginnings)


def _units(names: Sequence[str], grouping: Grouping | None) -> list[list[str]]:
    """Names that go together, in an order that does not hang on what the groups are called."""
    units: dict[str, list[str]] = defaultdict(list)
    for name in names:
        units[grouping.of.get(name, name) if grouping else name].append(name)
    return list(units.values())


def _drawn(
    units: list[list[str]],
    share: float,
    rng: np.random.Generator,
    foreground: Mapping[str, float],
) -> set[str]:
    """The names of validation: one unit from each bin of units of like foreground."""
    total = sum(map(len, units))
    if len(units) < 2:
        return set()
    target = min(max(round(share * total), 1), total - 1)
    order = rng.permutation(len(units))
    amount = np.array([_mean(units[i], foreground) for i in order])
    order = order[np.argsort(amount, kind="stable")]  # equal ones stay shuffled
    sizes = np.array([len(units[i]) for i in order])
    count = min(max(round(len(units) * target / total), 1), len(units) - 1)
    bins = np.arange(len(units)) * count // len(units)
    starts = np.searchsorted(bins, np.arange(count + 1))
    drawn = np.zeros(len(units), bool)
    drawn[rng.integers(starts[:-1], starts[1:])] = True
    while (change := _improvement(drawn, bins, sizes, target)) is not None:
        drawn[change] = ~drawn[change]
    return {name for i in order[drawn] for name in units[i]}


def _mean(unit: Sequence[str], foreground: Mapping[str, float]) -> float:
    known = [foreground[name] for name in unit if math.isfinite(foreground.get(name, math.nan))]
    return sum(known) / len(known) if known else 0.0


def _improvement(drawn: Array, bins: Array, sizes: Array, target: int) -> list[int] | None:
    """Units to move so that the drawn ones come nearer to `target` names, None when none helps.

    Best of all an exchange within a bin, which changes the foreground least.
    """
    gap = target - int(sizes[drawn].sum())
    if gap == 0:
        return None
    partner = np.full(bins[-1] + 1, -1)
    partner[bins[drawn]] = np.flatnonzero(drawn)
    free = np.flatnonzero(~drawn)
    able = free[partner[bins[free]] >= 0]
    changes = [[int(i), int(partner[bins[i]])] for i in able]
    left = list(np.abs(gap - (sizes[able] - sizes[partner[bins[able]]])))
    for movable, sign in ((free, 1), (np.flatnonzero(drawn), -1)):
        if len(movable) > 1:  # neither part may become empty
            changes += [[int(i)] for i in movable]
            left += list(np.abs(gap - sign * sizes[movable]))
    best = int(np.argmin(left)) if left else 0
    return changes[best] if left and left[best] < abs(gap) else None
