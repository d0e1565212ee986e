"""Which mask belongs to which image: by stem, in two folders or in one with a suffix rule.

Looks at names only; what is in the files is left to `dataset`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os.path import realpath
from pathlib import Path
from shlex import quote

from contorno.data.names import channel_files, files_by_stem, unread_below, wanted_stems
from contorno.errors import ConfigError, InputError, Problem

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
_SAMPLE = 60  # stems that a suffix is looked for in
_CHANNELS = 8  # endings of images: more are moments of a series, and no channels


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
        suffix: what a mask's stem has after its image's, such as "_mask"; of several folders one
            for all, or one for each, "_cells,_nuclei"; guessed when None.
        files: text file of stems or paths, one a line; only these are taken.
        channels: what the stems of a picture's files end in, one for each channel.

    Raises:
        InputError: a folder that is missing or holds no image at all; or a suffix that no mask has.
    """
    told: set[str] = set()  # stems with a problem of their own: their partners are not lonely
    entries, problems = files_by_stem(images, told)
    folders = [masks] if isinstance(masks, Path) else list((masks or {}).values())
    together = not folders or realpath(folders[0]) == realpath(images)
    if together:
        names = {s.removesuffix(c): None for s in entries for c in channels if s.endswith(c)}
        suffix = suffix or _guess_suffix(names or entries, entries)
        if suffix is None:
            raise InputError(_no_suffix(images, entries))
        mask_files = [{s: p for s, p in entries.items() if s.endswith(suffix)}]
        entries = {s: p for s, p in entries.items() if not s.endswith(suffix)}
        folders = [images]
    pictures = channel_files(entries, channels, problems, told)
    if files is None:
        problems += unread_below(images, {*map(realpath, folders)})
    if not together:
        listed = [files_by_stem(folder, told) for folder in folders]
        mask_files = [by_stem for by_stem, _ in listed]
        problems += [problem for _, found in listed for problem in found]
    suffixes = [suffix or ""] if together else _suffixes(suffix, pictures, mask_files)
    for folder, by_stem, ending in zip(folders, mask_files, suffixes, strict=True):
        if ending and not any(stem.endswith(ending) for stem in by_stem):
            raise InputError(f"{folder}: no stem of a mask ends in the suffix {ending!r}")
        if ending:
            problems.append(_suffix_rule(folder, ending))
    problems += _case_twins(pictures)
    mask_files = [
        _same_but_for_case(pictures, by_stem, ending, problems)
        for by_stem, ending in zip(mask_files, suffixes, strict=True)
    ]
    wanted = wanted_stems(files, pictures, problems, channels) if files else set(pictures)
    read = list(zip(folders, mask_files, suffixes, strict=True))
    strange = {
        folder
        for folder, by_stem, ending in read
        if files is None
        and min(len(pictures), len(by_stem)) > 1
        and not any(stem + ending in by_stem for stem in pictures)
    }
    problems += _strangers(pictures, read, strange, channels)
    pairs = []
    for stem in sorted(wanted):
        own = [(folder, by_stem, stem + ending) for folder, by_stem, ending in read]
        lacking = [(folder, name) for folder, by_stem, name in own if name not in by_stem]
        problems += [
            _lonely_image(pictures[stem][0], folder / name)
            for folder, name in lacking
            if folder not in strange and name not in told
        ]
        if not lacking:
            masks_of = tuple(by_stem[name] for _, by_stem, name in own)
            pairs.append(Pair(stem, pictures[stem], masks_of))
    if files is None:
        for folder, by_stem, ending in read:
            if folder not in strange:
                problems += _lonely_masks({**pictures, **dict.fromkeys(told)}, by_stem, ending)
    rule = "masks are matched by stem"
    if any(suffixes):
        rule += f" + {', '.join(dict.fromkeys(map(repr, suffixes)))}"
    if channels:
        rule += f"; channels are the files that end in {', '.join(channels)}"
    return Found(tuple(pairs), tuple(problems), rule)


def _same_but_for_case(
    pictures: Mapping[str, object], masks: dict[str, Path], suffix: str, problems: list[Problem]
) -> dict[str, Path]:
    """Masks under their image's own spelling, where only upper and lower case differ."""
    lonely = {stem for stem in pictures if stem + suffix not in masks}
    spelt: dict[str, list[str]] = defaultdict(list)
    for stem in masks:
        if stem.removesuffix(suffix) not in pictures:
            spelt[stem.casefold()].append(stem)
    twins = Counter(stem.casefold() for stem in lonely)
    renamed = dict(masks)
    for stem in sorted(lonely):
        others = spelt.get((stem + suffix).casefold(), [])
        if len(others) == 1 and twins[stem.casefold()] == 1:
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


def _suffixes(
    given: str | None, images: Mapping[str, object], folders: Sequence[Mapping[str, Path]]
) -> list[str]:
    """The suffix of the masks of each folder: one for all, one for each, or guessed."""
    if given is None:
        return [_own_suffix(images, masks) for masks in folders]
    if len(folders) == 1 or "," not in given:
        return [given] * len(folders)
    each = [part.strip() for part in given.split(",")]
    if len(each) != len(folders):
        raise ConfigError(
            f"suffix {given!r}: {len(each)} suffixes for {len(folders)} folders of masks; give one "
            "for all, or one for each in the order of the folders"
        )
    return each


