"""One case of the corpus, and the words that cases are described in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

Make = Callable[[Path], None]
Words = str | tuple[str, ...]  # parted by spaces, or one by one


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# What a finding may be called; the notes need nothing to be done.
NOTES = words(
    """suffix-rule hidden-file ink empty-masks ignored soft-masks stray-values rare-class few-images
    groups"""
)
UNREADABLE = words("cannot-open not-a-file empty-file not-an-image damaged too-large")
KINDS = (
    NOTES
    | UNREADABLE
    | words(
        """image-without-mask mask-without-image same-stem case-names wrong-extension no-images
        no-names channel-missing not-in-list sub-folders
        exif-rotation mixed-type mixed-channels not-finite several-pages tiny extreme-aspect
        constant-image other-range
        size-mismatch transposed-size other-coding undeclared-value not-whole one-value not-labels
        inverted class-missing class-not-in-validation identical-masks mask-equals-image
        all-ignored instance-ids mixed-kinds both-vary mixed-palette mixed-lut
        turned-round
        duplicate-image near-duplicate other-mask leak one-image"""
    )
)


@dataclass(frozen=True, eq=False)
class Case:
    """Folders with something odd in them, and what a check must say about it.

    Args:
        name: short and unique.
        entry: what it is an example of.
        make: fills an empty folder with `images`, `masks` and whatever else; always the same.
        kinds: kinds of finding that must be reported; none: nothing but notes may be.
        says: words that must stand in the path or the text of those findings.
        good: pairs that must remain usable.
        options: of `api.check`; paths in `images`, `masks`, `files` and `validation_files` are
            relative to the folder.
        fatal: nothing is usable, so an InputError or findings that leave no pair are right; None:
            whether something is usable is a matter of opinion.
        exact: no warnings or errors beyond `kinds` and `also`.
        also: kinds that may be reported too.
        clean: `kinds` are notes here, although elsewhere they are warnings.
        vanishes: files that are deleted as soon as the first image or mask is opened.
        needs: "user" where root would be let in, "names" where the file system must keep a name's
            case and bytes, "linux" where the file exists there alone.
    """

    name: str
    entry: str
    make: Make
    kinds: frozenset[str] = frozenset()
    says: tuple[str, ...] = ()
    good: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    fatal: bool | None = False
    exact: bool = True
    also: frozenset[str] = frozenset()
    clean: bool = False
    vanishes: tuple[str, ...] = ()
    needs: str = ""

    @property
    def alarms(self) -> frozenset[str]:
        """The kinds that must come as a warning or an error."""
        return frozenset() if self.clean else self.kinds - NOTES

    @property
    def exit_code(self) -> int | None:
        """What the command ends with; None where two answers are right."""
        if self.fatal:
            return 2
        if self.fatal is None or not self.exact or (self.also and not self.alarms):
            return None
        return 1 if self.alarms else 0

    def arguments(self, folder: Path) -> tuple[Path, Any, dict[str, Any]]:
        """Images, masks and options of the check of this case in `folder`."""
        options = dict(self.options)
        images = folder / options.pop("images", "images")
        masks = options.pop("masks", "masks")
        if isinstance(masks, dict):
            masks = {name: folder / inner for name, inner in masks.items()}
        elif masks is not None:
            masks = folder / masks
        for key in ("files", "validation_files"):
            if key in options:
                options[key] = folder / options[key]
        return images, masks, options


# --- cases in short; kinds are parted by spaces


def case(
    name: str,
    make: Make,
    kinds: str = "",
    good: int | None = None,
    says: Words = (),
    *,
    also: str = "",
    **rest: Any,
) -> Case:
    """One case; `under` adds its entry."""
    said = tuple(says.split()) if isinstance(says, str) else says
    return Case(name, "", make, words(kinds), said, good, also=words(also), **rest)


def refused(
    kinds: str, makes: dict[str, Make], says: Words = "odd", good: int | None = 5, **rest: Any
) -> list[Case]:
    """Cases by name whose odd pair cannot be used."""
    return [case(name, make, kinds, good, says, **rest) for name, make in makes.items()]


def used(
    kinds: str, makes: dict[str, Make], says: Words = "odd", good: int | None = 6, **rest: Any
) -> list[Case]:
    """Cases by name whose odd pair is used, with a warning or a note."""
    return refused(kinds, makes, says, good, **rest)


def fine(makes: dict[str, Make], good: int | None = 6, **rest: Any) -> list[Case]:
    """Cases by name with nothing wrong in them."""
    return refused("", makes, "", good, **rest)


def hopeless(kinds: str, makes: dict[str, Make], says: Words = "", **rest: Any) -> list[Case]:
    """Cases by name that leave nothing to use."""
    return refused(kinds, makes, says, None, fatal=True, **rest)


def under(entry: str, *cases: Case | list[Case]) -> list[Case]:
    """Cases of one entry."""
    flat = [one for some in cases for one in (some if isinstance(some, list) else [some])]
    return [replace(one, entry=entry) for one in flat]
