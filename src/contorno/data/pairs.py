"""Which mask belongs to which image: by stem, in two folders or in one with a suffix rule.

Looks at names only; what is in the files is left to `dataset`.
"""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contorno.errors import ConfigError, InputError, Problem
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
    """An image and its mask; `name` is the image's stem."""

    name: str
    image: Path
    mask: Path


@dataclass(frozen=True)
class Found:
    """What was found: the good pairs, the problems, and how names were matched, in words."""

    pairs: tuple[Pair, ...]
    problems: tuple[Problem, ...]
    rule: str


def find_pairs(
    images: Path,
    masks: Path | None = None,
    *,
    suffix: str | None = None,
    files: Path | None = None,
) -> Found:
    """Match images and masks by stem.

    Args:
        images: folder of images, or of images and masks when `masks` is None.
        masks: folder of masks.
        suffix: what a mask's stem has after its image's, such as "_mask"; guessed when None.
        files: text file of stems or paths, one a line; only these are taken.

    Raises:
        InputError: a folder that is missing or holds no image at all.
    """
    image_files, problems = _by_stem(images)
    if masks is None or masks.resolve() == images.resolve():
        suffix = suffix or _guess_suffix(image_files, image_files)
        if suffix is None:
            raise InputError(
                f"{images}: one folder was given, but no stem ends in a suffix that marks masks "
                f"({', '.join(SUFFIXES[:5])} ...). Give the folder of masks too, or --suffix"
            )
        mask_files = {s: p for s, p in image_files.items() if s.endswith(suffix)}
        image_files = {s: p for s, p in image_files.items() if not s.endswith(suffix)}
        mask_place = images
    else:
        mask_files, mask_problems = _by_stem(masks)
        problems += mask_problems
        mask_place = masks
        if suffix is None and not set(image_files) & set(mask_files):
            suffix = _guess_suffix(image_files, mask_files)
    suffix = suffix or ""
    wanted = _wanted(files, image_files, problems) if files else set(image_files)
    pairs = []
    for stem in sorted(wanted):
        if stem + suffix in mask_files:
            pairs.append(Pair(stem, image_files[stem], mask_files[stem + suffix]))
        else:
            problems.append(
                Problem(
                    str(image_files[stem]),
                    "an image without mask",
                    f"{mask_place / (stem + suffix)}.png (or another image format)",
                    "add the mask, or take the image away",
                )
            )
    if files is None:
        problems += _lonely_masks(image_files, mask_files, suffix)
    rule = f"masks are matched by stem + {suffix!r}" if suffix else "masks are matched by stem"
    return Found(tuple(pairs), tuple(problems), rule)


def find_images(
    inputs: Iterable[str | Path], *, files: Path | None = None
) -> tuple[list[Path], list[Problem]]:
    """Image files named by paths, folders and globs, in order, each once; problems apart."""
    found: list[Path] = []
    problems: list[Problem] = []
    for entry in inputs:
        path = Path(entry)
        if path.is_dir():
            by_stem, folder_problems = _by_stem(path)
            found += by_stem.values()
            problems += folder_problems
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
                )
            )
    unique = list(dict.fromkeys(found))
    if files is not None:
        stems = {_stem(path): path for path in unique}
        wanted = _wanted(files, stems, problems)
        unique = [path for path in unique if _stem(path) in wanted]
    return unique, problems


def split(
    names: Sequence[str], *, share: float, seed: int, chosen: Iterable[str] | None = None
) -> tuple[list[str], list[str]]:
    """Part names into training and validation, both sorted.

    Args:
        names: stems of the pairs.
        share: share of validation, at least one and never all.
        seed: decides which.
        chosen: stems that are validation; takes the place of the share.

    Raises:
        InputError: a part would be empty.
    """
    if seed < 0:
        raise ConfigError(f"seed ({seed}) must be 0 or more")
    if chosen is not None:
        validation = set(chosen) & set(names)
    else:
        count = min(max(round(share * len(names)), 1), len(names) - 1)
        order = np.random.default_rng(seed).permutation(len(names))
        validation = {sorted(names)[i] for i in order[:count]}
    training = sorted(set(names) - validation)
    if not training or not validation:
        raise InputError(
            f"{len(names)} usable pair(s) give {len(training)} for training and {len(validation)} "
            "for validation; each needs at least one"
        )
    return training, sorted(validation)


def read_list(path: Path) -> list[str]:
    """Stems from a text file of stems or paths, one a line; empty lines are skipped.

    Raises:
        InputError: cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as a list of stems: {error}") from None
    stems = [_stem(Path(line.strip())) for line in lines if line.strip()]
    if not stems:
        raise InputError(f"{path}: an empty list; expected stems or paths, one a line")
    return stems


def _stem(path: Path) -> str:
    """Name without its image extension ("a.b.png" gives "a.b"), in one Unicode form (NFC)."""
    name = path.name
    if path.suffix.lower() in EXTENSIONS:
        name = name[: -len(path.suffix)]
    return unicodedata.normalize("NFC", name)


def _by_stem(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Image files of a folder by stem; a stem that two files share is a problem."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    stems: dict[str, list[Path]] = defaultdict(list)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed: {error.strerror or error}") from None
    for path in entries:
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith("."):
            stems[_stem(path)].append(path)
    if not stems:
        inner = [path.name for path in entries if path.is_dir()]
        hint = f"; it has sub-folders: {', '.join(inner[:5])}" if inner else ""
        raise InputError(f"{folder}: no image in this folder ({', '.join(EXTENSIONS)}){hint}")
    problems = [
        Problem(
            str(paths[1]),
            f"the same stem as {paths[0].name}",
            "one file for each stem",
            "rename or remove one of them",
        )
        for paths in stems.values()
        if len(paths) > 1
    ]
    return {stem: paths[0] for stem, paths in stems.items() if len(paths) == 1}, problems


def _guess_suffix(images: dict[str, Path], masks: dict[str, Path]) -> str | None:
    """The suffix that pairs most masks with an image, None when none pairs any."""

    def pairs(suffix: str) -> int:
        return sum(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks)

    best = max(SUFFIXES, key=pairs)
    return best if pairs(best) else None


def _wanted(files: Path, have: dict[str, Path], problems: list[Problem]) -> set[str]:
    stems = read_list(files)
    problems += [
        Problem(
            stem,
            f"named in {files}, but there is no such image",
            "the stem of an image",
            "correct the list",
        )
        for stem in stems
        if stem not in have
    ]
    return set(stems) & set(have)


def _lonely_masks(images: dict[str, Path], masks: dict[str, Path], suffix: str) -> list[Problem]:
    return [
        Problem(
            str(path),
            "a mask without image",
            f"an image with the stem {stem.removesuffix(suffix)!r}",
            "add the image, or take the mask away",
        )
        for stem, path in masks.items()
        if not stem.endswith(suffix) or stem.removesuffix(suffix) not in images
    ]


def _glob(pattern: Path) -> list[Path]:
    if not any(mark in str(pattern) for mark in "*?["):
        return []
    anchor = Path(pattern.anchor) if pattern.anchor else Path()
    return sorted(p for p in anchor.glob(str(pattern.relative_to(anchor))) if p.is_file())
