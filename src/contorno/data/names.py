"""Files by their names: stems, lists of stems, folders, patterns, channels in files of their own.

Looks at names only; what is in the files is left to `facts`.
"""

from __future__ import annotations

import os
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from os.path import realpath
from pathlib import Path

from contorno.errors import InputError, Problem
from contorno.images import EXTENSIONS

_OME = re.compile(r"\.ome(?![0-9a-z])", re.IGNORECASE)


def find_images(
    inputs: Iterable[str | Path],
    *,
    files: Path | None = None,
    channels: Sequence[str] = (),
    drawn: Callable[[Path], bool] = lambda path: False,
) -> tuple[list[tuple[Path, ...]], list[Problem]]:
    """Pictures named by paths, folders and globs, in order, each once; problems and notes apart.

    Args:
        inputs: files, folders of images, globs.
        files: list of stems to restrict them to.
        channels: what the stems of a picture's files end in, one for each channel.
        drawn: says of a file in a folder that it was made by contorno, and is no picture.

    Returns:
        The file, or the files of the channels, of each picture; and what could not be found.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            inside, folder_problems = files_by_stem(path, set(), drawn)
            found += inside.values()
            problems += [p for p in folder_problems if p.severity != "note"]
            problems += _other_files(path, drawn)
        elif path.exists() or path.is_symlink():
            found.append(path)
        elif matches := _glob(path):
            found += matches
        else:
            problems.append(
                Problem(
                    str(entry),
                    "no such file, folder or pattern",
                    "an image, a folder of images or a glob",
                    "check the path",
                    "no-images",
                )
            )
    unique = _each_once(found)
    pictures: list[tuple[Path, ...]] = [(path,) for path in unique]
    if channels:
        folders: dict[Path, dict[str, Path]] = defaultdict(dict)
        for path in unique:
            folders[path.parent][stem_of(path)] = path
        pictures = [
            picture
            for by_stem in folders.values()
            for picture in channel_files(by_stem, channels, problems, set()).values()
        ]
    if files is not None:
        names = {picture_name(picture, channels): picture for picture in pictures}
        wanted = wanted_stems(files, names, problems, channels)
        pictures = [p for p in pictures if picture_name(p, channels) in wanted]
    return pictures, problems


def _each_once(found: Iterable[Path]) -> list[Path]:
    """Files without those that are named again, also by another way to their folder."""
    real, places = cache(realpath), dict[tuple[str, str], Path]()
    for path in found:
        places.setdefault((real(path.parent), path.name), path)
    return list(places.values())


def picture_name(files: Sequence[Path], channels: Sequence[str] = ()) -> str:
    """The name of a picture: the stem of its file, without the ending of the first channel."""
    stem = stem_of(files[0])
    return stem.removesuffix(channels[0]) if channels else stem


def read_list(path: Path) -> list[str]:
    """Stems from a text file of stems or paths, one a line; empty lines are skipped.

    Raises:
        InputError: cannot be read, or is empty.
    """
    try:
        if path.is_fifo() and not str(path).startswith("/dev/fd/"):  # the shell's own do not block
            raise InputError(f"{path}: a named pipe; expected a text file of stems")
        data = path.read_bytes()
        wide = data.startswith((BOM_UTF16_LE, BOM_UTF16_BE))  # as PowerShell's > writes
        lines = data.decode("utf-16" if wide else "utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of stems: {error}") from None
    stems = [stem_of(Path(line.strip())) for line in lines if line.strip()]
    if not stems:
        raise InputError(f"{path}: an empty list; expected stems or paths, one a line")
    return stems


def stem_of(path: Path) -> str:
    """Name without its image extension ("a.b.png" gives "a.b"), in one Unicode form (NFC).

    OME-TIFF has two, "a.ome.tif"; what other programs make of it may keep the first, as in
    "a.ome_mask.png", which gives "a_mask".
    """
    name = path.name
    if path.suffix.lower() in EXTENSIONS:
        name = name[: -len(path.suffix)]
    return unicodedata.normalize("NFC", _OME.sub("", name) or name)


def files_by_stem(
    folder: Path, told: set[str], drawn: Callable[[Path], bool] = lambda path: False
) -> tuple[dict[str, Path], list[Problem]]:
    """Image files of a folder by stem, without those `drawn`.

    A stem that two files share is a problem, and told.
    """
    if not folder.is_dir():
        hint = ", but a file; expected a folder of images" if folder.exists() else ""
        raise InputError(f"{folder}: there is no such folder{hint}")
    stems: dict[str, list[Path]] = defaultdict(list)
    passed: list[str] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    for path in entries:
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            if not drawn(path):
                stems[stem_of(path)].append(path)
        elif not path.is_dir():
            passed.append(path.name)
    if not stems:
        inner = [path.name for path in entries if path.is_dir()]
        hint = f"; it has sub-folders: {', '.join(inner[:5])}" if inner else ""
        others = [name for name in passed if not name.startswith(".")]
        if others:
            hint += f"; it has {len(others)} file(s) of other kinds: {', '.join(others[:5])}"
        problem = Problem(
            str(folder),
            f"no image in this folder{hint}",
            f"files that end in {', '.join(EXTENSIONS)}",
            "check the path" + ("; or save these files as PNG or TIFF" if others else ""),
            "no-images",
        )
        raise InputError("there is nothing to read", [problem])
    told |= {stem for stem, paths in stems.items() if len(paths) > 1}
    problems = [
        Problem(
            str(path),
            f"the same stem as {first.name}",
            "one file for each stem",
            "rename or remove one of them",
            "same-stem",
        )
        for first, *others in stems.values()
        for path in others
    ]
    if passed:
        problems.append(
            Problem(
                str(folder),
                f"{len(passed)} file(s) passed over: {', '.join(passed[:5])}"
                + (" ..." if len(passed) > 5 else ""),
                f"images ({', '.join(EXTENSIONS)}) whose names begin with no dot",
                "nothing, unless one of them is an image: then give it its extension",
                "hidden-file",
                "note",
            )
        )
    return {stem: paths[0] for stem, paths in stems.items() if len(paths) == 1}, problems


def _other_files(folder: Path, drawn: Callable[[Path], bool]) -> list[Problem]:
    """A note of the files of a folder that are no images by their names, without hidden ones."""
    names = sorted(
        path.name
        for path in folder.iterdir()
        if not (path.name.startswith(".") or _is_picture(path.name) or path.is_dir() or drawn(path))
    )
    if not names:
        return []
    return [
        Problem(
            str(folder),
            f"{len(names)} file(s) of other kinds passed over: {', '.join(names[:5])}"
            + (" ..." if len(names) > 5 else ""),
            f"files that end in {', '.join(EXTENSIONS)}",
            "save those that are images as PNG or TIFF",
            "other-files",
            "note",
        )
    ]


def unread_below(folder: Path, known: Container[str]) -> list[Problem]:
    """A warning of images that lie in sub-folders, where nobody looks for them.

    Args:
        folder: whose own images are read.
        known: real paths of folders that were named for something else; what lies in them does not
            count.
    """
    counts: dict[str, int] = {}
    for top, inner, names in os.walk(folder):
        place = Path(top)
        inner[:] = [
            name
            for name in inner  # a folder that is named like a picture is told of as such
            if not name.startswith(".")
            and not _is_picture(name)
            and realpath(place / name) not in known
        ]
        if place != folder and (count := sum(map(_is_picture, names))):
            counts[place.relative_to(folder).as_posix()] = count
    if not counts:
        return []
    first = ", ".join(f"{name} ({counts[name]})" for name in sorted(counts)[:5])
    return [
        Problem(
            str(folder),
            f"{sum(counts.values())} image(s) in sub-folders, which are not read: {first}"
            + (" ..." if len(counts) > 5 else ""),
            "all images in the folder itself",
            "move them up, each with a name of its own, if they are wanted",
            "sub-folders",
            "warning",
        )
    ]


def _is_picture(name: str) -> bool:
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def channel_files(
    entries: Mapping[str, Path],
    channels: Sequence[str],
    problems: list[Problem],
    told: set[str],
) -> dict[str, tuple[Path, ...]]:
    """The file, or the files of all channels, of each picture by its name."""
    if not channels:
        return {stem: (path,) for stem, path in entries.items()}
    names = {s.removesuffix(c): None for s in entries for c in channels if s.endswith(c)}
    pictures = {}
    for name in names:
        missing = [ending for ending in channels if name + ending not in entries]
        if not missing:
            pictures[name] = tuple(entries[name + ending] for ending in channels)
            continue
        told.add(name)
        there = next(entries[name + ending] for ending in channels if name + ending in entries)
        problems.append(
            Problem(
                str(there),
                f"no file for the channel(s) {', '.join(missing)}",
                f"{name}{missing[0]} beside it",
                "add the missing channel, or take the others away",
                "channel-missing",
            )
        )
    stray = [path for stem, path in entries.items() if not stem.endswith(tuple(channels))]
    problems += [
        Problem(
            str(path),
            "a stem that ends in none of the channels",
            f"one of {', '.join(channels)}",
            "rename the file, or train with its ending in --channels",
            "channel-missing",
        )
        for path in stray
    ]
    return pictures


def wanted_stems(
    files: Path, have: Mapping[str, object], problems: list[Problem], channels: Sequence[str] = ()
) -> set[str]:
    """Those of `have` that a list names; what it names besides becomes problems."""
    stems = names_listed(read_list(files), have, channels)
    problems += unknown_stems(stems, have, f"named in {files}, but there is no such image")
    return set(stems) & set(have)


def names_listed(stems: Iterable[str], have: Container[str], channels: Sequence[str]) -> list[str]:
    """The names of the pictures of a list, each once; it may name the files of their channels."""
    names: dict[str, None] = {}
    for stem in stems:
        may_be = [stem, *(stem.removesuffix(c) for c in channels if stem.endswith(c))]
        names[next((name for name in may_be if name in have), stem)] = None
    return list(names)


def unknown_stems(stems: Iterable[str], have: Container[str], what: str) -> list[Problem]:
    """A problem for each stem of a list that is not among those that there are."""
    return [
        Problem(stem, what, "the stem of an image", "correct the list", "not-in-list")
        for stem in stems
        if stem not in have
    ]


def _glob(pattern: Path) -> list[Path]:
    """Files that a pattern means; as in a shell no hidden ones, unless it begins with a dot."""
    if not any(mark in str(pattern) for mark in "*?["):
        return []
    anchor = Path(pattern.anchor) if pattern.anchor else Path()
    hidden = pattern.name.startswith(".")
    found = anchor.glob(str(pattern.relative_to(anchor)))
    return sorted(p for p in found if p.is_file() and (hidden or not p.name.startswith(".")))
