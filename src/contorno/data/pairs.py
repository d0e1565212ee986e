"""Which mask belongs to which image: by stem, in two folders or in one with a suffix rule.

Looks at names only; what is in the files is left to `dataset`.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from contorno.errors import InputError, Problem
from contorno.images import EXTENSIONS

SUFFIXES = (
    "_mask",
    "-mask",
    "_masks",
    "_gt",
    "-gt",
    "_label",
    "-label",
    "_labels",
    "_seg",
    "_segmentation",
    "_groundtruth",
    "_GT",
    "_Mask",
)


@dataclass(frozen=True)
class Pair:
    """A picture and its mask.

    Args:
        name: the picture's stem.
        images: its file, or one for each channel.
        masks: its mask, or one for each of the classes that may overlap.
    """

    name: str
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    @property
    def image(self) -> Path:
        """The picture's file, or the first."""
        return self.images[0]

    @property
    def mask(self) -> Path:
        """The mask, or the first."""
        return self.masks[0]


@dataclass(frozen=True)
class Found:
    """What was found: the good pairs, the problems, and how names were matched, in words."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    rule: str


Masks = Path | Mapping[str, Path]  # one folder, or one for each of the classes that may overlap


def find_pairs(
    images: Path,
    masks: Masks | None = None,
    *,
    suffix: str | None = None,
    files: Path | None = None,
    channels: Sequence[str] = (),
) -> Found:
    """Match images and masks by stem.

    Args:
        images: folder of images, or of images and masks when `masks` is None.
        masks: folder of masks, or for each class its folder.
        suffix: what a mask's stem has after its image's, such as "_mask"; guessed when None.
        files: text file of stems or paths, one a line; only these are taken.
        channels: what the stems of a picture's files end in, one for each channel.

    Raises:
        InputError: a folder that is missing or holds no image at all.
    """
    told: set[str] = set()  # stems with a problem of their own: their partners are not lonely
    entries, problems = _by_stem(images, told)
    folders = [masks] if isinstance(masks, Path) else list((masks or {}).values())
    together = not folders or folders[0].resolve() == images.resolve()
    if together:
        suffix = suffix or _guess_suffix(entries, entries)
        if suffix is None:
            raise InputError(
                f"{images}: one folder was given, but no stem ends in a suffix that marks masks "
                f"({', '.join(SUFFIXES[:5])} ...). Give the folder of masks too, or --suffix"
            )
        mask_files = [{s: p for s, p in entries.items() if s.endswith(suffix)}]
        entries = {s: p for s, p in entries.items() if not s.endswith(suffix)}
        folders = [images]
    pictures = _pictures(entries, channels, problems, told)
    if not together:
        read = [_by_stem(folder, told) for folder in folders]
        mask_files = [by_stem for by_stem, _ in read]
        problems += [problem for _, found in read for problem in found]
        if suffix is None:
            suffix = _guess_suffix(pictures, mask_files[0])
            plain = sum(stem in mask_files[0] for stem in pictures)
            ends = sum(stem.endswith(suffix) for stem in mask_files[0]) if suffix else 0
            suffix = suffix if ends > plain else None
    suffix = suffix or ""
    if suffix:
        problems.append(_suffix_rule(folders[0], suffix))
    problems += _case_twins(pictures)
    mask_files = [_same_but_for_case(pictures, by_stem, suffix, problems) for by_stem in mask_files]
    wanted = _wanted(files, pictures, problems) if files else set(pictures)
    pairs = []
    for stem in sorted(wanted):
        missing = [
            Problem(
                str(pictures[stem][0]),
                "an image without mask",
                f"{folder / (stem + suffix)}.png (or another image format)",
                "add the mask, or take the image away",
                "image-without-mask",
            )
            for folder, by_stem in zip(folders, mask_files, strict=True)
            if stem + suffix not in by_stem
        ]
        problems += [problem for problem in missing if stem + suffix not in told]
        if not missing:
            own = tuple(by_stem[stem + suffix] for by_stem in mask_files)
            pairs.append(Pair(stem, pictures[stem], own))
    if files is None:
        for by_stem in mask_files:
            problems += _lonely_masks({**pictures, **dict.fromkeys(told)}, by_stem, suffix)
    rule = f"masks are matched by stem + {suffix!r}" if suffix else "masks are matched by stem"
    if channels:
        rule += f"; channels are the files that end in {', '.join(channels)}"
    return Found(tuple(pairs), tuple(problems), rule)


def find_images(
    inputs: Iterable[str | Path], *, files: Path | None = None, channels: Sequence[str] = ()
) -> tuple[list[tuple[Path, ...]], list[Problem]]:
    """Pictures named by paths, folders and globs, in order, each once; problems apart.

    Args:
        inputs: files, folders of images, globs.
        files: list of stems to restrict them to.
        channels: what the stems of a picture's files end in, one for each channel.

    Returns:
        The file, or the files of the channels, of each picture; and what could not be found.
    """
    found: list[Path] = []
    problems: list[Problem] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            by_stem, folder_problems = _by_stem(path, set())
            found += by_stem.values()
            problems += [p for p in folder_problems if p.severity != "note"]
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
    unique = list(dict.fromkeys(found))
    pictures: list[tuple[Path, ...]] = [(path,) for path in unique]
    if channels:
        folders = dict.fromkeys(path.parent for path in unique)
        pictures = [
            picture
            for folder in folders
            for picture in _pictures(
                {stem_of(path): path for path in unique if path.parent == folder},
                channels,
                problems,
                set(),
            ).values()
        ]
    if files is not None:
        names = {picture_name(picture, channels): picture for picture in pictures}
        wanted = _wanted(files, names, problems)
        pictures = [p for p in pictures if picture_name(p, channels) in wanted]
    return pictures, problems


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
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of stems: {error}") from None
    stems = [stem_of(Path(line.strip())) for line in lines if line.strip()]
    if not stems:
        raise InputError(f"{path}: an empty list; expected stems or paths, one a line")
    return stems


def stem_of(path: Path) -> str:
    """Name without its image extension ("a.b.png" gives "a.b"), in one Unicode form (NFC)."""
    name = path.name
    if path.suffix.lower() in EXTENSIONS:
        name = name[: -len(path.suffix)]
    return unicodedata.normalize("NFC", name)


def _by_stem(folder: Path, told: set[str]) -> tuple[dict[str, Path], list[Problem]]:
    """Image files of a folder by stem; a stem that two files share is a problem, and told."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    stems: dict[str, list[Path]] = defaultdict(list)
    passed: list[str] = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    for path in entries:
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            stems[stem_of(path)].append(path)
        elif not path.is_dir():
            passed.append(path.name)
    if not stems:
        inner = [path.name for path in entries if path.is_dir()]
        hint = f"; it has sub-folders: {', '.join(inner[:5])}" if inner else ""
        problem = Problem(
            str(folder),
            f"no image in this folder{hint}",
            f"files that end in {', '.join(EXTENSIONS)}",
            "check the path",
            "no-images",
        )
        raise InputError("there is nothing to read", [problem])
    told |= {stem for stem, paths in stems.items() if len(paths) > 1}
    problems = [
        Problem(
            str(paths[1]),
            f"the same stem as {paths[0].name}",
            "one file for each stem",
            "rename or remove one of them",
            "same-stem",
        )
        for paths in stems.values()
        if len(paths) > 1
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


def _pictures(
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
            "rename the file, or give its ending in --channels",
            "channel-missing",
        )
        for path in stray
    ]
    return pictures


