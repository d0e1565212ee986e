"""Whether the pairs of a set agree: one image type, one kind of mask, one coding.

What is left is good to train on; every pair that is left out is a problem with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from contorno.config import Preprocessing
from contorno.data.coding import MasksError, decide, overlap, retell, value_word
from contorno.data.evidence import MaskFacts, gather, labelled, numbers_classes
from contorno.data.facts import Examined, Facts, Good
from contorno.data.kinds import common_kind, of_one_kind
from contorno.data.labels import IGNORE, Labels, misread
from contorno.data.pairs import Pair
from contorno.errors import InputError, Problem
from contorno.images import ImageError, as_channels, read_channels

_SOFT = 8  # values: more come from compression or soft edges
_STRAY = 1e-3  # of the pixels of a mask
_SMOOTH = 64  # values: fewer are no photograph
_LEAST = 0.2  # of one mask's pixels beside the commonest class must be near the classes' values
_BEYOND = 3.0  # times the training range: more means other units
_WITHIN = 64  # so many times dimmer than any training picture: 0 to 1 instead of 0 to 255
_GREY_IN_COLOUR = 3  # channels: grey pictures among such ones are repeated


@dataclass(frozen=True)
class Reading:
    """How pictures and masks are to be read.

    Args:
        foreground, classes, ignore: see `coding.decide`.
        layers: names of overlapping classes, in the order of each pair's masks; empty otherwise.
        pages: whether the pages of a TIFF are channels.
        upright: whether to apply EXIF rotations where sizes cannot tell; None: as most of the
            pairs in which they can.
    """

    foreground: str | None = None
    classes: str | None = None
    ignore: str | None = None
    layers: tuple[str, ...] = ()
    pages: bool = False
    upright: bool | None = None


def turned_alike(
    good: Good, look: Callable[[Pair], Examined | list[Problem]], keep: Callable[..., None]
) -> tuple[Good, bool]:
    """Pictures whose size does not tell are turned as most of those whose size does.

    Args:
        good: examined as they are stored, where sizes do not tell.
        look: examines a pair turned.
        keep: called with each pair that was turned now and its result.

    Returns:
        The pairs, and whether they are turned.
    """
    turned = sum(facts.turned for _, facts in good)
    if not turned > sum(facts.as_stored for _, facts in good):
        return good, False
    again: Good = []
    for pair, facts in good:
        seen = look(pair) if facts.exif else None
        if isinstance(seen, Examined):
            keep(pair, seen)
            facts = seen.facts
        again.append((pair, facts))
    return again, True


def usable_pairs(
    good: Good,
    problems: list[Problem],
    *,
    channels: int | None = None,
    dtype: str | None = None,
    units: Preprocessing | None = None,
    labels: Labels | None = None,
) -> Good:
    """Keep the pairs of one image type and unit, of channels that fit and of one kind of mask."""
    if not good:
        return good
    good = _uniform(good, problems, channels, dtype)
    if units is not None:
        good = _in_units(good, problems, units)
    for layer in range(len(good[0][1].masks)) if good else ():
        part = labels.parts[layer] if labels and labels.multilabel else labels
        good = of_one_kind(good, problems, layer, None if part is None else part.kind)
    return good


def understand(
    masks: Sequence[tuple[MaskFacts, ...]], reading: Reading, labels: Labels | None = None
) -> Labels:
    """What the masks mean; an earlier decision stands if these masks are coded like it.

    Raises:
        InputError: masks that are no labels, or hold other classes than the earlier decision.
        ConfigError: options that name values which no mask has.
    """
    if not reading.layers and (labels is None or not labels.multilabel):
        return _understand([one[0] for one in masks], reading, labels)
    if labels is not None and labels.names != reading.layers:
        raise InputError(
            f"the masks have classes {', '.join(reading.layers) or 'in one folder'}; the model has "
            f"{', '.join(labels.names)}. Give the same with --masks NAME=FOLDER"
        )
    parts = {}
    for layer, name in enumerate(reading.layers):
        part = labels.parts[layer] if labels else None
        own = [one[layer] for one in masks]
        try:
            parts[name] = _understand(own, reading, part)
        except MasksError as error:
            if error.kind != "one-value" or any(own[0].counts):
                raise
            parts[name] = Labels()  # all empty: read as the others would be
    return overlap(parts)


def _understand(masks: Sequence[MaskFacts], reading: Reading, labels: Labels | None) -> Labels:
    seen = gather(masks)
    kind = common_kind(masks, "grey" if labels is None else labels.kind)
    asked = reading.foreground or reading.classes or reading.ignore
    if labels is not None and not asked:
        alike = (labels.kind == "colour") == (kind == "colour")
        if alike and (labels.reads(seen.counts) or len(seen.counts) == 1):
            return retell(labels, seen)
    dark = labels is not None and labels.values[0] > labels.values[1]
    foreground = reading.foreground or ("dark" if dark else "bright")
    take = partial(
        decide,
        foreground=foreground,
        classes=reading.classes,
        ignore=reading.ignore,
        kind=kind,
        palette=max((facts.palette for facts in masks), key=len, default=()),  # of all colours
    )
    try:
        decided = take(seen)
    except MasksError:
        clear = [facts for facts in masks if len(facts.counts) < _SMOOTH]
        if not len(masks) / 2 < len(clear) < len(masks):
            raise
        decided = take(gather(clear))  # the rest is told of one by one
    if labels is not None and len(decided.names) != len(labels.names):
        raise InputError(
            f"these masks hold {len(decided.names)} classes ({decided.note}); the model has "
            f"{len(labels.names)} ({labels.note}). Say which value is which: --classes"
        )
    renamed = labels is not None and bool(reading.classes) and decided.names != labels.names
    if labels is not None and len(labels.names) > 2 and (renamed or not reading.classes):
        _require_same_meaning(decided, labels, named=renamed)
    return decided


def retold(labels: Labels, good: Good) -> Labels:
    """The same decision with the shares of the masks that are left."""
    if labels.multilabel:
        return labels
    return retell(labels, gather([facts.masks[0] for _, facts in good]))


def _require_same_meaning(decided: Labels, labels: Labels, *, named: bool) -> None:
    """Values that two codings share must be the same classes; else they are paired by guesswork.

    Args:
        decided, labels: of these masks, and of the model.
        named: whether the user named the classes of these masks, and so paired the other values.
    """
    known, found = dict(labels.lookup), dict(decided.lookup)
    shared = {value for value in known.keys() & found.keys() if known[value] not in (0, IGNORE)}
    strange = [value for value, index in found.items() if value not in known and index != IGNORE]
    if (shared and strange and not named) or any(known[v] != found[v] for v in shared):
        raise InputError(
            f"these masks hold other values ({decided.note}) than those of the model "
            f"({labels.note}). Say which value is which class, in the model's names and order: "
            "--classes"
        )


def _uniform(good: Good, problems: list[Problem], channels: int | None, dtype: str | None) -> Good:
    whose = "as the model was trained on" if dtype else "as most of the others"
    dtype = dtype or Counter(facts.dtype for _, facts in good).most_common(1)[0][0]
    channels = channels or common_channels([facts for _, facts in good])
    kept = []
    for pair, facts in good:
        if facts.dtype != dtype:
            problems.append(
                Problem(
                    str(pair.image),
                    f"an image of type {facts.dtype}",
                    f"{dtype}, {whose}",
                    f"convert it to {dtype}",
                    "mixed-type",
                )
            )
        elif not _fits(pair, facts, channels):
            problems.append(
                Problem(
                    str(pair.image),
                    f"an image of {facts.shape[2]} channel(s)",
                    f"{channels}, {whose}",
                    f"convert it to {channels} channel(s)",
                    "mixed-channels",
                )
            )
        else:
            kept.append((pair, facts))
    return kept


def other_units(trained: Preprocessing, low: float, high: float, path: str) -> Problem | None:
    """A picture of `low` to `high` for a model of other units: 0 to 1 for 0 to 65535, say."""
    if trained.range is None or trained.dtype == "uint8":
        return None
    least, most = trained.range
    span = most - least
    beyond = high > most + _BEYOND * span or low < least - _BEYOND * span
    within = 0 <= low < high < trained.dimmest / _WITHIN
    if span <= 0 or not (beyond or within):
        return None
    return Problem(
        path,
        f"values from {low:g} to {high:g}",
        f"about {least:g} to {most:g}, as the model was trained on",
        "save the image in the units of the training images, or train a model on such images",
        "other-units",
    )


def _in_units(good: Good, problems: list[Problem], trained: Preprocessing) -> Good:
    kept = []
    for pair, facts in good:
        problem = other_units(trained, facts.low, facts.high, str(pair.image))
        if problem is None:
            kept.append((pair, facts))
        else:
            problems.append(problem)
    return kept


def _fits(pair: Pair, facts: Facts, channels: int) -> bool:
    """Whether `as_channels` takes the image without loss."""
    have = facts.shape[2]
    if have == channels or (have == 1 and channels == _GREY_IN_COLOUR):
        return True
    if have != _GREY_IN_COLOUR or channels != 1:
        return False
    try:  # colour that is grey after all; rare enough to be read again
        as_channels(read_channels(pair.images).array, channels)
    except ImageError:
        return False
    return True


def well_read(good: Good, problems: list[Problem], labels: Labels) -> Good:
    """Keep the masks that are coded like the others, such as no 0/1 among 0/255.

    Those of ignored pixels alone go too: nothing can be learnt from them, nor scored.
    """
    kept = []
    for pair, facts in good:
        wrong = [
            wrong
            for part, mask, path in zip(
                labels.parts or (labels,), facts.masks, pair.masks, strict=True
            )
            if (wrong := _ignored(part, mask, str(path)) or _coded_otherwise(part, mask, str(path)))
        ]
        problems += wrong
        if not wrong:
            kept.append((pair, facts))
    return kept


def _ignored(labels: Labels, mask: MaskFacts, path: str) -> Problem | None:
    if not mask.counts.keys() <= set(labels.ignored):
        return None
    return Problem(
        path,
        "every pixel is ignored",
        "some pixel of a class or of background",
        "label it, or leave the pair out",
        "all-ignored",
    )


def _coded_otherwise(labels: Labels, mask: MaskFacts, path: str) -> Problem | None:
    known = dict(labels.lookup)
    if misread(labels, mask.counts):
        return _other_coding(path, labels, mask)
    strange = [v for v in mask.counts if v not in known]
    drawn = [v for v in strange if (mask.solid or mask.counts).get(v, 0) > 0.05 * mask.counts[v]]
    if labels.others == "foreground" or not strange:
        return None
    numbered = labels.kind == "grey" and numbers_classes(known)
    if len(mask.counts) > _SOFT and labels.kind != "palette" and not (numbered and drawn):
        seen = gather([mask])
        if labelled(seen, known, labels.kind, least=_LEAST) or len(mask.counts) < _SMOOTH:
            return None
        return Problem(
            path,
            f"{len(mask.counts)} different values, most of them far from those of the classes",
            f"the values {_listed(known, labels.kind)}",
            "check that it is a mask, and no photograph or heat map",
            "not-labels",
        )
    if not drawn:
        return None
    value = max(drawn, key=lambda v: mask.counts[v])
    share = mask.counts[value] / sum(mask.counts.values())
    if len(mask.counts) == len(labels.names) == 2:
        if share < _STRAY:  # one pixel at the edge of a soft mask, say
            return None
        return _other_coding(path, labels, mask)
    return Problem(
        path,
        f"value {value_word(value, labels.kind)} ({100 * share:.3g}% of its pixels), which is no "
        "class",
        f"the values {_listed(known, labels.kind)}",
        "name it in --classes, --ignore it, or correct the mask",
        "undeclared-value",
    )


def _other_coding(path: str, labels: Labels, mask: MaskFacts) -> Problem:
    return Problem(
        path,
        f"values {_listed(mask.counts, labels.kind)}",
        f"masks coded like the others, with {_listed(dict(labels.lookup), labels.kind)}",
        "save it with the values of the others",
        "other-coding",
    )


def _listed(values: Iterable[int], kind: str) -> str:
    ordered = sorted(values)
    words = ", ".join(value_word(value, kind) for value in ordered[:8])
    return words + (" ..." if len(ordered) > 8 else "")


def common_channels(facts: Iterable[Facts]) -> int:
    """The commonest number of channels, or 3 where grey and colour are mixed."""
    counts = Counter(f.shape[2] for f in facts)
    return 3 if set(counts) == {1, 3} else counts.most_common(1)[0][0]
