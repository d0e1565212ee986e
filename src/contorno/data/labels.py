"""What the numbers in a mask mean: from values to classes, and back for writing.

A class map is (H, W) uint8. Where classes exclude each other it holds the class's index, background
being 0, and `IGNORE` where nothing is to be learnt or scored. Where classes overlap (masks in
several folders) bit k is set where class k is. How values become classes is decided in `coding`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, field_validator

from contorno.images import RawMask, write_mask

Array = NDArray[Any]
_LARGEST = {"grey": 65_535, "palette": 255, "colour": 0xFFFFFF}  # values that a PNG holds
IGNORE = 255  # in a class map of exclusive classes
MOST_CLASSES = 64  # exclusive ones: more are surely numbered objects
ASKED = " (as asked)"  # ends the note on what the user decided
MOST_LAYERS = 8  # overlapping ones: a class map has eight bits


class Row(BaseModel):
    """One line of the table that shows how masks were understood.

    Args:
        value: grey value or index, or #rrggbb.
        name: of the class, or "ignored", or what else becomes of such pixels.
        share: of all pixels, 0 to 1.
        images: in how many masks.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    value: str
    name: str
    share: float
    images: int


class Labels(BaseModel):
    """How masks were read and are written.

    Args:
        values: value written for each class, background first.
        names: name of each class.
        lookup: pairs of mask value and class index, or `IGNORE`.
        others: what a value that is not in `lookup` is: "nearest" in value to, or "foreground".
        kind: "grey", "palette" or "colour" (values are 0xRRGGBB).
        palette: RGB triples, flattened, of a palette mask.
        parts: overlapping classes: the labels of each class's own masks, in order; the rest of the
            fields then has one entry for each class and no background.
        note: the decision in words.
        table: the decision with its evidence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[int, ...] = (0, 255)
    names: tuple[str, ...] = ("background", "foreground")
    lookup: tuple[tuple[int, int], ...] = ((0, 0), (255, 1))
    others: Literal["nearest", "foreground"] = "nearest"
    kind: Literal["grey", "palette", "colour"] = "grey"
    palette: tuple[Annotated[int, Field(ge=0, le=255)], ...] = ()
    parts: tuple[Labels, ...] = ()
    note: str = "0 is background, 255 is foreground"
    table: tuple[Row, ...] = ()

    @field_validator("names")
    @classmethod
    def _names_are_plain(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        """Names become folders and parts of file names: they must not lead anywhere else."""
        for name in names:
            if not plain(name):
                raise ValueError(f"class name {name!r} cannot be part of a file name")
        if len(set(names)) < len(names):
            raise ValueError("two classes have one name")
        return names

    @property
    def multilabel(self) -> bool:
        """Whether classes may overlap."""
        return bool(self.parts)

    @property
    def channels(self) -> int:
        """Outputs that a network needs: one for two classes, else one for each class."""
        count = len(self.names)
        return 1 if count == 2 and not self.multilabel else count

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the classes that are looked for: all but background."""
        return self.names if self.multilabel else self.names[1:]

    @property
    def asked(self) -> bool:
        """Whether the user said which value is which class."""
        return self.note.endswith(ASKED)

    @property
    def ignored(self) -> tuple[int, ...]:
        """Mask values that are neither learnt nor scored."""
        return tuple(value for value, index in self.lookup if index == IGNORE)

    @property
    def most(self) -> int:
        """The largest value that a PNG of this kind holds."""
        return _LARGEST[self.kind]

    @property
    def beyond(self) -> list[int]:
        """Values to be written that no such PNG holds."""
        return [value for value in (*self.values, *self.ignored) if not 0 <= value <= self.most]

    def layers(self, classes: Array) -> Iterator[Array]:
        """For each scored class, where it is in a class map: boolean (H, W)."""
        for index in range(len(self.scored)):
            yield (classes >> index & 1).astype(bool) if self.multilabel else classes == index + 1

    def valid(self, classes: Array) -> Array | None:
        """Where a class map is to be scored, boolean (H, W); None: everywhere."""
        return None if self.multilabel or not self.ignored else classes != IGNORE

    def classes(self, values: Array) -> Array:
        """Values of one mask (H, W) to a class map (H, W); of exclusive classes only."""
        if values.dtype == np.uint8:
            return np.asarray(self._table[values])
        known, index = self._known
        place = np.searchsorted(known, values).clip(max=len(known) - 1)
        result = index[place]
        strange = known[place] != values
        if strange.any():
            found, back = np.unique(values[strange], return_inverse=True)
            result[strange] = self._strange(found)[back]
        return np.asarray(result)

    def combined(self, maps: list[Array]) -> Array:
        """Class map of overlapping classes from the class map of each."""
        bits = [(one == 1).astype(np.uint8) << k for k, one in enumerate(maps)]
        return np.asarray(np.bitwise_or.reduce(bits))

    def written(self, classes: Array) -> Array:
        """Class map (H, W) to the user's own values (H, W), in the smallest type.

        What is ignored becomes the first ignored value. Exclusive classes only.
        """
        largest = max(*self.values, *self.ignored)
        kind = np.uint8 if largest < 256 else np.uint16 if largest < 65536 else np.int32
        table = np.full(256, self.ignored[0] if self.ignored else self.values[0], kind)
        table[: len(self.values)] = self.values
        written: Array = table[classes]
        return written

    def reads(self, counts: Mapping[int, int]) -> bool:
        """Whether these values are coded as the masks that the labels were decided on."""
        known = dict(self.lookup)
        if set(counts) <= set(known):
            return True
        if self.others == "foreground":
            return bool(known.keys() & counts.keys())  # any number but the background's
        if self.kind == "palette" or len(self.table) == len(known):
            return False  # only the values of the classes were ever seen
        low, high = min(known), max(known)
        return all(low <= value <= high for value in counts) and any(
            known.get(v, 0) for v in counts
        )

    @cached_property
    def _known(self) -> tuple[Array, Array]:
        """Values of the lookup in order, and their classes."""
        pairs = np.array(sorted(self.lookup), np.int64)
        return pairs[:, 0], pairs[:, 1].astype(np.uint8)

    @cached_property
    def _table(self) -> Array:
        """Class of every 8-bit value."""
        table = self._strange(np.arange(256))
        for value, index in self.lookup:
            if value < 256:
                table[value] = index
        return table

    def _strange(self, values: Array) -> Array:
        """Classes (n,) of values (n,) that are not in the lookup."""
        if self.others == "foreground":
            return np.ones(len(values), np.uint8)
        kept = [(value, index) for value, index in sorted(self.lookup) if index != IGNORE]
        anchors = np.array([value for value, _ in kept], np.int64)
        index = np.array([index for _, index in kept], np.uint8)
        away = distance(values[:, None].astype(np.int64), anchors[None], self.kind)  # (n, K)
        # Of two as near, the higher, as `value >= middle` does.
        return np.asarray(index[len(anchors) - 1 - away[:, ::-1].argmin(axis=1)])


