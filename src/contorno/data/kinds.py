"""Masks of one kind: grey, palette or colour, of one palette and one unit.

A mask of another kind than most is left out, or read as one of theirs where its values say how.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from contorno.data.evidence import MaskFacts
from contorno.data.facts import Facts, Good
from contorno.errors import Problem


def of_one_kind(good: Good, problems: list[Problem], layer: int, kind: str | None) -> Good:
    """Keep the pairs whose masks can be read as those of most, and read them so.

    Args:
        good: all pairs.
        problems: take those of the masks that are left out.
        layer: which of each pair's masks.
        kind: of masks of one value each, which have none of their own; grey when None.
    """
    good = _one_kind(good, problems, layer, kind)
    good = _one_palette(good, problems, layer)
    return _one_unit(good, layer)


def _one_kind(good: Good, problems: list[Problem], layer: int, kind: str | None) -> Good:
    """Leave out masks of another kind than most; bring those without any colour in line."""
    masks = [facts.masks[layer] for _, facts in good]
    mixed = _greys_are_colours(masks)
    kind = "colour" if mixed else common_kind(masks, kind or "grey")
    palette = max((mask.palette for mask in masks), key=len, default=())
    kept = []
    for pair, facts in good:
        mask = facts.masks[layer]
        if mask.kind != kind:
            grey_colours = mask.kind == "grey" and kind == "colour" and (mixed or mask.coloured)
            mask_as = _as_kind(mask, kind) if len(mask.counts) == 1 or grey_colours else None
            if kind == "palette" and _is_elsewhere(mask, palette):
                mask_as = None
            if mask_as is None:
                problems.append(
                    Problem(
                        str(pair.masks[layer]),
                        f"a {mask.kind} mask",
                        f"a {kind} mask, as most of the others",
                        "save it like those",
                        "mixed-kinds",
                    )
                )
                continue
            mask = mask_as
        kept.append((pair, _with_mask(facts, layer, mask)))
    return kept


def _as_kind(mask: MaskFacts, kind: str) -> MaskFacts | None:
    """A mask as one of another kind; None where a value cannot be."""
    if mask.kind == "colour" or kind == "palette":
        return mask
    new = {value: _value_as(kind, value, mask.kind, mask.palette) for value in mask.counts}
    if None in new.values():
        return None
    return _renamed(replace(mask, kind=kind), lambda value: new.get(value) or 0)


def _is_elsewhere(mask: MaskFacts, palette: tuple[int, ...]) -> bool:
    """Whether a grey of a palette has another index than its value: which is meant is not told."""
    colours = [palette[at : at + 3] for at in range(0, len(palette), 3)]
    return mask.kind == "grey" and any(
        0 <= value < len(colours) and (value,) * 3 in colours and colours[value] != (value,) * 3
        for value in mask.counts
    )


def _renamed(mask: MaskFacts, new: Callable[[int], int]) -> MaskFacts:
    counts, near, solid, between = (
        {new(value): number for value, number in part.items()}
        for part in (mask.counts, mask.near, mask.solid, mask.between)
    )
    return replace(mask, counts=counts, near=near, solid=solid, between=between)


def _with_mask(facts: Facts, layer: int, mask: MaskFacts) -> Facts:
    return replace(facts, masks=tuple(mask if i == layer else m for i, m in enumerate(facts.masks)))


def _one_unit(good: Good, layer: int) -> Good:
    """Where some masks of floats from 0 to 1 have soft edges, 1 means the same in the others."""
    units = {facts.masks[layer].unit for _, facts in good}
    if units != {1, 255}:
        return good
    return [
        (pair, _with_mask(facts, layer, _in_levels(facts.masks[layer]))) for pair, facts in good
    ]


def _in_levels(mask: MaskFacts) -> MaskFacts:
    if mask.unit == 255:
        return mask
    return _renamed(replace(mask, unit=255), lambda value: 255 * value)


def _greys_are_colours(masks: Sequence[MaskFacts]) -> bool:
    """Whether the greys of masks without colour are among the colours of the others."""
    colours = {value for mask in masks if mask.kind == "colour" for value in mask.counts}
    greys = {value * 0x010101 for mask in masks if mask.kind == "grey" for value in mask.counts}
    return bool(colours) and bool(greys) and greys <= colours


def _one_palette(good: Good, problems: list[Problem], layer: int) -> Good:
    """Leave out masks whose palette holds the others' colours in another order.

    Indices are what counts; but white as 0 in one mask and as 1 in the rest is surely no choice.
    """
    own_of = [_indices(facts.masks[layer]) for _, facts in good]
    votes: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for own in own_of:
        for colour, index in own.items():
            votes[colour][index] += 1
    index_of = {colour: counted.most_common(1)[0][0] for colour, counted in votes.items()}
    kept = []
    for (pair, facts), own in zip(good, own_of, strict=True):
        moved = [c for c, index in own.items() if index_of.get(c, index) != index]
        if moved:
            problems.append(
                Problem(
                    str(pair.masks[layer]),
                    f"a palette in which colour {moved[0]} is index {own[moved[0]]}",
                    f"index {index_of[moved[0]]}, as in the other masks",
                    "save all masks with one palette, or as grey values",
                    "mixed-palette",
                )
            )
            continue
        kept.append((pair, facts))
    return kept


def _indices(mask: MaskFacts) -> dict[tuple[int, ...], int]:
    """Index of each colour that a palette mask uses, of colours that have one index only."""
    colours = [mask.palette[at : at + 3] for at in range(0, len(mask.palette), 3)]
    times = Counter(colours)
    used = [index for index in mask.counts if 0 <= index < len(colours)]
    return {colours[index]: index for index in used if times[colours[index]] == 1}


def _value_as(kind: str, value: int, own: str, palette: Sequence[int]) -> int | None:
    """The value of a grey or palette mask as masks of colours, or greys, hold it; None if not."""
    if own == "grey":
        return value * 0x010101 if 0 <= value <= 255 else None
    if 3 * value + 3 > len(palette):
        return value
    red, green, blue = palette[3 * value : 3 * value + 3]
    if kind == "colour":
        return red << 16 | green << 8 | blue
    return red if red == green == blue else None


def common_kind(masks: Iterable[MaskFacts], default: str) -> str:
    """The commonest kind of mask; one of a single value tells nothing, whatever it is saved as."""
    kinds = Counter(mask.kind for mask in masks if len(mask.counts) > 1).most_common(1)
    return kinds[0][0] if kinds else default
