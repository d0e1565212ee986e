"""The run folder: its name, which files are in which part (split.json), what it says of images.

Never overwrites: a name that is taken is numbered, or refused where the user chose it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from contorno.data.dataset import Dataset
from contorno.data.labels import Labels
from contorno.data.pairs import Pair
from contorno.ensemble import PLAN
from contorno.errors import ConfigError, InputError, Problem
from contorno.files import write_text
from contorno.progress import warn


def write_split(
    run: Path,
    training: Dataset,
    validation: Dataset,
    problems: Sequence[Problem],
    *,
    rule: str,
    groups: Mapping[str, str] | None = None,
) -> None:
    """Write split.json: the files of every name in each part; what was left out and why.

    How the masks were understood stands there too, so that a resumed run need not decide again.

    Args:
        run: folder of the run.
        training, validation: the parts.
        problems: of what was left out.
        rule: in words, how the set was parted.
        groups: group of each name, none of which is in both parts.
    """
    parts: dict[str, Any] = {
        "rule": rule,
        "labels": training.labels.model_dump(mode="json"),
    }
    if groups is not None:
        parts["groups"] = dict(groups)
    parts |= {"training": files_of(training), "validation": files_of(validation)}
    left_out = {"problems": [problem.as_dict() for problem in problems]}
    write_text(run / "split.json", json.dumps(parts | left_out, indent=1))


def free_path(chosen: str | Path | None, default: Path) -> Path:
    """The user's choice of a folder if it is free, else the default, numbered if that is taken.

    Raises:
        ConfigError: the chosen folder holds something.
    """
    path = default if chosen is None else Path(chosen)
    if _is_free(path):
        return path
    if chosen is not None:
        raise ConfigError(
            f"{path}: exists already and is left as it is; choose another --out"
            + (f", or go on with --resume {path}" if _is_run(path) else "")
        )
    number = 2
    while not _is_free(path.with_name(f"{path.name}-{number}")):
        number += 1
    return path.with_name(f"{path.name}-{number}")


def _is_free(path: Path) -> bool:
    return not path.exists() or (path.is_dir() and not any(path.iterdir()))


def _is_run(path: Path) -> bool:
    return (path / "state").is_dir() or (path / PLAN).is_file()


def read_split(path: Path) -> dict[str, Any]:
    """split.json: for each part, the pairs; the problems of the others; rule and groups."""
    try:
        parts: dict[str, Any] = json.loads(path.read_text())
        names = [*parts["training"], *parts["validation"]]
        parts["labels"] = Labels.model_validate(parts["labels"])
        for part in ("training", "validation"):
            parts[part] = pairs_of(parts[part])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.parent}: split.json cannot be read: {error}") from None
    strange = [name for name in names if Path(name).name != name]
    if strange:  # names become file names in the run folder, and must stay there
        raise InputError(f"{path}: {strange[0]!r} is no stem of a file")
    return parts


def seen_in_training(run: Path | None, dataset: Dataset) -> str:
    """In words, whether the model has seen these images in training, as far as its run knows."""
    split_file = run / "split.json" if run else None
    if split_file is None or not split_file.exists():
        return "images given to evaluate"
    parts = read_split(split_file)
    used = {pair.image for part in ("training", "validation") for pair in parts[part]}
    seen = sum(pair.image.resolve() in used for pair in dataset.pairs)
    if not seen:
        return "images given to evaluate; none is a file that the model was trained on"
    words = f"{seen} of the {len(dataset)} images were used in training this model"
    warn(f"{words}: the scores will be better than on new images.")
    return f"images given to evaluate; {words}, so expect less on new ones"


def files_of(dataset: Dataset) -> dict[str, dict[str, list[str]]]:
    """The files of every name, "images" and "masks", as they stand in a run folder."""
    return {
        pair.name: {
            "images": [str(path.resolve()) for path in pair.images],
            "masks": [str(path.resolve()) for path in pair.masks],
        }
        for pair in dataset.pairs
    }


def pairs_of(files: Mapping[str, Mapping[str, Sequence[str]]]) -> list[Pair]:
    """The pairs of `files_of`."""
    return [
        Pair(name, tuple(map(Path, each["images"])), tuple(map(Path, each["masks"])))
        for name, each in files.items()
    ]
