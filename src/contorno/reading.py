"""From the folders that a user names to decoded pairs, saying what was found and left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os.path import realpath
from pathlib import Path
from typing import Any

from contorno import __version__
from contorno.card import ModelCard
from contorno.config import DataConfig
from contorno.data.agreement import Reading
from contorno.data.check import Checked, sizes, suggestions
from contorno.data.coding import MasksError
from contorno.data.dataset import Dataset
from contorno.data.dataset import load as load_data
from contorno.data.groups import Grouping
from contorno.data.labels import Labels
from contorno.data.pairs import Found, Pair, find_pairs
from contorno.errors import ConfigError, InputError, Problem
from contorno.hardware import free_memory
from contorno.images import EXTENSIONS
from contorno.progress import bar, labels_table, say, warn
from contorno.progress import size as in_bytes

PathLike = str | Path
Masks = PathLike | Mapping[str, PathLike]  # a folder, or one for each overlapping class
_SAMPLE = 64  # pairs that are looked at before all are
_SHOWN = 3  # findings of a kind before training
_CACHE_SHARE = 0.5  # of the free memory may hold decoded images


def endings(channels: str | Sequence[str]) -> tuple[str, ...]:
    """Endings of the channels' stems, also from "_dapi,_gfp"."""
    if isinstance(channels, str):
        channels = [part.strip() for part in channels.split(",")]
    return tuple(channels)


def folders(masks: Masks | None) -> str | dict[str, str] | None:
    """Masks as `DataConfig` holds them."""
    if isinstance(masks, Mapping):
        return {name: str(folder) for name, folder in masks.items()}
    return None if masks is None else str(masks)


def read_pairs(
    data: DataConfig, workers: int, *, card: ModelCard | None = None, keep: bool = True
) -> tuple[Dataset, list[Problem]]:
    """Find and decode the pairs that `data` names; say what was found and what was left out."""
    found = find(data)
    reading = reading_of(data, upright=card.preprocessing.upright if card else None)
    if len(found.pairs) > _SAMPLE:
        _require_sample(found.pairs, reading, workers, card)
    dataset, unread = decode(found.pairs, reading, workers, keep=keep, card=card)
    problems = [p for p in (*found.problems, *unread) if p.severity != "note"]
    if problems:
        words = f"{len(problems)} problem(s); going on with {len(dataset)} good pair(s):"
        warn(str(InputError(words, problems)))
    say(f"{len(dataset)} pairs ({found.rule}). Masks: {dataset.labels.note}")
    labels_table([row.model_dump() for row in dataset.labels.table])
    if card is not None:
        _say_if_only_ignored(dataset)
    if keep:
        say(f"Decoded images in memory: {in_bytes(dataset.cached_bytes)}")
    return dataset, problems


def _say_if_only_ignored(dataset: Dataset) -> None:
    """Where a model was trained with borders to ignore, and its masks now hold nothing else."""
    seen = {value for facts in dataset.facts for mask in facts.masks for value in mask.counts}
    ignored = seen & set(dataset.labels.ignored)
    if ignored and not dataset.foreground_share():
        value = min(ignored)
        warn(
            f"no mask holds an object: {value} is ignored, as in training, and nothing else is "
            f"drawn. If {value} is what objects are drawn with here, give --foreground {value}"
        )


def find(data: DataConfig) -> Found:
    """The pairs that `data` names.

    Raises:
        InputError: there is none.
    """
    found = match(data)
    if not found.pairs:
        raise InputError("no image has a mask", found.problems)
    return found


def match(data: DataConfig) -> Found:
    """The same, also where no image has a mask; the problems say why."""
    masks: Any = data.masks
    if isinstance(masks, dict):
        masks = {name: Path(folder) for name, folder in masks.items()}
    elif masks is not None:
        masks = Path(masks)
    return find_pairs(
        Path(data.images),
        masks,
        suffix=data.suffix,
        files=Path(data.files) if data.files else None,
        channels=data.channels,
    )


def pictures_of(data: DataConfig) -> set[str]:
    """Real paths of the images and masks in the folders of `data`, paired or not."""
    masks = data.masks.values() if isinstance(data.masks, dict) else [data.masks]
    folders_ = [Path(folder) for folder in (data.images, *masks) if folder is not None]
    return {
        realpath(path)
        for folder in folders_
        for path in folder.iterdir()
        if path.suffix.lower() in EXTENSIONS
    }


