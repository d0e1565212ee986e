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
from contorno.data.evidence import gather
from contorno.data.facts import Good, examine, examine_all
from contorno.data.groups import Grouping, in_names, joined
from contorno.data.labels import Labels
from contorno.data.names import unknown_stems
from contorno.data.pairs import Pair
from contorno.errors import Problem

_FEW = 10  # pairs: fewer cannot tell how well a model does
_INVERTED = 0.9  # share of foreground from which masks look the wrong way round
_RARE = 1e-3  # share of the pixels
_STRAYS = 16  # values: more come from soft edges or compression
_SOFT = 0.01  # share of the pixels: more than a few strays
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
    findings = [*_size_of_set(good), *_ranges(good)]
    if labels is not None:
        findings += [*_balance(good, labels, validation), *_codings(good, labels)]
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


def _balance(good: Good, labels: Labels, validation: Collection[str]) -> Iterator[Problem]:
    """How much of each class there is, and where."""
    place = str(good[0][0].mask.parent)
    pixels = np.array([facts.class_pixels(labels) for _, facts in good])  # (pairs, K)
    whole = sum(facts.pixels for _, facts in good)
    empty = int((pixels.sum(axis=1) == 0).sum())
    if empty:
        yield Problem(
            place,
            f"{empty} of {len(good)} masks ({100 * empty / len(good):.3g}%) are empty",
            "masks with objects",
            "nothing, if these pictures hold none: they teach what to leave out",
            "empty-masks",
            "note",
        )
    shares = pixels.sum(axis=0) / whole
    if len(labels.scored) == 1 and shares[0] > _INVERTED:
        yield Problem(
            place,
            f"{100 * shares[0]:.3g}% of the pixels are foreground ({labels.note})",
            f"at most {100 * _INVERTED:g}%",
            "if background and foreground are the wrong way round: --foreground dark",
            "inverted",
            "warning",
        )
    lookups = [dict(part.lookup) for part in labels.parts or (labels,)]
    if not labels.multilabel and not any(
        lookups[0].get(v) == 0 for _, facts in good for v in facts.masks[0].counts
    ):
        yield _class_missing(place, labels.names[0])
    chosen = set(validation)
    validates = np.array([pair.name in chosen for pair, _ in good])
    for name, share, present in zip(labels.scored, shares, (pixels > 0).T, strict=True):
        if not present.any():
            yield _class_missing(place, name)
            continue
        if validates.any() and not (present & validates).any():
            yield Problem(
                place,
                f"no mask of the validation part holds the class {name!r}",
                "at least one: else nothing says whether it is learnt",
                f"move one of its {int(present.sum())} pictures to the validation part",
                "class-not-in-validation",
                "warning",
            )
        if present.sum() == 1 and len(good) > 3 and len(labels.scored) > 1 and not labels.asked:
            (one,) = np.flatnonzero(present)
            yield Problem(
                str(good[one][0].mask),
                f"holds {name!r}, which no other mask does",
                "values that several masks hold",
                "correct the mask, or name the class if it is one: --classes",
                "undeclared-value",
                "warning",
            )
        elif share < _RARE or (present.sum() == 1 and len(good) >= _FEW):
            yield Problem(
                place,
                f"the class {name!r} has {100 * share:.2g}% of the pixels, in "
                f"{int(present.sum())} mask(s)",
                "enough to learn from",
                "add pictures of it if it matters",
                "rare-class",
                "note",
            )
    masks = {facts.check[1] for _, facts in good}
    if len(masks) == 1 and len(good) > 1 and pixels[0].sum():
        yield Problem(
            place,
            "all masks are the same picture",
            "a mask for each image",
            "check how the masks were exported",
            "identical-masks",
            "warning",
        )


def _class_missing(place: str, name: str) -> Problem:
    return Problem(
        place,
        f"no mask holds the class {name!r}",
        "at least one",
        "correct --classes, or add pictures of it",
        "class-missing",
        "warning",
    )


def _codings(good: Good, labels: Labels) -> Iterator[Problem]:
    for layer, part in enumerate(labels.parts or (labels,)):
        place = str(good[0][0].masks[layer].parent)
        seen = gather([facts.masks[layer] for _, facts in good])
        others = [v for v in seen.counts if v not in dict(part.lookup)]
        yield from _negatives(good, layer)
        if part.others == "foreground" and not part.asked:
            yield Problem(
                place,
                f"the values look like numbers of objects (up to {max(seen.counts)})",
                "values of classes",
                "nothing, if all of them are foreground; else name the classes: --classes",
                "instance-ids",
                "warning",
            )
        elif others and part.others == "nearest":
            share = seen.share(others, rest=True)
            soft = len(others) > _STRAYS or share > _SOFT
            soft = soft or max(seen.images[v] for v in others) > len(good) / 2
            yield Problem(
                place,
                f"{len(others)} values besides those of the classes "
                f"({100 * share:.2g}% of the pixels)",
                "the values of the classes",
                "nothing: each goes to the nearest class",
                "soft-masks" if soft else "stray-values",
                "note",
            )
        if part.ignored:
            yield Problem(
                place,
                f"value {part.ignored[0]} ({100 * seen.share(part.ignored):.2g}% of the pixels) is "
                "ignored: neither learnt nor scored",
                "classes",
                f'nothing, or name it if it is a class: --classes "...,name={part.ignored[0]}"',
                "ignored",
                "note",
            )


def _negatives(good: Good, layer: int) -> Iterator[Problem]:
    """TIFFs with 0 for white among others: by ImageJ's inverting LUT objects are 255 and black."""
    negative = [facts.masks[layer].negative for _, facts in good]
    if all(negative):
        return
    for pair, facts in good:
        if facts.masks[layer].negative:
            yield Problem(
                str(pair.masks[layer]),
                "stored with 0 for white (an inverting LUT), as other masks are not",
                "masks stored alike: its values are turned round, so that white is 255",
                "look whether its objects are white, as in the others; if not, invert its LUT in "
                "ImageJ and save it",
                "mixed-lut",
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
