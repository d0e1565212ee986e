"""Masks of new images: one array, one file, many files.

Sees only an engine's `probabilities`. One bad file is reported and the rest goes on; every output
appears whole or not at all; an output that this very model made before is skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from contorno.ahead import Behind, grouped, in_order, one_ahead
from contorno.card import ModelCard
from contorno.data.agreement import other_units
from contorno.data.facts import usable
from contorno.data.labels import Labels, write_prediction
from contorno.doubt import Doubt, as_text, doubt, from_text, write_list
from contorno.engines import Engine, whole_image, whole_images
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
from contorno.outputs import (
    MARK,
    Outputs,
    make_folders,
    outputs_of,
    refuse_itself,
    require_own,
    standing,
    unique_names,
)
from contorno.progress import bar

Array = NDArray[Any]
_MOST = 16  # pictures in a pass
_PIXELS = 2**19  # in it: more gain little, and a tile has twice as many
_COLOURS = ((255, 0, 200), (0, 200, 255), (255, 180, 0), (90, 220, 60), (150, 110, 255))
_DOUBT = "contorno-doubt"  # key of the PNG text that says how far the mask can be trusted


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
    return temper(whole_image(engine, _fitting(card, image, name)), card)


def _fitting(card: ModelCard, image: Array, name: str) -> Array:
    """The picture (H, W, C), of the type and channels that the model was made for."""
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
    return as_channels(image, card.network.in_channels, path=name)


def _unfit(path: str, what: str, expected: str, fix: str) -> ImageError:
    return ImageError(Problem(path, what, expected, fix))


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
    memory. Neighbours of one shape go through the engine together while they are small: half a
    megapixel, and 16 pictures, count as one here.

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
    outputs = partial(outputs_of, card, out, probabilities=probabilities, overlay=overlay)
    names = unique_names(images, card.preprocessing.channels, outputs, outcome.problems)
    make_folders(outputs("name").all)
    tasks = (
        partial(_prepare, card, fingerprint, files, outputs(name), overwrite=overwrite)
        for files, name in names.items()
    )
    read = in_order(tasks, workers, waiting=workers)
    ready = one_ahead(grouped(read, partial(_together, card)))
    with bar("Predicting", len(names)) as advance, Behind(workers, waiting=workers + 1) as write:
        for jobs in ready:
            first = jobs[0]  # and only one, where there is nothing to draw
            if isinstance(first, Problem):
                outcome.problems.append(first)
            elif first.image is None:
                outcome.skipped.append(first.target)
                if first.doubt is not None:
                    outcome.doubts[first.target.stem] = first.doubt
            else:
                drawn = [job for job in jobs if isinstance(job, _Job)]
                _predict(engine, card, drawn, write, outcome)
            advance(steps=len(jobs))
    if outcome.doubts:
        try:
            write_list(out, outcome.doubts)
        except InputError as error:
            outcome.problems += error.problems
    return outcome


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
    files: Outputs
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
    outputs: Outputs,
    *,
    overwrite: bool,
) -> _Job | Problem:
    """Read a picture, unless all that is wanted of it is there, or say what is wrong."""
    wanted = outputs.all
    try:
        for path in files:
            refuse_itself(path, wanted)
        mark = " ".join([fingerprint, *(file_digest(path)[:16] for path in files)])
        there = standing(files[0], wanted)
        if overwrite:
            there = []
        for file in there:
            require_own(file, mark)
        image = None if there == wanted else read_picture(card, files)
    except ImageError as error:
        return error.problem
    before = png_text(wanted[0]).get(_DOUBT) if image is None else None
    return _Job(str(files[0]), outputs, {MARK: mark}, image, from_text(before))


def _together(card: ModelCard, job: _Job | Problem) -> tuple[object, int]:
    """What pictures of one pass have in common, and how many of these go through it."""
    if isinstance(job, Problem) or job.image is None:
        return None, 1
    height, width = card.preprocessing.size or job.image.shape[:2]
    pixels = max(height * width, job.image.shape[0] * job.image.shape[1])
    return (job.image.shape, job.image.dtype), max(1, min(_MOST, _PIXELS // pixels))


def _predict(
    engine: Engine, card: ModelCard, jobs: Sequence[_Job], write: Behind, outcome: Outcome
) -> None:
    """Draw pictures of one shape, in one pass if they fit."""
    good, images = [], []
    for job in jobs:
        assert job.image is not None
        try:
            images.append(_fitting(card, job.image, job.name))
        except ImageError as error:
            outcome.problems.append(error.problem)
        else:
            good.append(job)
    if not good:
        return
    try:
        found = whole_images(engine, images)
    except OutOfMemory as error:
        if len(good) > 1:
            for job in good:
                _predict(engine, card, [job], write, outcome)
            return
        fix = "cut it into pieces, or use --device cpu"
        outcome.problems.append(Problem(good[0].name, str(error), "a smaller image", fix))
    else:
        maps = [temper(one, card) for one in found]
        write(partial(_write_all, card, good, maps, outcome.doubts))
        outcome.written += [job.target for job in good]


def _write_all(
    card: ModelCard, jobs: Sequence[_Job], maps: Sequence[Array], doubts: dict[str, Doubt]
) -> None:
    for job, found in zip(jobs, maps, strict=True):
        _write(card, job, found, doubts)


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
