"""Masks of new images: one array, one file, many files.

Sees only an engine's `probabilities`. One bad file is reported and the rest goes on; every output
appears whole or not at all; an output that this very model made before is skipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from contorno.ahead import Behind, in_order
from contorno.card import ModelCard
from contorno.data.agreement import other_units
from contorno.data.facts import usable
from contorno.data.labels import Labels, prediction_paths, write_prediction
from contorno.data.names import picture_name
from contorno.doubt import Doubt, as_text, doubt, from_text, write_list
from contorno.engines import Engine, whole_image
from contorno.errors import InputError, OutOfMemory, Problem
from contorno.files import write_bytes
from contorno.finish import draw, temper
from contorno.images import (
    ImageError,
    as_channels,
    encode_png,
    file_digest,
    png_text,
    read_channels,
    write_probabilities,
)
from contorno.progress import bar

Array = NDArray[Any]
_COLOURS = ((255, 0, 200), (0, 200, 255), (255, 180, 0), (90, 220, 60), (150, 110, 255))
_MARK = "contorno"  # key of the PNG text that names the model and the picture a mask is made of
_DOUBT = "contorno-doubt"  # and of the one that says how far the mask can be trusted


@dataclass
class Outcome:
    """What became of many files.

    Args:
        written, skipped: masks made now, and before.
        problems: of the files that have none.
        doubts: how far each mask can be trusted, by its stem.
    """

    written: list[Path] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    doubts: dict[str, Doubt] = field(default_factory=dict)


def probability_map(engine: Engine, card: ModelCard, image: Array, *, name: str = "image") -> Array:
    """Probabilities (K, H, W) float32 of a picture (H, W[, C]), at the card's temperature.

    Raises:
        ImageError: type, channels or values are not those that the model was made for.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise _unfit(
            name, f"an array of shape {image.shape}", "(H, W) or (H, W, C)", "give one picture"
        )
    given, image, wanted = image.dtype, usable(image), card.preprocessing.dtype
    if str(image.dtype) != wanted:
        raise _unfit(
            name,
            f"an image of type {given}",
            f"{wanted}, as the model was trained on",
            f"convert it to {wanted}, or train a model on images like this one",
        )
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise _unfit(name, "NaN or infinite values", "finite numbers", "replace them")
    low, high = float(image.min()), float(image.max())
    if problem := other_units(card.preprocessing, low, high, name):
        raise ImageError(problem)
    raw = whole_image(engine, as_channels(image, card.network.in_channels, path=name))
    return temper(raw, card)


def read_picture(card: ModelCard, files: Sequence[Path]) -> Array:
    """The picture (H, W, C) of its file, or the files of its channels, as the model wants it."""
    preprocessing = card.preprocessing
    return read_channels(files, pages=preprocessing.pages, upright=preprocessing.upright).array


def predict_files(
    engine: Engine,
    card: ModelCard,
    images: Sequence[tuple[Path, ...]],
    out: Path,
    *,
    fingerprint: str,
    probabilities: str | None = None,
    overlay: bool = False,
    overwrite: bool = False,
    workers: int = 1,
) -> Outcome:
    """Write one mask for each image, named after it, and the list of the most doubtful ones.

    Every mask carries its own row of that list, so that images skipped now stay in it.

    Threads read ahead of the engine and write behind it; at most 2 x `workers` + 4 pictures are in
    memory.

    Args:
        engine, card: the model.
        images: the file, or the files of the channels, of each picture.
        out: folder to write to.
        fingerprint: tells this model and its averaging from others, but not the engine or the
            number format: a folder can be gone on with after `auto` took another. Written into
            every mask, with the picture's.
        probabilities: "png" for 16-bit PNG or "tif" for float32 TIFF, beside the mask.
        overlay: also draw the outline on the picture.
        overwrite: replace whatever stands there.
        workers: threads that read, and as many that write.

    Returns:
        What was written, what was skipped as done before, and the problems.
    """
    outcome = Outcome()
    outputs = partial(_outputs, card, out, probabilities=probabilities, overlay=overlay)
    names = _unique_names(images, card.preprocessing.channels, outputs, outcome.problems)
    tasks = (
        partial(_prepare, card, fingerprint, files, outputs(name), overwrite=overwrite)
        for files, name in names.items()
    )
    ready = in_order(tasks, workers, waiting=workers + 1)
    with bar("Predicting", len(names)) as advance, Behind(workers, waiting=workers + 1) as write:
        for job in ready:
            if isinstance(job, Problem):
                outcome.problems.append(job)
            elif job.image is None:
                outcome.skipped.append(job.target)
                if job.doubt is not None:
                    outcome.doubts[job.target.stem] = job.doubt
            else:
                _predict(engine, card, job, write, outcome)
            advance()
    if outcome.doubts:
        try:
            write_list(out, outcome.doubts)
        except InputError as error:
            outcome.problems += error.problems
    return outcome