def _own_suffix(images: Mapping[str, object], masks: Mapping[str, Path]) -> str:
    """The suffix that pairs more masks with an image than their whole stems do; "" where none."""
    suffix = _guess_suffix(images, masks)
    plain = sum(stem in masks for stem in images)
    ends = sum(stem.endswith(suffix) for stem in masks) if suffix else 0
    return suffix if suffix and ends > plain else ""


def _guess_suffix(images: Mapping[str, object], masks: Mapping[str, Path]) -> str | None:
    """The suffix that pairs most masks with an image, None when none pairs any."""

    def pairs(suffix: str) -> int:
        return sum(s.endswith(suffix) and s.removesuffix(suffix) in images for s in masks)

    best = max(SUFFIXES, key=pairs)
    return best if pairs(best) else None


def _common_ending(images: Iterable[str], masks: Collection[str]) -> str | None:
    """What the stems of a third of the masks have after an image's, None when nothing."""
    some, known = sorted(masks)[:_SAMPLE], set(images)
    rests = Counter(
        stem[cut:]
        for stem in some
        for cut in range(1, len(stem))
        if stem[:cut] in known and not stem[cut].isalnum()
    )
    ending, count = max(rests.items(), key=lambda rest: rest[1], default=("", 0))
    return ending if 3 * count >= len(some) else None


def _channel_endings(images: Iterable[str], masks: Collection[str]) -> list[str]:
    """What the stems of images have after a mask's, if it is the same for a third of the masks."""
    rests: dict[str, set[str]] = defaultdict(set)
    for stem in images:
        for cut in range(1, len(stem)):
            if not stem[cut].isalnum() and stem[:cut] in masks:
                rests[stem[:cut]].add(stem[cut:])
    found = Counter(frozenset(endings) for endings in rests.values())
    endings, count = max(found.items(), key=lambda item: item[1], default=(frozenset(), 0))
    return sorted(endings) if 3 * count >= len(masks) and len(endings) <= _CHANNELS else []


def _no_suffix(folder: Path, stems: Collection[str]) -> str:
    """Why one folder cannot be parted into images and masks, and the option that would do it."""
    for suffix in SUFFIXES:  # x_masks beside x_img
        names = {stem.removesuffix(suffix) for stem in stems if stem.endswith(suffix)}
        others = [stem for stem in stems if not stem.endswith(suffix)]
        if names and len(endings := _channel_endings(others, names)) == 1:
            return (
                f"{folder}: the stems of the masks end in {suffix}, and those of the images in "
                f"{endings[0]}: train with --channels {quote(endings[0])}"
            )
    ending = _common_ending(stems, stems)
    return (
        f"{folder}: one folder was given, but no stem ends in a suffix that marks masks "
        f"({', '.join(SUFFIXES[:5])} ...). Give the folder of masks too, or --suffix"
        + (f" {quote(ending)}" if ending else "")
    )


def _strangers(
    images: Mapping[str, object],
    read: Sequence[tuple[Path, Mapping[str, Path], str]],
    strange: Collection[Path],
    channels: Sequence[str],
) -> list[Problem]:
    """What is wrong with all names at once, where no mask of a folder is named after any image.

    Args:
        images: by their stems.
        read: each folder of masks, these by their stems, and their suffix.
        strange: those of the folders of which this is so.
        channels: what stems of images end in, as given.
    """
    endings = [
        _common_ending(images, masks) if folder in strange else suffix
        for folder, masks, suffix in read
    ]
    known = [ending for ending in endings if ending is not None]
    together = known[0] if len({*known}) == 1 else ",".join(known)
    return [
        Problem(
            str(folder),
            f"no mask here is named after an image: the first image is {min(images)}, the first "
            f"mask {min(masks)}",
            "the stem of the image for its mask, or that with one ending",
            f"add --suffix {quote(together)}"
            if len(known) == len(endings)
            else _renaming(images, masks, channels),
            "no-names",
        )
        for folder, masks, _ in read
        if folder in strange
    ]


def _renaming(images: Iterable[str], masks: Collection[str], channels: Sequence[str]) -> str:
    """How to mend names that no suffix pairs."""
    fix = "rename the masks after their images"
    for suffix in () if channels else ("", *SUFFIXES):
        names = {stem.removesuffix(suffix) for stem in masks if stem.endswith(suffix)}
        if names and (endings := _channel_endings(images, names)):
            return f"{fix}, or train with --channels {quote(','.join(endings))}, in which those end"
    return fix


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


def _lonely_image(image: Path, mask: Path) -> Problem:
    return Problem(
        str(image),
        "an image without mask",
        f"{mask}.png (or another image format)",
        "add the mask, or take the image away",
        "image-without-mask",
    )


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
