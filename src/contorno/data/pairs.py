"""Which mask belongs to which image: by stem, in two folders or in one with a suffix rule.

Looks at names only; what is in the files is left to `dataset`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from contorno.data.names import channel_files, files_by_stem, unread_below, wanted_stems
from contorno.errors import InputError, Problem

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
        suffix: what a mask's stem has after its image's, such as "_mask"; guessed when None.
        files: text file of stems or paths, one a line; only these are taken.
        channels: what the stems of a picture's files end in, one for each channel.

    Raises:
        InputError: a folder that is missing or holds no image at all.
    """
    told: set[str] = set()  # stems with a problem of their own: their partners are not lonely
    entries, problems = files_by_stem(images, told)
    folders = [masks] if isinstance(masks, Path) else list((masks or {}).values())
    together = not folders or folders[0].resolve() == images.resolve()
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
        problems += unread_below(images, folders)
    if not together:
        read = [files_by_stem(folder, told) for folder in folders]
        mask_files = [by_stem for by_stem, _ in read]
        problems += [problem for _, found in read for problem in found]
        if suffix is None:
            suffix = _guess_suffix(pictures, mask_files[0])
            plain = sum(stem in mask_files[0] for stem in pictures)
            ends = sum(stem.endswith(suffix) for stem in mask_files[0]) if suffix else 0
            suffix = suffix if ends > plain else None
    suffix = suffix or ""
    if suffix and not any(stem.endswith(suffix) for by_stem in mask_files for stem in by_stem):
        raise InputError(f"{folders[0]}: no stem of a mask ends in the suffix {suffix!r}")
    if suffix:
        problems.append(_suffix_rule(folders[0], suffix))
    problems += _case_twins(pictures)
    mask_files = [_same_but_for_case(pictures, by_stem, suffix, problems) for by_stem in mask_files]
    wanted = wanted_stems(files, pictures, problems) if files else set(pictures)
    strange = {
        folder: _strangers(folder, pictures, by_stem, channels)
        for folder, by_stem in zip(folders, mask_files, strict=True)
        if files is None
        and min(len(pictures), len(by_stem)) > 1
        and not any(stem + suffix in by_stem for stem in pictures)
    }
    problems += strange.values()
    pairs = []
    for stem in sorted(wanted):
        lacking = [
            folder
            for folder, by_stem in zip(folders, mask_files, strict=True)
            if stem + suffix not in by_stem
        ]
        if stem + suffix not in told:
            problems += [
                _lonely_image(pictures[stem][0], folder / (stem + suffix))
                for folder in lacking
                if folder not in strange
            ]
        if not lacking:
            own = tuple(by_stem[stem + suffix] for by_stem in mask_files)
            pairs.append(Pair(stem, pictures[stem], own))
    if files is None:
        for folder, by_stem in zip(folders, mask_files, strict=True):
            if folder not in strange:
                problems += _lonely_masks({**pictures, **dict.fromkeys(told)}, by_stem, suffix)
    rule = f"masks are matched by stem + {suffix!r}" if suffix else "masks are matched by stem"
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
    folder: Path,
    images: Mapping[str, object],
    masks: Mapping[str, Path],
    channels: Sequence[str],
) -> Problem:
    """What is wrong with all names at once, where no mask is named after any image."""
    fix = "rename the masks after their images"
    if ending := _common_ending(images, masks):
        fix = f"add --suffix {quote(ending)}"
    elif not channels:
        for suffix in ("", *SUFFIXES):
            names = {stem.removesuffix(suffix) for stem in masks if stem.endswith(suffix)}
            if names and (endings := _channel_endings(images, names)):
                fix += f", or train with --channels {quote(','.join(endings))}, in which those end"
                break
    first, *_ = sorted(masks)
    return Problem(
        str(folder),
        f"no mask here is named after an image: the first image is {min(images)}, the first mask "
        f"{first}",
        "the stem of the image for its mask, or that with one ending",
        fix,
        "no-names",
    )


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