@dataclass(frozen=True)
class _Outputs:
    """The files that are to be made of one picture.

    Args:
        target: the mask, or where overlapping classes have folders, their common name.
        masks: its files.
        maps: files of probabilities, one for each output of the network.
        overlay: file of the picture with outlines, or None.
    """

    target: Path
    masks: list[Path]
    maps: list[Path]
    overlay: Path | None

    @property
    def all(self) -> list[Path]:
        return [*self.masks, *self.maps, *([self.overlay] if self.overlay else [])]


def _outputs(
    card: ModelCard, out: Path, name: str, *, probabilities: str | None, overlay: bool
) -> _Outputs:
    target = out / f"{name}.png"
    drawn = target.with_name(f"{target.stem}_overlay.png") if overlay else None
    masks, maps = prediction_paths(target, card.labels), _map_paths(target, card, probabilities)
    return _Outputs(target, masks, maps, drawn)


@dataclass(frozen=True)
class _Job:
    """A picture that is read, and the files that are to be made of it.

    Args:
        name: of the picture's file, for people.
        files: to be made.
        text: what the files say of their making.
        image: (H, W, C), or None where everything was made before.
        doubt: of the mask that was made before, if it says so.
    """

    name: str
    files: _Outputs
    text: dict[str, str]
    image: Array | None
    doubt: Doubt | None = None

    @property
    def target(self) -> Path:
        return self.files.target


def _prepare(
    card: ModelCard,
    fingerprint: str,
    files: tuple[Path, ...],
    outputs: _Outputs,
    *,
    overwrite: bool,
) -> _Job | Problem:
    """Read a picture, unless all that is wanted of it is there, or say what is wrong."""
    wanted = outputs.all
    try:
        for path in files:
            _refuse_itself(path, wanted)
        mark = " ".join([fingerprint, *(file_digest(path)[:16] for path in files)])
        there = [] if overwrite else [file for file in wanted if file.exists()]
        for file in there:
            _done_before(file, mark)
        image = None if there == wanted else read_picture(card, files)
    except ImageError as error:
        return error.problem
    before = png_text(wanted[0]).get(_DOUBT) if image is None else None
    return _Job(str(files[0]), outputs, {_MARK: mark}, image, from_text(before))


def _predict(engine: Engine, card: ModelCard, job: _Job, write: Behind, outcome: Outcome) -> None:
    assert job.image is not None
    try:
        found = probability_map(engine, card, job.image, name=job.name)
    except ImageError as error:
        outcome.problems.append(error.problem)
    except OutOfMemory as error:
        fix = "cut it into pieces, or use --device cpu"
        outcome.problems.append(Problem(job.name, str(error), "a smaller image", fix))
    else:
        write(partial(_write, card, job, found, outcome.doubts))
        outcome.written.append(job.target)


def _write(card: ModelCard, job: _Job, found: Array, doubts: dict[str, Doubt]) -> None:
    """The mask goes last: while it is missing, the image counts as not done."""
    assert job.image is not None
    classes = draw(found, card)
    seen = as_channels(usable(job.image), card.network.in_channels)
    row = doubt(seen, found, classes, card)
    for path, one in zip(job.files.maps, found, strict=False):
        write_probabilities(path, one, text=job.text)
    if job.files.overlay is not None:
        picture = draw_outline(job.image, classes, card.labels)
        write_bytes(job.files.overlay, encode_png(picture, text=job.text))
    text = job.text | {_DOUBT: as_text(row)}
    write_prediction(job.target, classes, card.labels, text=text)
    doubts[job.target.stem] = row


