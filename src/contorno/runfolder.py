"""The run folder: its name, which files are in which part (split.json), what it says of images.

Never overwrites: a name that is taken is numbered, or refused where the user chose it. A name is
taken by making the folder, and one process at a time trains in it.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from contorno.config import Config
from contorno.data.dataset import Dataset
from contorno.data.labels import Labels
from contorno.data.pairs import Pair
from contorno.ensemble import PLAN
from contorno.errors import ConfigError, InputError, Interrupted, Problem
from contorno.files import TEMPORARY_PREFIX, sha256, storage_error, sweep, write_text
from contorno.progress import warn
from contorno.signals import StopRequest, go_on

if sys.platform != "win32":
    import fcntl

LOCK = "lock"
_PATHS = ("images", "masks", "files", "validation_files")  # in section [data] of config.toml


def write_split(
    run: Path,
    training: Dataset,
    validation: Dataset,
    problems: Sequence[Problem],
    *,
    rule: str,
    digests: Mapping[str, str],
    groups: Mapping[str, str] | None = None,
) -> None:
    """Write split.json: the files of every name in each part; what was left out and why.

    How the masks were understood stands there too, so that a resumed run need not decide again.

    Args:
        run: folder of the run.
        training, validation: the parts.
        problems: of what was left out.
        rule: in words, how the set was parted.
        digests: of configuration and data, by which a changed one is noticed.
        groups: group of each name, none of which is in both parts.
    """
    parts: dict[str, Any] = {
        "rule": rule,
        "labels": training.labels.model_dump(mode="json"),
    }
    if groups is not None:
        parts["groups"] = dict(groups)
    parts |= {"training": files_of(training), "validation": files_of(validation)}
    parts["contents"] = sorted({*_contents(training), *_contents(validation)} - {""})
    parts["begun"] = dict(digests)
    left_out = {"problems": [problem.as_dict() for problem in problems]}
    write_text(run / "split.json", json.dumps(parts | left_out, indent=1))


def digests_of(config: Config, training: Dataset, validation: Dataset) -> dict[str, str]:
    """SHA-256 of what a run can be continued exactly with alone: its configuration and its data.

    The same data may be named by another path, and what is tuned is decided after training.
    """
    values = config.model_dump(mode="json", exclude={"reasons", "data"})
    del values["training"]["tune"]
    labels = training.labels.model_dump_json(exclude={"note", "table"})
    options = config.data.model_dump(mode="json", exclude={*_PATHS})
    return {
        "config": sha256(json.dumps(values, sort_keys=True).encode()),
        "section [data] of the config": sha256(json.dumps(options, sort_keys=True).encode()),
        "data": sha256(f"{training.digest()} {validation.digest()} {labels}".encode()),
    }


def refuse_if_changed(run: Path, now: Mapping[str, str], before: Mapping[str, Any]) -> None:
    """Raise ConfigError if configuration or data of a run have other digests than before."""
    for name, digest in now.items():
        if before.get(name, digest) != digest:
            files = "restore the files of split.json as they were"
            fix = files if name == "data" else "undo the change to config.toml"
            raise ConfigError(
                f"{run}: the {name} changed since this run was stopped, so it "
                f"cannot be continued exactly; {fix}, or start a new run"
            )


@contextmanager
def claimed(chosen: str | Path | None, default: Path) -> Iterator[Path]:
    """Make the folder of a run or an evaluation; it goes again if nothing was begun in it.

    Args:
        chosen: the user's choice.
        default: without one; numbered if that is taken.

    Raises:
        ConfigError: the chosen folder holds something, or no model could be read from it.
        StorageError: the folder cannot be made.
    """
    path, made = _free(default) if chosen is None else _chosen(Path(chosen))
    try:
        yield path
    finally:
        with suppress(OSError):
            if made and os.listdir(path) == ["split.json"]:  # no run without config.toml
                (path / "split.json").unlink()
        for folder in made:
            with suppress(OSError):  # not empty
                folder.rmdir()


def _chosen(path: Path) -> tuple[Path, list[Path]]:
    """The user's folder, and those that were made for it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f"{path}: a name that is not UTF-8, and safetensors reads no model from there; choose "
            "another --out"
        ) from None
    made = [] if _is_empty(path) else _make(path)
    if made is None:
        raise ConfigError(
            f"{path}: exists already and is left as it is; choose another --out"
            + (f", or go on with --resume {shlex.quote(str(path))}" if _is_run(path) else "")
        )
    return path, made


def _free(default: Path) -> tuple[Path, list[Path]]:
    """The first name that nothing has, and the folders that were made for it."""
    path, number = default, 1
    while (made := _make(path)) is None:
        number += 1
        path = default.with_name(f"{default.name}-{number}")
    return path, made


