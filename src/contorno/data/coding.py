"""Deciding how masks are coded: which of the values in all of them is which class.

What speaks for a value is gathered in `evidence`; what the user says wins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from contorno.data.evidence import (
    Evidence,
    are_objects,
    drawn_values,
    is_void,
    labelled,
    may_be_objects,
    one_coding,
    photographed,
)
from contorno.data.labels import ASKED, IGNORE, MOST_CLASSES, MOST_LAYERS, Labels, Row, plain
from contorno.errors import ConfigError, InputError


class MasksError(InputError):
    """Masks that cannot be understood as a whole; `kind` as of a `Problem`."""

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


def decide(
    seen: Evidence,
    *,
    foreground: str = "bright",
    classes: str | None = None,
    ignore: str | None = None,
    kind: str = "grey",
    palette: tuple[int, ...] = (),
) -> Labels:
    """Decide which value is which class.

    Args:
        seen: of all masks.
        foreground: "bright", "dark", "nonzero", or values such as "2,3" ("#ff0000" for colours):
            the masks then have two classes. With "dark" the highest value is background.
        classes: "background=0,nucleus=255"; the first is background. Wins over `foreground`.
        ignore: values such as "255" that are neither learnt nor scored.
        kind: as `RawMask.kind`, the same for all masks.
        palette: of palette masks.

    Raises:
        InputError: one value only, values that are no labels, or that no PNG can hold; with the
            shares found.
        ConfigError: options that name values which no mask has, or that cannot be read.
    """
    ignored = set(_numbers(ignore, "ignore")) if ignore else set()
    if missing := ignored - seen.counts.keys():
        raise ConfigError(
            f"ignore {value_word(min(missing), kind)}: no mask has this value; the masks hold "
            f"{_shares(seen.counts, kind)}"
        )
    if classes is not None:
        labels = _named(seen, classes, ignored, kind)
    elif foreground not in ("bright", "dark"):
        labels = _chosen(seen, foreground, ignored, kind)
    else:
        labels = _found(seen, ignored, kind, palette, dark=foreground == "dark")
    labels = labels.model_copy(update={"kind": kind, "palette": palette})
    if beyond := labels.beyond:
        raise MasksError(
            f"mask value {beyond[0]} cannot be written into a PNG mask: {kind} values must "
            f"be from 0 to {labels.most}. Save the masks with such values, for example 0 and 255",
            "not-labels",
        )
    return labels.model_copy(update={"table": _table(seen, labels, kind)})


def retell(labels: Labels, seen: Evidence) -> Labels:
    """A decision, its words and its table with the shares of other evidence."""
    note = labels.note
    if not labels.asked:
        objects = labels.others == "foreground"
        note = _objects_note(seen, labels) if objects else _found_note(seen, labels, labels.kind)
    return labels.model_copy(update={"note": note, "table": _table(seen, labels, labels.kind)})


def overlap(parts: Mapping[str, Labels]) -> Labels:
    """Labels of classes that may overlap, from those of each class's own masks.

    Raises:
        InputError: too many, or a class whose masks hold more than two classes.
    """
    if strange := [name for name in parts if not plain(name)]:
        raise ConfigError(f"masks: class name {strange[0]!r} cannot be part of a file name")
    if len(parts) > MOST_LAYERS:
        raise InputError(f"{len(parts)} folders of masks; at most {MOST_LAYERS} may overlap")
    many = [name for name, part in parts.items() if len(part.names) != 2 or part.ignored]
    if many:
        raise InputError(
            f"the masks of {many[0]} hold {_words(parts[many[0]].names)}"
            + (" and ignored pixels" if parts[many[0]].ignored else "")
            + "; where classes have folders of their own, each mask must hold two values"
        )
    return Labels(
        values=tuple(part.values[1] for part in parts.values()),
        names=tuple(parts),
        lookup=(),
        parts=tuple(parts.values()),
        note="; ".join(f"{name}: {part.note}" for name, part in parts.items()),
        table=tuple(
            row.model_copy(update={"name": f"{name}: {row.name}"})
            for name, part in parts.items()
            for row in part.table
        ),
    )


# What the user said


def _named(seen: Evidence, text: str, ignored: set[int], kind: str) -> Labels:
    """`--classes "background=0,nucleus=255"`."""
    names: list[str] = []
    lookup: dict[int, int] = dict.fromkeys(ignored, IGNORE)
    values: list[int] = []
    for part in text.split(","):
        name, equals, word = map(str.strip, part.rpartition("="))
        if not equals or not plain(name):
            raise ConfigError(f"classes {text!r} must look like background=0,nucleus=255")
        own = _numbers(word.replace("|", ","), "classes")
        names.append(name)
        values.append(own[0])
        for value in own:
            if value in lookup:
                raise ConfigError(
                    f"classes {text!r}: {value_word(value, kind)} is given two meanings"
                )
            lookup[value] = len(names) - 1
    if not 2 <= len(names) <= MOST_CLASSES or len(set(names)) < len(names):
        raise ConfigError(f"classes {text!r} must be from 2 to {MOST_CLASSES} different names")
    if not any(value in seen.counts for value, index in lookup.items() if index not in (0, IGNORE)):
        raise ConfigError(
            f"classes {text!r}: but for the background, no mask has any of these values; the "
            f"masks hold {_shares(seen.counts, kind)}"
        )
    strange = {v for v in drawn_values(seen, kind) if v not in lookup}
    common = [v for v in strange if seen.images[v] > seen.masks / 2]
    if common:
        raise MasksError(
            f"value {value_word(common[0], kind)} ({_percent(seen.share(common[:1]))} of the "
            "pixels) is in most masks but is no declared class: name it in --classes, or --ignore "
            "it",
            "undeclared-value",
        )
    labels = Labels(
        values=tuple(values),
        names=tuple(names),
        lookup=tuple(sorted(lookup.items())),
        kind=kind,
    )
    note = _note(seen, values, names, kind, _fronts(seen, labels)) + ASKED
    return labels.model_copy(update={"note": note})


def _chosen(seen: Evidence, foreground: str, ignored: set[int], kind: str) -> Labels:
    """`--foreground 1,2` or `nonzero`: two classes."""
    values = seen.counts.keys() - ignored
    if foreground == "nonzero":
        front = {value for value in values if value != 0}
    else:
        front = set(_numbers(foreground, "foreground"))
    if not front & values or not values - front:
        raise ConfigError(
            f"foreground {foreground!r} would leave one class only; the masks hold "
            f"{_shares(seen.counts, kind)}"
        )
    ground_value = max(values - front, key=lambda v: seen.counts[v])
    front_value = max(front & values, key=lambda v: seen.counts[v])
    if foreground == "nonzero":
        lookup = {ground_value: 0}
    else:
        drawn = values & set(
            drawn_values(seen, kind)
        )  # soft edges and noise go to the nearest of these
        lookup = {value: int(value in front) for value in drawn | front | {ground_value}}
    rest = foreground == "nonzero"
    labels = Labels(
        values=(ground_value, front_value),
        lookup=tuple(sorted((lookup | dict.fromkeys(ignored, IGNORE)).items())),
        others="foreground" if rest else "nearest",
        kind=kind,
    )
    note = _note(seen, labels.values, _NAMES, kind, _fronts(seen, labels), rest=rest) + ASKED
    return labels.model_copy(update={"note": note})


# What the masks say

_NAMES = ("background", "foreground")


def _found(
    seen: Evidence, ignored: set[int], kind: str, palette: tuple[int, ...], *, dark: bool
) -> Labels:
    values = seen.counts.keys() - ignored
    if len(values) <= 1:
        value = value_word(next(iter(values), 0), kind)
        raise MasksError(
            f"all masks hold the single value {value}: there is nothing to learn. "
            "Draw the objects in the masks, or check that the right folder was given",
            "one-value",
        )
    drawn = [v for v in drawn_values(seen, kind) if v not in ignored]
    if are_objects(seen, drawn):
        return _instances(seen, ignored)
    few = 2 <= len(drawn) <= MOST_CLASSES and not photographed(seen, drawn, kind)
    if not few or not labelled(seen, [*drawn, *ignored], kind):
        raise MasksError(
            f"the masks do not look like labels: they hold {_shares(seen.counts, kind)}. Check "
            f"that the right folder was given; {_no_labels_help(kind, seen)}",
            "not-labels",
        )
    if not ignored and kind != "colour" and is_void(seen, drawn):  # #0000ff is 255, too
        ignored = {IGNORE}
    drawn = one_coding(seen, drawn, kind)
    drawn = [v for v in drawn if v not in ignored]
    ground = _background(seen, drawn, kind, palette, dark=dark)
    ordered = [ground, *sorted(v for v in drawn if v != ground)]
    names = _NAMES if len(ordered) == 2 else ("background", *_names(ordered[1:], kind))
    lookup = {value: index for index, value in enumerate(ordered)}
    labels = Labels(
        values=tuple(ordered),
        names=names,
        lookup=tuple(sorted((lookup | dict.fromkeys(ignored, IGNORE)).items())),
        kind=kind,
    )
    return labels.model_copy(update={"note": _found_note(seen, labels, kind)})


def _instances(seen: Evidence, ignored: set[int]) -> Labels:
    ground = 0 if 0 in seen.counts else max(seen.counts, key=lambda v: seen.counts[v])
    front = seen.counts.keys() - {ground} - ignored
    value = 255 if ground == 0 else max(front)
    labels = Labels(
        values=(ground, value),
        lookup=tuple(sorted(({ground: 0} | dict.fromkeys(ignored, IGNORE)).items())),
        others="foreground",
    )
    return labels.model_copy(update={"note": _objects_note(seen, labels)})


def _background(
    seen: Evidence, drawn: Sequence[int], kind: str, palette: tuple[int, ...], *, dark: bool
) -> int:
    if dark:
        return max(drawn)
    commonest = max(drawn, key=lambda v: seen.counts[v])
    if kind == "palette" and palette[3 * commonest : 3 * commonest + 3] == (0, 0, 0):
        return commonest  # programs that reduce colours give black any index
    if 0 not in drawn and (kind == "colour" or len(drawn) > 2):
        return commonest  # a white page, or 2 of a trimap, say
    return min(drawn)


def _names(values: Sequence[int], kind: str) -> tuple[str, ...]:
    return tuple(f"class {value_word(value, kind)}" for value in values)


# In words


def _objects_note(seen: Evidence, labels: Labels) -> str:
    front = seen.counts.keys() - dict(labels.lookup).keys()
    ground, value = labels.values
    return (
        f"numbered objects (instance ids up to {max(front, default=0)}): every number is "
        f"foreground ({_percent(seen.share(front, rest=True))} of the pixels) and is written as "
        f"{value}, {ground} is background; if they are classes, --classes"
    )


def _no_labels_help(kind: str, seen: Evidence) -> str:
    jpeg = "masks that were saved as JPEG have lost their colours: export them again, as PNG; of "
    colours = "others say which colours are foreground, --foreground '#ff0000'"
    values = "export masks that were saved as JPEG or WebP again, as PNG; " * seen.compressed
    values += "or say which values are foreground, --foreground 255 (or several, 1,2), or "
    return jpeg + colours if kind == "colour" else f"{values}--foreground nonzero for all but 0"


def _found_note(seen: Evidence, labels: Labels, kind: str) -> str:
    known = dict(labels.lookup)
    others = [v for v in seen.counts if v not in known]
    fronts = _fronts(seen, labels)
    note = _note(seen, labels.values, labels.names, kind, fronts)
    if labels.ignored:
        words = _words([value_word(value, kind) for value in labels.ignored])
        note += f"; {words} {'is' if len(labels.ignored) == 1 else 'are'} ignored"
    if others:
        amount = _percent(seen.share(others, rest=True))
        note += (
            f"; {len(others)} other values ({amount} of the pixels: soft edges, compression) go to "
            "the nearest"
        )
    if may_be_objects(seen, labels.values):
        note += "; if these are numbers of objects and no classes, --foreground nonzero"
    share = seen.class_share(fronts[1]) if len(labels.names) == 2 else 0.0
    if share > 0.5 and kind != "colour":
        other = "dark" if labels.values[1] > labels.values[0] else "bright"
        note += (
            f"; more than half is foreground: if that is the wrong way round, --foreground {other}"
        )
    return note


def _fronts(seen: Evidence, labels: Labels) -> dict[int, set[int]]:
    """The values of each class, those between with the class that they go to."""
    fronts: dict[int, set[int]] = {index: set() for index in range(len(labels.values))}
    values = np.array(list(seen.counts), np.int64)
    for value, index in zip(values.tolist(), labels.classes(values).tolist(), strict=True):
        fronts.setdefault(index, set()).add(value)
    return fronts


def _note(
    seen: Evidence,
    values: Sequence[int],
    names: Sequence[str],
    kind: str,
    fronts: Mapping[int, Collection[int]] | None = None,
    *,
    rest: bool = False,
) -> str:
    """Which value is which class, with its share; `rest`: values that were not kept, too."""
    words = [f"{value_word(values[0], kind)} is {names[0]}"]
    for index, (value, name) in enumerate(zip(values[1:], names[1:], strict=True), 1):
        front = (fronts or {}).get(index, (value,))
        share = seen.share(front, rest=True) if rest else seen.class_share(front)
        words.append(f"{value_word(value, kind)} is {name} ({_percent(share)} of the pixels)")
    return ", ".join([*words[1:], words[0]] if len(words) == 2 else words)


def _table(seen: Evidence, labels: Labels, kind: str) -> tuple[Row, ...]:
    """A line for each value of the lookup, and one for the rest."""
    known = dict(labels.lookup)

    def row(word: str, name: str, values: Collection[int], *, rest: bool = False) -> Row:
        images = max((seen.images.get(v, 0) for v in values), default=0)
        return Row(value=word, name=name, share=seen.share(values, rest=rest), images=images)

    order = sorted(known, key=lambda v: (known[v], v))
    rows = [
        row(value_word(v, kind), "ignored" if known[v] == IGNORE else labels.names[known[v]], [v])
        for v in order
    ]
    others = [v for v in seen.counts if v not in known]
    if others:
        if labels.others == "foreground":
            rows.append(row("every other value", labels.names[1], others, rest=True))
        else:
            word = f"{len(others)} other values"
            rows.append(row(word, "the nearest of these", others, rest=True))
    return tuple(rows)


def _numbers(text: str, option: str) -> list[int]:
    """Values of "255", "1,2" or "#ff0000"."""
    try:
        return [
            int(part.lstrip("#"), 16 if part.startswith("#") else 10)
            for part in text.replace(" ", "").split(",")
        ]
    except ValueError:
        choices = "bright, dark, nonzero or values" if option == "foreground" else "values"
        raise ConfigError(
            f"{option} {text!r} must be {choices} such as 255 or 1,2 (#ff0000 for a colour)"
        ) from None


def _shares(counts: Mapping[int, int], kind: str) -> str:
    total = sum(counts.values())
    common = sorted(counts, key=lambda v: -counts[v])[:6]
    words = ", ".join(f"{value_word(v, kind)} ({_percent(counts[v] / total)})" for v in common)
    return words + (f" and {len(counts) - 6} more values" if len(counts) > 6 else "")


def _words(names: Sequence[str]) -> str:
    return ", ".join(names)


def value_word(value: int, kind: str) -> str:
    """A mask value as people write it: a number, or #rrggbb."""
    return f"#{value:06x}" if kind == "colour" else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