def draw_outline(image: Array, classes: Array, labels: Labels) -> Image.Image:
    """The picture in 8-bit colour with the outline of each class in a colour, 2 pixels wide."""
    shown = image[:, :, :3] if image.shape[2] >= 3 else np.repeat(image[:, :, :1], 3, axis=2)
    if shown.dtype != np.uint8:
        low, high = np.percentile(shown, (1, 99))
        shown = ((shown - low) / max(high - low, 1e-9)).clip(0, 1) * 255
    shown = shown.astype(np.uint8).copy()
    for layer, colour in zip(labels.layers(classes), cycle(_COLOURS), strict=False):
        inside = np.pad(layer, 1, mode="edge")  # the image's own rim is no outline
        rim = inside & ~ndimage.binary_erosion(inside, iterations=2, border_value=1)
        shown[rim[1:-1, 1:-1]] = colour
    return Image.fromarray(shown)


def _map_paths(target: Path, card: ModelCard, probabilities: str | None) -> list[Path]:
    """Files of probabilities, one for each output of the network."""
    if probabilities is None:
        return []
    classes = card.network.out_channels
    named = len(card.labels.names) == classes
    names = card.labels.names if named else range(classes)
    marks = [""] if classes == 1 else [f"_{name}".replace(" ", "-") for name in names]
    if len({*marks}) < classes:  # "a b" and "a-b"
        marks = [f"_{name}" for name in names]
    return [target.with_name(f"{target.stem}_probability{mark}.{probabilities}") for mark in marks]


def _unique_names(
    images: Sequence[tuple[Path, ...]],
    channels: Sequence[str],
    outputs: Callable[[str], _Outputs],
    problems: list[Problem],
) -> dict[tuple[Path, ...], str]:
    """Output stems; no file of one picture takes the place of another's, or of a picture."""
    resolved = cache(Path.resolve)
    folders = {resolved(file.parent) for file in outputs("name").all}
    places = (resolved(path.parent) / path.name for files in images for path in files)
    pictures = {place for place in places if place.parent in folders}
    taken: dict[Path, Path] = {}
    names = {}
    for files in images:
        name = picture_name(files, channels)
        wanted = outputs(name).all
        own = {resolved(path.parent) / path.name for path in files}
        replaced = {resolved(file.parent) / file.name for file in wanted} & pictures - own
        if clash := next((file for file in wanted if file in taken), None):
            problems.append(_one_place(files[0], clash, taken[clash]))
        elif replaced:
            problems.append(_one_place(files[0], min(replaced), min(replaced)))
        else:
            taken |= dict.fromkeys(wanted, files[0])
            names[files] = name
    return names


def _one_place(image: Path, file: Path, other: Path) -> Problem:
    what = f"would take the place of {other}" if file == other else f"is one for {other} as well"
    return Problem(
        str(image),
        f"{file.name}, which is to be made of it, {what}",
        "one name for each file",
        "use another --out, or predict the two into different folders",
    )


def _refuse_itself(image: Path, wanted: list[Path]) -> None:
    """No option makes a picture be replaced by its own mask."""
    if image.resolve() in [file.resolve() for file in wanted]:
        raise _unfit(
            str(image),
            "the picture itself stands where its mask would be written",
            "another folder",
            "use another --out",
        )


def _mark(file: Path) -> str | None:
    """What names the model that a PNG or TIFF was made by."""
    if file.suffix == ".png":
        return png_text(file).get(_MARK)
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            page: Any = tiff.pages[0]
            return json.loads(page.description).get(_MARK)  # type: ignore[no-any-return]
    except (tifffile.TiffFileError, ValueError, AttributeError, OSError):
        return None  # no TIFF, or a description that is no such document


def drawn_into(out: Path, file: Path) -> bool:
    """Whether a file is one that predict wrote into this folder before."""
    own = file.suffix in (".png", ".tif") and file.parent.resolve() == out.resolve()
    return own and file.is_file() and _mark(file) is not None


def _done_before(target: Path, mark: str) -> None:
    if _mark(target) != mark:
        raise _unfit(
            str(target),
            "a file that this model did not make of this picture",
            "a free name, or what this model made of it",
            "use another --out, or --overwrite to replace it",
        )


def _unfit(path: str, what: str, expected: str, fix: str) -> ImageError:
    return ImageError(Problem(path, what, expected, fix))
