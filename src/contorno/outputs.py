"""The files that predict makes of a picture: their names, and whose a file is that is there.

A mask says in its text which model and which picture it is made of, so that it counts as done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from os.path import realpath
from pathlib import Path
from stat import S_ISREG
from typing import Any

from contorno.card import ModelCard
from contorno.data.labels import prediction_paths
from contorno.data.names import picture_name
from contorno.errors import Problem
from contorno.files import storage_error, sweep
from contorno.images import ImageError, png_text

AVERAGED = " averaged"  # in a mark: with --tta
MARK = "contorno"  # key of the PNG text that names the model and the picture a mask is made of
_IDLE = 3600  # seconds: another predict may write into the folder now, but no mask takes so long


@dataclass(frozen=True)
class Outputs:
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


def outputs_of(
    card: ModelCard, out: Path, name: str, *, probabilities: str | None, overlay: bool
) -> Outputs:
    """The files of a picture of this name; see `predict.predict_files`."""
    target = out / f"{name}.png"
    drawn = target.with_name(f"{target.stem}_overlay.png") if overlay else None
    masks, maps = prediction_paths(target, card.labels), _map_paths(target, card, probabilities)
    return Outputs(target, masks, maps, drawn)


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


def unique_names(
    images: Sequence[tuple[Path, ...]],
    channels: Sequence[str],
    outputs: Callable[[str], Outputs],
    problems: list[Problem],
) -> dict[tuple[Path, ...], str]:
    """Output stems; no file of one picture takes the place of another's, or of a picture."""
    resolved = cache(_real)
    folders = {resolved(file.parent) for file in outputs("name").all}
    places = (resolved(path.parent) / path.name for files in images for path in files)
    pictures = {place for place in places if place.parent in folders}
    taken: dict[Path, Path] = {}
    names = {}
    for files in images:
        name = picture_name(files, channels)
        wanted = outputs(name).all
        own = {resolved(path.parent) / path.name for path in files}
        made = {resolved(file.parent) / file.name for file in wanted}
        replaced = (made & pictures) - own  # without a copy of all pictures for each
        if clash := next((file for file in wanted if file in taken), None):
            problems.append(_one_place(files[0], clash, taken[clash]))
        elif replaced:
            problems.append(_one_place(files[0], min(replaced), min(replaced)))
        else:
            taken |= dict.fromkeys(wanted, files[0])
            names[files] = name
    return names


def _real(path: Path) -> Path:
    """Where a path leads; `Path.resolve` raises an error where links lead in a circle."""
    return Path(realpath(path))


def _one_place(image: Path, file: Path, other: Path) -> Problem:
    what = f"would take the place of {other}" if file == other else f"is one for {other} as well"
    return Problem(
        str(image),
        f"{file.name}, which is to be made of it, {what}",
        "one name for each file",
        "use another --out, or predict the two into different folders",
    )


def refuse_itself(image: Path, wanted: list[Path]) -> None:
    """Raise ImageError where a picture would be replaced by its own mask: no option does that."""
    if realpath(image) in map(realpath, wanted):
        what = "the picture itself stands where its mask would be written"
        raise ImageError(Problem(str(image), what, "another folder", "use another --out"))


def make_folders(files: Sequence[Path]) -> None:
    """Make the folders of files; only where they are there does a name show that it is too long.

    What killed writers left half written in them goes.

    Raises:
        StorageError: they cannot be made.
    """
    for folder in dict.fromkeys(file.parent for file in files):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(folder, 0, error) from error
        sweep(folder, idle=_IDLE)


def standing(image: Path, wanted: Sequence[Path]) -> list[Path]:
    """Those of the files to be made of a picture that are there.

    Raises:
        ImageError: the file system does not take such a name, or does not let us look; or what is
            there is no file.
    """
    there = []
    for file in wanted:
        try:
            regular = S_ISREG(file.stat().st_mode)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            what = f"{file}, which is to be made of it, is refused: {error.strerror}"
            expected = "a name that the file system takes"
            fix = "rename the picture, or use another --out"
            raise ImageError(Problem(str(image), what, expected, fix)) from None
        if not regular:
            what = "a folder, a pipe or a device stands where a file is to be made"
            fix = "move it away, or use another --out"
            raise ImageError(Problem(str(file), what, "a free name, or a file", fix))
        there.append(file)
    return there


def _mark(file: Path) -> str | None:
    """What names the model that a PNG or TIFF was made by."""
    if file.suffix == ".png":
        return png_text(file).get(MARK)
    import tifffile

    try:
        with tifffile.TiffFile(file) as tiff:
            page: Any = tiff.pages[0]
            return json.loads(page.description).get(MARK)  # type: ignore[no-any-return]
    except (tifffile.TiffFileError, ValueError, AttributeError, OSError):
        return None  # no TIFF, or a description that is no such document


def drawn_into(out: Path, lists: Collection[str], file: Path) -> bool:
    """Whether a file is one that predict wrote into this folder before; `lists`: by their names."""
    if realpath(file.parent) != realpath(out):
        return False
    if file.name in lists:
        return True
    return file.suffix in (".png", ".tif") and file.is_file() and _mark(file) is not None


def require_own(target: Path, mark: str) -> None:
    """Raise ImageError for a file that is there and does not have this mark."""
    found = _mark(target)
    if found != mark:
        what = "a file that this model did not make of this picture"
        if found is not None and found.replace(AVERAGED, "") == mark.replace(AVERAGED, ""):
            what = f"this model made it {'with' if AVERAGED in found else 'without'} --tta"
        expected = "a free name, or what this model made of it in this way"
        fix = "use another --out, or --overwrite to replace it"
        raise ImageError(Problem(str(target), what, expected, fix))
