"""The doctor: what looks wrong in a set of pairs, or will hurt, before anything is trained.

Reads every file once, in parallel, and keeps a few numbers of each. What makes a pair unusable is
found by `facts` and `agreement`; here is what only the whole set shows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from contorno.data.agreement import (
    Reading,
    retold,
    turned_alike,
    understand,
    usable_pairs,
    well_read,
)
from contorno.data.coding import MasksError
from contorno.data.copies import (
    Copy,
    copy_findings,
    find_copies,
    group_leaks,
    groups_found,
    many_pictures,
)
from contorno.data.duplicates import ALL
from contorno.data.facts import Good, examine, examine_all
from contorno.data.groups import Grouping, in_names, joined
from contorno.data.labels import Labels
from contorno.data.mask_findings import balance, codings
from contorno.data.names import unknown_stems
from contorno.data.pairs import Pair
from contorno.errors import Problem

_FEW = 10  # pairs: fewer cannot tell how well a model does
_OTHER_UNITS = 128  # times another range


@dataclass
class Checked:
    """What was found in a set.

    Args:
        good: the usable pairs with their facts.
        labels: what the masks mean; None where nothing could be decided.
        findings: everything that is wrong, looks wrong or is worth knowing.
        grouping: which pairs belong together; None where nothing says so.
    """

    good: Good = field(default_factory=list)
    labels: Labels | None = None
    findings: list[Problem] = field(default_factory=list)
    grouping: Grouping | None = None


def check(
    pairs: Sequence[Pair],
    *,
    workers: int,
    reading: Reading,
    validation: Collection[str] = (),
    pattern: str | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Checked:
    """Look at every pair, then at the set.

    Args:
        pairs: from `pairs.find_pairs`.
        workers: threads that decode.
        reading: what the user said of pictures and masks.
        validation: names that validate, where a split is given.
        pattern: regular expression that finds the group in a name.
        advance: called after each pair.
    """
    done = Checked()
    good: Good = []
    look = partial(examine, pages=reading.pages)
    for pair, result in examine_all(pairs, look, workers):
        advance()
        if isinstance(result, list):
            done.findings += result
        else:
            good.append((pair, result.facts))
    good, _ = turned_alike(good, partial(look, upright=True), lambda *_: None)
    done.findings += [finding for _, facts in good for finding in facts.findings]
    good = usable_pairs(good, done.findings)
    try:
        if good:
            done.labels = understand([facts.masks for _, facts in good], reading)
            agreed = well_read(good, done.findings, done.labels)
            if agreed:
                done.labels = retold(done.labels, agreed)
            good = agreed
    except MasksError as error:
        place = str(good[0][0].mask.parent)
        words, _, fix = str(error).partition(". ")
        done.findings.append(Problem(place, words, "labels", fix or words, error.kind))
    done.good = good
    what = "named as validating, but no pair has this stem"
    done.findings += unknown_stems(validation, {pair.name for pair in pairs}, what)
    findings, done.grouping = look_at_set(
        good, done.labels, pages=reading.pages, validation=validation, pattern=pattern
    )
    done.findings += findings
    return done


def look_at_set(
    good: Good,
    labels: Labels | None,
    *,
    pages: bool,
    validation: Collection[str] = (),
    pattern: str | None = None,
) -> tuple[list[Problem], Grouping | None]:
    """Findings of the set, and which pairs must stay on one side of a split."""
    if not good:
        return [], None
    validation = frozenset(validation)  # asked for each pair
    findings = [*_size_of_set(good), *_ranges(good)]
    if labels is not None:
        findings += [*balance(good, labels, validation), *codings(good, labels)]
    names = [pair.name for pair, _ in good]
    grouping = in_names(names, pattern)
    if grouping is not None:
        findings.append(groups_found(good, grouping, asked=pattern is not None))
    equal, alike = find_copies(good, pages=pages)
    if len(good) > ALL:
        findings.append(many_pictures(good))
    together = _kept_together(names, grouping, equal, alike)
    kept = None if validation else together
    findings += copy_findings(good, equal, alike, validation, kept=kept)
    if grouping is not None and validation:
        findings += group_leaks(good, grouping, validation)
    return findings, together


def _kept_together(
    names: Sequence[str], grouping: Grouping | None, equal: Sequence[Copy], alike: Sequence[Copy]
) -> Grouping | None:
    """Groups and copies, as far as they leave a set to part.

    Pictures that are nearly alike only where no group is then more than half of the set, or than
    the largest is without: aligned pictures of one part differ in a small defect alone, and are no
    copies.
    """
    largest = max(Counter(grouping.of.values()).values()) if grouping else 0
    half = max(len(names) // 2, largest)
    for copies, most in (([*equal, *alike], half), (equal, len(names) - 1)):
        whole = joined(names, grouping, [(names[i], names[j]) for i, j, _ in copies])
        if whole is None or max(Counter(whole.of.values()).values()) <= most:
            return whole
    return grouping


# The set


def _size_of_set(good: Good) -> Iterator[Problem]:
    place = str(good[0][0].image.parent)
    if len(good) == 1:
        yield Problem(
            place,
            "one usable pair only",
            "at least two: one to train on and one to validate",
            "add pairs, or cut the picture into pieces",
            "one-image",
        )
    elif len(good) < _FEW:
        yield Problem(
            place,
            f"{len(good)} usable pairs",
            f"{_FEW} or more, to know how well a model does",
            "nothing; more pairs make the figures surer",
            "few-images",
            "note",
        )


def _ranges(good: Good) -> Iterator[Problem]:
    """Pictures in other units than most, such as 0 to 1 among 0 to 255."""
    typical = float(np.median([facts.high for _, facts in good]))
    for pair, facts in good:
        small = 0 < facts.high * _OTHER_UNITS < typical
        large = 0 < typical * _OTHER_UNITS < facts.high
        if small or large:
            yield Problem(
                str(pair.image),
                f"values from {facts.low:g} to {facts.high:g}",
                f"about as in the others, whose largest value is {typical:g} (median)",
                "save all images in the same units",
                "other-range",
                "warning",
            )


# In words and numbers


def sizes(good: Good) -> dict[str, Any]:
    """Smallest, median and largest width and height; channels and type."""
    if not good:
        return {}
    shapes = np.array([facts.shape for _, facts in good])
    return {
        "smallest": [int(shapes[:, 1].min()), int(shapes[:, 0].min())],
        "median": [int(np.median(shapes[:, 1])), int(np.median(shapes[:, 0]))],
        "largest": [int(shapes[:, 1].max()), int(shapes[:, 0].max())],
        "channels": sorted({int(c) for c in shapes[:, 2]}),
        "dtype": good[0][1].dtype,
    }


def suggestions(done: Checked) -> list[str]:
    """What to do next, the most important first."""
    kinds = Counter(f.kind for f in done.findings if f.severity != "note")
    words = []
    if not done.good or done.labels is None or kinds["one-image"]:
        return ["Nothing can be trained on yet: mend the errors above and check again."]
    if errors := sum(f.severity == "error" for f in done.findings):
        words.append(
            f"{errors} error(s): such pairs are left out of training; {len(done.good)} remain."
        )
    if kinds["leak"]:
        words.append("The split leaks: leave it to contorno, or move the pairs named above.")
    if kinds["duplicate-image"] or kinds["near-duplicate"] or kinds["other-mask"]:
        words.append("Remove copies, so that no picture counts twice.")
    if done.labels is not None and done.labels.others == "foreground":
        words.append("Objects that touch become one in a mask of two classes.")
    if len(done.good) < 2 * _FEW:
        words.append("With few pairs, give --time 20m or more and look at the report's pictures.")
    if not words:
        words.append("Nothing stands in the way of contorno train.")
    return words