def _same_but_for_case(
    pictures: Mapping[str, object], masks: dict[str, Path], suffix: str, problems: list[Problem]
) -> dict[str, Path]:
    """Masks under their image's own spelling, where only upper and lower case differ."""
    lonely = {stem for stem in pictures if stem + suffix not in masks}
    spelt: dict[str, list[str]] = defaultdict(list)
    for stem in masks:
        if stem.removesuffix(suffix) not in pictures:
            spelt[stem.casefold()].append(stem)
    renamed = dict(masks)
    for stem in sorted(lonely):
        others = spelt.get((stem + suffix).casefold(), [])
        twins = [s for s in lonely if s.casefold() == stem.casefold()]
        if len(others) == 1 and len(twins) == 1:
            path = renamed.pop(others[0])
            renamed[stem + suffix] = path
            problems.append(
                Problem(
                    str(path),
                    f"taken as the mask of {stem}: the names differ in upper and lower case only",
                    "the same name",
                    "rename one of the two",
                    "case-names",
                    "warning",
                )
            )
    return renamed


def _guess_suffix(images: Mapping[str, object], masks: Mapping[str, Path]) -> str | None:
    """The suffix that pairs most masks with an image, None when none pairs any."""

    def pairs(suffix: str) -> int:
        return sum(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks)

    best = max(SUFFIXES, key=pairs)
    return best if pairs(best) else None


def _wanted(files: Path, have: Mapping[str, object], problems: list[Problem]) -> set[str]:
    stems = read_list(files)
    problems += [
        Problem(
            stem,
            f"named in {files}, but there is no such image",
            "the stem of an image",
            "correct the list",
            "not-in-list",
        )
        for stem in stems
        if stem not in have
    ]
    return set(stems) & set(have)


def _suffix_rule(folder: Path, suffix: str) -> Problem:
    return Problem(
        str(folder),
        f"the stems of the masks end in {suffix!r}",
        "the stem of the image, or that with one ending",
        "nothing, if that is how the masks are named; else --suffix",
        "suffix-rule",
        "note",
    )


def _case_twins(pictures: Mapping[str, tuple[Path, ...]]) -> list[Problem]:
    """Pictures whose names differ in case only become one on other systems."""
    spelt: dict[str, list[str]] = defaultdict(list)
    for stem in sorted(pictures):
        spelt[stem.casefold()].append(stem)
    return [
        Problem(
            str(pictures[stems[1]][0]),
            f"a name that differs from {pictures[stems[0]][0].name} in upper and lower case only",
            "names that differ otherwise: on Windows and macOS one replaces the other",
            "rename one of the two",
            "case-names",
            "warning",
        )
        for stems in spelt.values()
        if len(stems) > 1
    ]


def _lonely_masks(
    images: Mapping[str, object], masks: Mapping[str, Path], suffix: str
) -> list[Problem]:
    return [
        Problem(
            str(path),
            "a mask without image",
            f"an image with the stem {stem.removesuffix(suffix)!r}",
            "add the image, or take the mask away",
            "mask-without-image",
        )
        for stem, path in masks.items()
        if not stem.endswith(suffix) or stem.removesuffix(suffix) not in images
    ]


def _glob(pattern: Path) -> list[Path]:
    if not any(mark in str(pattern) for mark in "*?["):
        return []
    anchor = Path(pattern.anchor) if pattern.anchor else Path()
    return sorted(p for p in anchor.glob(str(pattern.relative_to(anchor))) if p.is_file())