def require_drawable(labels: Labels) -> None:
    """Raise ValueError for labels that no mask can be written or read with."""
    if labels.parts and len(labels.parts) != len(labels.names):
        raise ValueError(f"{len(labels.parts)} parts for {len(labels.names)} classes")
    for part in labels.parts or (labels,):
        classes = len(part.names)
        if classes < 2 or (labels.parts and classes > 2) or len(part.values) != classes:
            raise ValueError(f"{len(part.values)} values and {classes} names of classes")
        if beyond := part.beyond:
            raise ValueError(f"value {beyond[0]}, which no {part.kind} mask has (0 to {part.most})")
        known = {index for _, index in part.lookup} - {IGNORE}
        if not known or not known <= set(range(classes)):
            raise ValueError(f"lookup to classes {sorted(known)}, which are 0 to {classes - 1}")
        if any(abs(value) >= 2**31 for value, _ in part.lookup):
            raise ValueError("lookup of values beyond 32 bits")


def plain(name: str) -> bool:
    """Whether a class name can be a folder and part of a file name, and leads nowhere else."""
    return bool(name.strip(". ")) and not set(name) & set("/\\\0")


def distance(a: Array, b: Array, kind: str) -> Array:
    """How far mask values are apart: of colours, the largest difference of a channel."""
    if kind != "colour":
        return np.asarray(np.abs(a - b))
    channels = [np.abs((a >> s & 255) - (b >> s & 255)) for s in (16, 8, 0)]
    return np.asarray(np.max(channels, axis=0))


def misread(labels: Labels, counts: Mapping[int, int]) -> bool:
    """Whether a mask of two values would become one class: coded otherwise than the rest."""
    if labels.others != "nearest" or len(counts) != 2 or set(counts) <= dict(labels.lookup).keys():
        return False  # with more values it may be the noise of an empty JPEG mask
    return len(set(labels.classes(np.array(list(counts))).tolist())) == 1


def classify(probabilities: Array, labels: Labels, thresholds: float | Sequence[float]) -> Array:
    """Probabilities (K, H, W) to a class map (H, W).

    A threshold, one for all classes or one for each, decides where a class has a probability of its
    own (two classes, overlapping classes), the largest probability where classes exclude each
    other.
    """
    # A threshold of double precision compared with float32: 0.3 itself would not reach 0.3.
    least = np.broadcast_to(np.asarray(thresholds, np.float32), len(labels.scored))
    if labels.multilabel:
        both = zip(probabilities, least, strict=True)
        return labels.combined([np.asarray(one >= limit, np.uint8) for one, limit in both])
    if len(probabilities) == 1:
        return np.asarray(probabilities[0] >= least[0], np.uint8)
    return np.asarray(probabilities.argmax(axis=0), np.uint8)


def prediction_paths(path: Path, labels: Labels) -> list[Path]:
    """Files that the prediction `path` stands for: a folder for each class where they overlap."""
    if not labels.multilabel:
        return [path]
    return [path.parent / name / path.name for name in labels.names]


def write_prediction(
    path: Path, classes: Array, labels: Labels, *, text: dict[str, str] | None = None
) -> None:
    """Write a class map as PNG in the values of the masks that the model learnt from."""
    if not labels.multilabel:
        values, kind = labels.written(classes), labels.kind
        write_mask(path, values, kind=kind, palette=labels.palette, text=text)
        return
    layers = zip(prediction_paths(path, labels), labels.parts, labels.layers(classes), strict=True)
    for file, part, layer in layers:
        write_prediction(file, layer.astype(np.uint8), part, text=text)


def count_values(mask: RawMask) -> dict[int, int]:
    """How many pixels each value has."""
    if mask.values.dtype == np.uint8 and mask.values.size:
        flat = np.ascontiguousarray(mask.values).reshape(1, -1)
        eight = Image.fromarray(flat).histogram()  # half the time of np.bincount, without the GIL
        return {value: count for value, count in enumerate(eight) if count}
    values, counts = np.unique(mask.values, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))
