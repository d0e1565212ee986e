"""What only all masks of a set show together: too little of a class, one unlike the others."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from contorno.data.evidence import gather
from contorno.data.facts import Good
from contorno.data.labels import Labels
from contorno.errors import Problem

_INVERTED = 0.9  # share of foreground from which masks look the wrong way round
_RARE = 1e-3  # share of the pixels
_STRAYS = 16  # values: more come from soft edges or compression
_SOFT = 0.01  # share of the pixels: more than a few strays
_ENOUGH = 10  # pairs: a class that only one of them holds is rare
_FEW = 5  # masks: so few do not tell which of them is unlike the others
_ODD = 0.1  # share of the masks: more that are unlike the others are a kind of their own
_GAP = 0.25  # of a picture; counted by hand, the five development sets have none above 0.14
_NEAR = 0.05  # of a picture, between a share and those of the others


def balance(good: Good, labels: Labels, validation: Collection[str]) -> Iterator[Problem]:
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
    yield from _turned_round(good, labels, pixels)
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
        elif share < _RARE or (present.sum() == 1 and len(good) >= _ENOUGH):
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


def _turned_round(good: Good, labels: Labels, pixels: NDArray[np.int64]) -> Iterator[Problem]:
    """Few masks, with as much foreground as the others have background, and nothing between.

    Args:
        good: pairs with their facts.
        labels: what the masks mean.
        pixels: of each class but the background, (pairs, K).
    """
    whole = np.array([facts.pixels for _, facts in good])
    for layer, part in enumerate(labels.parts or (labels,)):
        if len(part.scored) > 1 or part.others == "foreground" or len(good) <= _FEW:
            continue
        shares = pixels[:, layer] / whole
        order = np.argsort(shares)
        gaps = np.diff(shares[order])
        cut = int(gaps.argmax()) + 1
        odd, others = sorted((order[:cut], order[cut:]), key=len)
        if gaps.max() < _GAP or len(odd) > max(1, _ODD * len(good)):
            continue
        least, most = shares[others].min(), shares[others].max()
        for place in odd:
            if least - _NEAR <= 1 - shares[place] <= most + _NEAR:
                yield Problem(
                    str(good[place][0].masks[layer]),
                    f"{100 * shares[place]:.3g}% of it is foreground",
                    f"about as in the {len(others)} others, {100 * least:.2g} to {100 * most:.2g}%",
                    "look at it; if background and foreground are the wrong way round, invert it",
                    "turned-round",
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


def codings(good: Good, labels: Labels) -> Iterator[Problem]:
    """How the masks are coded: numbers of objects, soft edges, what is ignored."""
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