def reading_of(data: DataConfig, *, upright: bool | None = None) -> Reading:
    """How pictures and masks are read; `upright` as in `Reading`."""
    return Reading(
        foreground=data.foreground,
        classes=data.classes,
        ignore=data.ignore,
        layers=tuple(data.masks) if isinstance(data.masks, dict) else (),
        pages=data.pages,
        upright=upright,
    )


def _require_sample(
    pairs: Sequence[Pair], reading: Reading, workers: int, card: ModelCard | None
) -> None:
    """What cannot work is said within seconds: not one pair of a sample can be used."""
    try:
        load_data(
            pairs[:: len(pairs) // _SAMPLE + 1], workers=workers, reading=reading, **_wanted(card)
        )
    except ConfigError:
        pass  # a value that is asked for may be in the rest
    except MasksError as error:
        if error.kind != "one-value":  # objects may be in the rest
            raise


def decode(
    pairs: Sequence[Pair],
    reading: Reading,
    workers: int,
    *,
    keep: bool = True,
    card: ModelCard | None = None,
    labels: Labels | None = None,
) -> tuple[Dataset, list[Problem]]:
    """Decode pairs, keeping them in memory if asked and as far as they fit; see `dataset.load`."""
    limit = int(free_memory() * _CACHE_SHARE) if keep else 0
    with bar("Reading", len(pairs)) as advance:
        return load_data(
            pairs,
            workers=workers,
            reading=reading,
            cache_limit=limit,
            advance=advance,
            fixed=labels is not None,
            **(_wanted(card) if labels is None else {"labels": labels}),
        )


def _wanted(card: ModelCard | None) -> dict[str, Any]:
    """What pictures and masks must be like for a trained model."""
    if card is None:
        return {}
    return {
        "labels": card.labels,
        "channels": card.network.in_channels,
        "dtype": card.preprocessing.dtype,
        "units": card.preprocessing,
    }


def say_doubts(findings: Sequence[Problem]) -> None:
    """Warnings on the whole set, a few of each kind; `check` shows them all."""
    doubts = [finding for finding in findings if finding.severity == "warning"]
    shown = [
        finding
        for kind in dict.fromkeys(finding.kind for finding in doubts)
        for finding in [f for f in doubts if f.kind == kind][:_SHOWN]
    ]
    if doubts:
        more = "" if len(shown) == len(doubts) else f", {len(doubts) - len(shown)} more not shown"
        words = f"{len(doubts)} warning(s){more}; contorno check lists all, with pictures:"
        warn(str(InputError(words, shown)))


def split_rule(data: DataConfig, grouping: Grouping | None) -> str:
    """How the set is parted, in words."""
    if data.validation_files:
        return f"the names in {data.validation_files} validate"
    given = data.validation
    share = f"{100 * given:g}%" if given else "a fifth, but no more than 50 or 2% of the pairs,"
    rule = f"{share} validate, drawn so that the share of foreground is alike"
    return rule + (f"; groups are not parted: {grouping.rule}" if grouping else "")


def check_result(data: DataConfig, found: Found, done: Checked) -> dict[str, Any]:
    """What `contorno check` says, ready for JSON."""
    done.findings[:0] = found.problems
    files = {str(path): pair for pair in found.pairs for path in (*pair.images, *pair.masks)}
    findings = []
    turned = {pair.name for pair, facts in done.good if facts.turned}
    for problem in done.findings:
        pair = files.get(problem.path)
        pictures = {} if pair is None else _pictures(pair, turned=pair.name in turned)
        findings.append(problem.as_dict() | pictures)
    order = ("error", "warning", "note")
    findings.sort(key=lambda finding: order.index(finding["severity"]))
    labels, grouping = done.labels, done.grouping
    return {
        "contorno": __version__,
        "images": data.images,
        "masks": data.masks,
        "pages": data.pages,
        "rule": found.rule,
        "pairs": len(found.pairs),
        "good": 0 if labels is None else len(done.good),
        "labels": None
        if labels is None
        else {"note": labels.note, "table": [row.model_dump() for row in labels.table]},
        "findings": findings,
        "sizes": sizes(done.good),
        "groups": None if grouping is None else {"rule": grouping.rule, "of": grouping.of},
        "suggestions": suggestions(done),
    }


def _pictures(pair: Pair, *, turned: bool) -> dict[str, Any]:
    """What the page shows beside a finding."""
    files: dict[str, Any] = {"image": str(pair.image), "masks": [str(path) for path in pair.masks]}
    if len(pair.images) > 1:
        files["images"] = [str(path) for path in pair.images]
    return files | {"turned": True} if turned else files