def _make(path: Path) -> list[Path] | None:
    """Make a folder and those around it; what was made, innermost first; None if it is there."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True)
    except OSError as error:
        if os.path.lexists(path):
            return None
        raise storage_error(path, 0, error) from error
    return missing


def _is_empty(path: Path) -> bool:
    """Whether a folder holds nothing, or only what was left of a run that never began."""
    return path.is_dir() and all(map(_is_left_over, path.iterdir()))


def _is_left_over(path: Path) -> bool:
    """Whether a file is what a run writes before its config.toml makes the folder one."""
    if path.name == "split.json":
        with suppress(InputError):
            return bool(read_split(path))
    return path.name == LOCK or path.name.startswith(TEMPORARY_PREFIX)


@contextmanager
def stoppable(run: Path) -> Iterator[None]:
    """Let signals end at once what no other place minds them in, such as reading the files.

    Args:
        run: folder of the run, whether it was begun yet or not.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    stop = StopRequest(at_once=True)
    try:
        with stop:
            yield
    except KeyboardInterrupt:
        words = f"Stopped. {go_on(run)}" if _is_run(run) else "Stopped before training began"
        raise Interrupted(words, exit_code=128 + (stop.signal or signal.SIGINT)) from None


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Let no other process train in a folder, which is made if it is not there, meanwhile.

    The lock ends with the process, however that ends; files that a killed one left half written
    go. On Windows nothing is locked.

    Raises:
        ConfigError: another process trains there.
        StorageError: nothing can be written there.
    """
    if sys.platform == "win32":
        _sweep(run)
        yield
        return
    path = run / LOCK
    with _lock(path):
        try:
            _sweep(run)
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _sweep(run: Path) -> None:
    """Remove what a killed process left half written in a run folder and among its masks."""
    for folder in (run, *run.glob("predictions/**/"), *run.glob("truths/**/")):
        sweep(folder)


def _lock(path: Path) -> BinaryIO:
    """The file, locked until it is closed."""
    while True:
        file = _open(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ConfigError(
                f"{path.parent}: another process is training in this folder; wait for its end, or "
                "stop it first (Ctrl-C: it saves)"
            ) from None
        except OSError as error:  # some network file systems
            warn(f"{path}: cannot be locked ({error.strerror}): do not train here twice at a time")
            return file
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()  # the one before removed it between our opening and locking it


def _open(path: Path) -> BinaryIO:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("ab")
    except OSError as error:
        raise storage_error(path, 0, error) from error


def _is_run(path: Path) -> bool:
    """Whether a run was begun in a folder, or one of folds, that can be resumed."""
    return (
        all((path / name).is_file() for name in ("config.toml", "split.json"))
        or (path / PLAN).is_file()
    )


def read_split(path: Path) -> dict[str, Any]:
    """split.json: for each part, the pairs; the problems of the others; rule and groups."""
    try:
        parts: dict[str, Any] = json.loads(path.read_text())
        names = [*parts["training"], *parts["validation"]]
        parts["labels"] = Labels.model_validate(parts["labels"])
        for part in ("training", "validation"):
            parts[part] = pairs_of(parts[part])
        _require_alike([*parts["training"], *parts["validation"]])
        parts["problems"] = [Problem(**problem) for problem in parts.get("problems", ())]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path.parent}: split.json cannot be read: {error}") from None
    strange = [name for name in names if Path(name).name != name]
    if strange:  # names become file names in the run folder, and must stay there
        raise InputError(f"{path}: {strange[0]!r} is no stem of a file")
    return parts


def _require_alike(pairs: Sequence[Pair]) -> None:
    """Raise ValueError for a pair that has not as many files as the others, or none."""
    counts = [(len(pair.images), len(pair.masks)) for pair in pairs]
    for pair, count in zip(pairs, counts, strict=True):
        if 0 in count or count != counts[0]:
            raise ValueError(
                f"{pair.name!r} has {count[0]} image(s) and {count[1]} mask(s); expected as many "
                "as others have"
            )


def seen_in_training(run: Path | None, dataset: Dataset) -> str:
    """In words, whether the model has seen these images in training, as far as its run knows.

    They are known by their files, and by their contents where these were moved or copied.
    """
    split_file = run / "split.json" if run else None
    if split_file is None or not split_file.exists():
        return "images given to evaluate"
    parts = read_split(split_file)
    used = {pair.image for part in ("training", "validation") for pair in parts[part]}
    contents = set(parts.get("contents", ()))
    seen = sum(
        pair.image.resolve() in used or content in contents
        for pair, content in zip(dataset.pairs, _contents(dataset), strict=True)
    )
    if not seen:
        return "images given to evaluate; the model was trained on none of them"
    were = "was" if seen == 1 else "were"
    words = f"{seen} of the {len(dataset)} images {were} used in training this model"
    warn(f"{words}: the scores will be better than on new images.")
    return f"images given to evaluate; {words}, so expect less on new ones"


def _contents(dataset: Dataset) -> list[str]:
    """A checksum of each picture, with its size; of a constant one, which says nothing, ""."""
    return [facts.check[0].hex() if facts.low < facts.high else "" for facts in dataset.facts]


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
