"""What the numbers in a mask mean: from the values found in all masks to classes, and back.

Two classes for now, in any coding: {0,255}, {0,1}, two colours, palette indices, anti-aliased or
JPEG-noised greys. Where the values look like something else, the error says what and how to go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from contorno.errors import ConfigError, InputError
from contorno.images import RawMask, write_mask

Array = NDArray[Any]
_EDGE = 0.15  # of the value range: greys this near to an extreme count as that extreme
_PEAK = 0.05  # of the pixels that are not background: a grey with more is a class of its own
_SPAN = 32  # greys: closer together, many values are numbered classes or objects, not soft edges
_BIMODAL = 0.4  # of the pixels above the dark extreme: less at the bright one are no two classes


class Labels(BaseModel):
    """How masks were read and are written.

    Args:
        values: value written for each class, background first.
        names: name of each class.
        threshold: grey masks: values of at least this are bright; None: compare for equality.
        bright: whether bright is foreground where there is a threshold.
        foreground: values that are foreground where there is no threshold.
        known: all values seen, where there is no threshold.
        kind: "grey", "palette" or "colour" (values are 0xRRGGBB).
        palette: RGB triples, flattened, of a palette mask.
        note: the decision in words.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[int, ...] = (0, 255)
    names: tuple[str, ...] = ("background", "foreground")
    threshold: float | None = 127.5
    bright: bool = True
    foreground: tuple[int, ...] = (255,)
    known: tuple[int, ...] = ()
    kind: Literal["grey", "palette", "colour"] = "grey"
    palette: tuple[int, ...] = ()
    note: str = "0 is background, 255 is foreground"

    def classes(self, values: Array) -> Array:
        """Mask values (H, W) to class indices (H, W) uint8."""
        if self.threshold is not None:
            return np.asarray((values >= self.threshold) == self.bright, np.uint8)
        if self.foreground == ():
            return np.asarray(values != self.values[0], np.uint8)
        return np.isin(values, self.foreground).astype(np.uint8)

    def written(self, classes: Array) -> Array:
        """Class indices (H, W) to the user's own values (H, W), in the smallest type."""
        largest = max(self.values)
        kind = np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.int32
        return np.asarray(self.values, kind)[classes]

    def reads(self, counts: Mapping[int, int]) -> bool:
        """Whether these values are coded as the masks that the labels were decided on."""
        known = {*self.values, *self.foreground, *self.known}
        if set(counts) <= known:
            return True
        if self.threshold is None:
            return self.foreground == () and self.values[0] in counts  # any number but background's
        low, high = min(self.values), max(self.values)
        return min(counts) >= low and max(counts) <= high and max(counts) >= self.threshold


def misread(labels: Labels, counts: Mapping[int, int]) -> bool:
    """Whether a mask of two values would become one class: coded otherwise than the rest."""
    if labels.threshold is None or len(counts) != 2:
        return False  # with more values it may be the noise of an empty JPEG mask
    return len(set(labels.classes(np.array(list(counts))).tolist())) == 1


def classify(probabilities: Array, threshold: float) -> Array:
    """Probabilities (K, H, W) to class indices (H, W) uint8: threshold if K = 1, else largest."""
    if len(probabilities) == 1:
        return np.asarray(probabilities[0] >= threshold, np.uint8)
    return np.asarray(probabilities.argmax(axis=0), np.uint8)


def write_prediction(
    path: Path, classes: Array, labels: Labels, *, text: dict[str, str] | None = None
) -> None:
    """Write class indices (H, W) as PNG in the values of the masks that the model learnt from."""
    write_mask(path, labels.written(classes), kind=labels.kind, palette=labels.palette, text=text)


