"""What must stay on one side of a split, copies of a picture and groups; what leaks across one.

How copies are recognised is `duplicates`' business, how names make groups `groups`'.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from contorno.data.duplicates import ALL, near, same
from contorno.data.facts import Good
from contorno.data.groups import Grouping
from contorno.data.pairs import Pair
from contorno.errors import Problem
from contorno.images import ImageError, read_channels, read_raw_mask

Copy = tuple[int, int, str]  # two pairs, and how the second is a copy of the first


def find_copies(good: Good, *, pages: bool) -> tuple[list[Copy], list[Copy]]:
    """Pictures that are the same to the bit, and those that are nearly.

    Args:
        good: all pairs.
        pages: whether the pages of a TIFF are channels.
    """
    equal: list[Copy] = []
    for first, *others in same([facts.check[0] for _, facts in good]):
        copies = [i for i in others if _same(good[first][0], good[i][0], pages)]
        equal += [(first, i, "the same picture") for i in copies]
    twins = {j for _, j, _ in equal}  # their copies are told of once
    flat = {i for i, (_, facts) in enumerate(good) if facts.low == facts.high}
    rest = [i for i in range(len(good)) if i not in twins | flat]
    alike: list[Copy] = []
    if rest:
        found = near(np.stack([good[i][1].thumbnail for i in rest]))
        alike = [(rest[i], rest[j], how) for i, j, how in found]
    return [(i, j, how) for i, j, how in equal if i not in flat], alike


def _same(first: Pair, second: Pair, pages: bool) -> bool:
    """Decoded anew: checksums may agree by chance."""
    try:
        one, two = (read_channels(pair.images, pages=pages).array for pair in (first, second))
    except ImageError:
        return False
    return np.array_equal(one, two)


def many_pictures(good: Good) -> Problem:
    """Of a large set: that not each picture is compared with each."""
    return Problem(
        str(good[0][0].image.parent),
        f"{len(good)} pictures, too many to compare each with each: equal ones are all found, "
        "altered copies mostly",
        f"at most {ALL}, for all of them",
        "nothing; to be sure, check parts of the set",
        "many-pictures",
        "note",
    )


def copy_findings(
    good: Good,
    equal: Sequence[Copy],
    alike: Sequence[Copy],
    validation: Collection[str],
    *,
    kept: Grouping | None,
) -> Iterator[Problem]:
    """Each copy, and whether it leaks across the split or has another mask.

    Args:
        good: all pairs.
        equal, alike: from `find_copies`.
        validation: names that validate, where a split is given.
        kept: what is never parted where none is given.
    """
    for i, j, how in [*equal, *alike]:
        one, two = good[i][0], good[j][0]
        exact = how == "the same picture"
        if (one.name in validation) != (two.name in validation):
            yield Problem(
                str(two.image),
                f"{how} as {one.image.name}, and only one of them validates",
                "no picture in both parts of the split",
                "move one of them: the validation figures are too good like this",
                "leak",
                "warning",
            )
        differ = exact and not _same_masks(one, two)
        if differ:
            yield Problem(
                str(two.image),
                f"the same picture as {one.image.name}, with another mask",
                "one mask for each picture",
                "keep the right one",
                "other-mask",
                "warning",
            )
        else:
            yield Problem(
                str(two.image),
                f"{how} as {one.image.name}" if exact else f"like {one.image.name}: {how}",
                "each picture once",
                _remove(one.name, two.name, validation, kept),
                "duplicate-image" if exact else "near-duplicate",
                "warning",
            )


def _remove(one: str, two: str, validation: Collection[str], kept: Grouping | None) -> str:
    """What to do about a copy, and what becomes of it until then."""
    if validation:
        return "remove one of them"
    if kept is not None and kept.of[one] == kept.of[two]:
        return "remove one of them; until then they stay on one side of the split"
    return (
        "remove one of them, if it is a copy: too many are alike to stay on one side of the split, "
        "and the validation figures may be too good"
    )


def _same_masks(one: Pair, two: Pair) -> bool:
    return all(
        np.array_equal(read_raw_mask(a).values, read_raw_mask(b).values)
        for a, b in zip(one.masks, two.masks, strict=True)
    )


# Groups


def groups_found(good: Good, grouping: Grouping, *, asked: bool) -> Problem:
    """What is never parted, in words."""
    sizes = Counter(grouping.of.values())
    return Problem(
        str(good[0][0].image.parent),
        f"{len(sizes)} groups ({grouping.rule}), of {min(sizes.values())} to "
        f"{max(sizes.values())} pairs",
        "groups on one side of the split",
        "nothing: a group is never parted" + ("" if asked else "; --group REGEX for other groups"),
        "groups",
        "note",
    )


def group_leaks(good: Good, grouping: Grouping, validation: Collection[str]) -> Iterator[Problem]:
    """Groups that a given split parts."""
    groups: dict[str, list[Pair]] = defaultdict(list)
    for pair, _ in good:
        groups[grouping.of[pair.name]].append(pair)
    for group, members in sorted(groups.items()):
        inside = sum(pair.name in validation for pair in members)
        if inside in (0, len(members)):
            continue
        yield Problem(
            str(members[0].image),
            f"group {group!r} has {inside} pair(s) in the validation part and "
            f"{len(members) - inside} in the training part",
            "each group on one side",
            "move the group to one side: the validation figures are too good like this",
            "leak",
            "warning",
        )