def count_values(mask: RawMask) -> dict[int, int]:
    """How many pixels each value has."""
    values, counts = np.unique(mask.values, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def add_counts(total: dict[int, int], counts: Mapping[int, int]) -> None:
    """Add the counts of one mask to the total."""
    for value, count in counts.items():
        total[value] = total.get(value, 0) + count


def decide(
    counts: Mapping[int, int],
    *,
    foreground: str = "bright",
    kind: str = "grey",
    palette: tuple[int, ...] = (),
) -> Labels:
    """Decide from the values of all masks which are background and which foreground.

    Args:
        counts: pixels of each value, over all masks.
        foreground: "bright", "dark", "nonzero", or values such as "2,3" ("#ff0000" for colours).
        kind: as `RawMask.kind`, the same for all masks.
        palette: of palette masks.

    Raises:
        InputError: one value only, or values that are not two classes, with the shares found; or
            values that no PNG can hold.
        ConfigError: `foreground` names values that no mask has.
    """
    labels = _decided(counts, foreground, kind, palette)
    beyond = [v for v in labels.values if not 0 <= v <= 65535]
    if kind == "grey" and beyond:
        raise InputError(
            f"mask value {beyond[0]} cannot be written into a PNG mask: grey values must "
            "be from 0 to 65535. Save the masks with such values, for example 0 and 255"
        )
    return labels


def _decided(
    counts: Mapping[int, int], foreground: str, kind: str, palette: tuple[int, ...]
) -> Labels:
    if foreground not in ("bright", "dark"):
        return _chosen(counts, foreground, kind, palette)
    if len(counts) == 1:
        value = next(iter(counts))
        raise InputError(
            f"all masks hold the single value {_word(value, kind)}: there is nothing to learn. "
            "Draw the objects in the masks, or check that the right folder was given"
        )
    low, high = min(counts), max(counts)
    bright = foreground == "bright"
    if len(counts) == 2:
        ground, front = (low, high) if bright else (high, low)
        note = _note(counts, {front}, ground, front, kind)
        return Labels(
            values=(ground, front),
            threshold=(low + high) / 2 if kind == "grey" else None,
            bright=bright,
            foreground=(front,),
            kind=kind,
            palette=palette,
            note=note,
        )
    if kind != "grey":
        raise InputError(_several(counts, kind))
    return _grey(counts, bright=bright)


def _grey(counts: Mapping[int, int], *, bright: bool) -> Labels:
    """Many greys: two classes with soft or noisy edges, or an error."""
    low, high = min(counts), max(counts)
    span, middle = high - low, (high + low) / 2
    dark = sum(n for v, n in counts.items() if v <= low + _EDGE * span)
    light = sum(n for v, n in counts.items() if v >= high - _EDGE * span)
    rest = sum(counts.values()) - dark - light
    minority = max(min(dark, light) + rest, 1)
    between = {v: n for v, n in counts.items() if low + _EDGE * span < v < high - _EDGE * span}
    peaks = [v for v, n in between.items() if n > _PEAK * minority and _stands_out(v, between)]
    drawn = span < _SPAN or (len(counts) == 3 and min(counts.values()) > _PEAK * minority)
    if drawn or peaks or min(dark, light) < _BIMODAL * minority:
        raise InputError(_several(counts, "grey"))
    front = {v for v in counts if (v >= middle) == bright}
    ground_value, front_value = (low, high) if bright else (high, low)
    note = (
        f"{len(counts)} grey values, cut at {middle:g} (anti-aliased or compressed masks); "
        + _note(counts, front, ground_value, front_value, "grey")
    )
    return Labels(
        values=(ground_value, front_value),
        threshold=middle,
        bright=bright,
        foreground=(front_value,),
        note=note,
    )


def _stands_out(value: int, counts: Mapping[int, int]) -> bool:
    """Whether a grey is far more frequent than the ten around it, as a drawn class is."""
    around = [counts.get(value + d, 0) for d in range(-5, 6) if d]
    return counts[value] > 8 * float(np.mean(around))


def _chosen(
    counts: Mapping[int, int], foreground: str, kind: str, palette: tuple[int, ...]
) -> Labels:
    """The user named the foreground."""
    if foreground == "nonzero":
        front = {value for value in counts if value != 0}
    else:
        try:
            front = {
                int(part.lstrip("#"), 16 if part.startswith("#") else 10)
                for part in foreground.replace(" ", "").split(",")
            }
        except ValueError:
            raise ConfigError(
                f"foreground {foreground!r} must be bright, dark, nonzero or values such as 255 or "
                "1,2 (#ff0000 for a colour)"
            ) from None
    if not front & set(counts) or not set(counts) - front:
        raise ConfigError(
            f"foreground {foreground!r} would leave one class only; the masks hold "
            f"{_shares(counts, kind)}"
        )
    others = {v: n for v, n in counts.items() if v not in front}
    ground_value = max(others, key=lambda v: others[v])
    front_value = max(front & set(counts), key=lambda v: counts[v])
    return Labels(
        values=(ground_value, front_value),
        threshold=None,
        foreground=() if foreground == "nonzero" else tuple(sorted(front)),
        known=() if foreground == "nonzero" else tuple(sorted(counts)),
        kind=kind,
        palette=palette,
        note=_note(counts, front, ground_value, front_value, kind) + " (as asked)",
    )


def _note(
    counts: Mapping[int, int], front: set[int], ground_value: int, front_value: int, kind: str
) -> str:
    share = sum(counts.get(v, 0) for v in front) / sum(counts.values())
    note = (
        f"{_word(front_value, kind)} is foreground ({_percent(share)} of the pixels), "
        f"{_word(ground_value, kind)} is background"
    )
    if share > 0.5:
        other = "dark" if front_value > ground_value else "bright"
        note += (
            f"; more than half is foreground: if that is the wrong way round, --foreground {other}"
        )
    return note


def _several(counts: Mapping[int, int], kind: str) -> str:
    return (
        f"the masks are not of two classes: they hold {_shares(counts, kind)}. Say which values "
        "are foreground: --foreground 255 (or several, 1,2), or --foreground nonzero for "
        "everything that is not 0 (numbered objects). Several classes at once are not supported yet"
    )


def _shares(counts: Mapping[int, int], kind: str) -> str:
    total = sum(counts.values())
    common = sorted(counts, key=lambda v: -counts[v])[:6]
    words = ", ".join(f"{_word(v, kind)} ({_percent(counts[v] / total)})" for v in common)
    return words + (f" and {len(counts) - 6} more values" if len(counts) > 6 else "")


def _word(value: int, kind: str) -> str:
    return f"#{value:06x}" if kind == "colour" else str(value)


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
