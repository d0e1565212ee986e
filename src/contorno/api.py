"""What people call from Python, and what the command line calls: puts the steps in order.

What takes long to load (PyTorch, drawing) is imported by the functions that need it, so that a
single picture is predicted soon.
"""

from __future__ import annotations

import time as clock_time
from collections.abc import Iterable, Sequence
from datetime import date
from functools import partial
from json import dumps
from operator import index
from os.path import realpath
from pathlib import Path
from typing import Any

import numpy as np

from contorno.config import DataConfig, build, parse_duration
from contorno.data.groups import compiled, in_names
from contorno.data.names import find_images, names_listed, read_list, unread_below
from contorno.doubt import NAME as DOUBTS
from contorno.engines import Engine
from contorno.engines.averaging import Averaged
from contorno.ensemble import PLAN
from contorno.errors import ConfigError, InputError
from contorno.files import write_text
from contorno.hardware import choose, cores, fresh_torch
from contorno.images import read_image
from contorno.model import Model, PathLike, convert, load
from contorno.outputs import AVERAGED, drawn_into
from contorno.predict import Outcome, predict_files
from contorno.progress import bar, say, warn
from contorno.reading import (
    Masks,
    check_result,
    endings,
    folders,
    match,
    pictures_of,
    read_pairs,
    reading_of,
)
from contorno.runfolder import claimed, locked, seen_in_training, stoppable

__all__ = ["Model", "check", "convert", "demo", "evaluate", "load", "predict", "train"]


def train(
    images: PathLike | None = None,
    masks: Masks | None = None,
    *,
    out: PathLike | None = None,
    recipe: str = "auto",
    time: float | str | None = None,
    resume: PathLike | None = None,
    folds: int | None = None,
    suffix: str | None = None,
    files: PathLike | None = None,
    channels: str | Sequence[str] = (),
    pages: bool = False,
    validation: float | None = None,
    validation_files: PathLike | None = None,
    group: str | None = None,
    foreground: str | int = "bright",
    classes: str | None = None,
    ignore: str | int | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    **wishes: Any,
) -> Model:
    """Train a model on images and their masks, score it on the validation part, write a report.

    Args:
        images: folder of images (and of masks, when `masks` is None).
        masks: folder of masks, or where classes overlap, for each class its folder.
        out: run folder to make; `runs/NAME` with a free name when None.
        recipe: "auto", or "classic" for the reference notebooks.
        time: how long all of it may take, from reading the files to the report, in seconds or as
            "90s", "20m", "2h".
        resume: run folder to continue exactly; everything but `workers` comes from it.
        folds: part the pairs into so many and train a model for each, without it (`folds.start`);
            `time` is that of all. Takes the place of `validation`.
        suffix: what a mask's stem has after its image's; of several folders of masks one for all,
            or one for each, "_cells,_nuclei".
        files: text file of stems to restrict the data to, one a line.
        channels: where each channel has a file of its own, what their stems end in.
        pages: take the pages of a TIFF as channels.
        validation: share of the pairs that validate; a fifth, but no more than 50 pairs or 2% of
            them, when None.
        validation_files: text file of the stems that validate.
        group: regular expression that finds the group in a stem; groups are never parted.
        foreground: "bright", "dark", "nonzero" or values such as 255 or "1,2".
        classes: names and values, background first, such as "background=0,nucleus=255".
        ignore: mask values that are neither learnt nor scored.
        device, precision: see `load`.
        workers: threads that decode and prepare batches; all cores when None.
        **wishes: values of config.toml's [training], [network] and `size` that win over the
            recipe's: epochs, batch_size, crop, size, widths, patch, up, encoder, normalise,
            loss, optimizer, learning_rate, seed, tune ...

    Returns:
        The best model of the run.

    Raises:
        InputError: data or options that cannot work; all problems are listed.
        MissingExtra: an option needs a library that is not installed.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        TrainingError: the loss is not finite, or memory does not suffice.
    """
    began = clock_time.monotonic()
    threads = _threads(workers)
    wishes = {key: value for key, value in wishes.items() if value is not None}
    if resume is not None:
        _refuse_others(
            wishes,
            {"images": images, "masks": masks, "out": out, "time": time, "files": files}
            | {
                "folds": folds,
                "suffix": suffix,
                "validation": validation,
                "validation_files": validation_files,
                "group": group,
            }
            | {"classes": classes, "ignore": ignore, "channels": channels or None},
            {"recipe": (recipe, "auto"), "foreground": (foreground, "bright")}
            | {"pages": (pages, False)}
            | {"device": (device, "auto"), "precision": (precision, "auto")},
        )
        from contorno import folds as cross_validation
        from contorno import training

        with stoppable(Path(resume)), fresh_torch():
            if (Path(resume) / PLAN).exists():
                return cross_validation.resume(Path(resume), threads)
            return training.resume(Path(resume), threads)
    if images is None:
        raise ConfigError("train needs a folder of images, or --resume with a run folder")
    data = _data(
        images,
        masks,
        files,
        ignore,
        suffix=suffix,
        channels=endings(channels),
        pages=pages,
        validation=validation,
        validation_files=_text(validation_files),
        group=group,
        foreground=foreground,
        classes=classes,
    )
    if validation is not None and validation_files is not None:
        raise ConfigError(
            "validation and validation_files both say what validates: give one of the two"
        )
    if time is not None:
        if "epochs" in wishes:
            raise ConfigError("time and epochs both set the length: give one of the two")
        wishes["time"] = parse_duration(time)
    from contorno.recipes import sound_wishes

    wishes = sound_wishes(recipe, wishes)
    count = None if folds is None else _whole("folds", folds, least=2)
    given: dict[str, Any] = {"recipe": recipe, "wishes": wishes, "workers": threads, "began": began}
    default = Path("runs") / date.today().isoformat()
    with claimed(out, default) as run, stoppable(run), locked(run), fresh_torch():
        hardware = choose(device=device, precision=precision)
        if count is not None:
            from contorno import folds as cross_validation

            return cross_validation.start(data, run, hardware, folds=count, **given)
        from contorno import training

        return training.start(data, run, hardware, **given)


def _refuse_others(
    wishes: dict[str, Any], given: dict[str, Any], changed: dict[str, tuple[Any, Any]]
) -> None:
    """A resumed run takes its options from its folder: others would be ignored in silence."""
    names = [name for name, value in given.items() if value is not None] + list(wishes)
    names += [name for name, (value, default) in changed.items() if value != default]
    if names:
        raise ConfigError(
            f"resume takes everything from the run folder, the device included; leave out "
            f"{', '.join(names)}"
        )


def evaluate(
    model: PathLike | Model,
    images: PathLike,
    masks: Masks | None = None,
    *,
    out: PathLike | None = None,
    suffix: str | None = None,
    files: PathLike | None = None,
    foreground: str | int | None = None,
    classes: str | None = None,
    ignore: str | int | None = None,
    group: str | None = None,
    tta: bool = False,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
) -> dict[str, Any]:
    """Score a model on images and masks that it has not seen; write results.json and report.html.

    Args:
        model: model file, run folder, or a loaded `Model`.
        images, masks, suffix, files, foreground, classes, ignore: as in `train`; needed only where
            these masks are coded otherwise than those of the training.
        group: as in `train`; intervals are over groups, where there are any, and not over images.
        out: folder to make; `evaluation` with a free name in the run folder (or here) when None.
        tta: average the probabilities over mirrored and turned pictures; 4 to 8 times the work.
        engine, device, precision: see `load`; of a loaded model they are given there.
        workers: as in `train`.

    Returns:
        What is in results.json.

    Raises:
        InputError: nothing that can be scored; all problems are listed.
    """
    from contorno.evaluate import evaluate as score_model
    from contorno.report import write_report

    threads = _threads(workers)
    loaded = _loaded(model, device, precision, engine)
    run = loaded.run
    data = _data(
        images,
        masks,
        files,
        ignore,
        suffix=suffix,
        channels=loaded.card.preprocessing.channels,
        pages=loaded.card.preprocessing.pages,
        group=group,
        foreground=foreground,
        classes=classes,
    )
    with claimed(out, (run or Path()) / "evaluation") as folder:
        dataset, problems = read_pairs(data, threads, card=loaded.card, keep=False)
        grouping = in_names(dataset.names, group)
        if grouping is not None:
            say(f"Intervals are over {len({*grouping.of.values()})} groups: {grouping.rule}")
        results = score_model(
            _engine(loaded, tta),
            loaded.card,
            dataset,
            folder,
            model=loaded.about(),
            scored_on=seen_in_training(loaded.members[0].run, dataset),
            problems=problems,
            groups=None if grouping is None else grouping.of,
        )
        single = len(loaded.members) == 1
        page = write_report(folder / "results.json", run=run if single else None)
        say(f"Results: {folder / 'results.json'}\nReport:  {page}")
    return results


def check(
    images: PathLike,
    masks: Masks | None = None,
    *,
    suffix: str | None = None,
    files: PathLike | None = None,
    channels: str | Sequence[str] = (),
    pages: bool = False,
    validation_files: PathLike | None = None,
    group: str | None = None,
    foreground: str | int = "bright",
    classes: str | None = None,
    ignore: str | int | None = None,
    json: PathLike | None = None,
    page: PathLike | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """Look at images and masks as `train` would, and say everything that is wrong or looks wrong.

    Nothing is changed. Every file is read once.

    Args:
        images, masks, suffix, files, channels, pages, group, foreground, classes, ignore: as in
            `train`.
        validation_files: text file of the stems that validate, to be checked for leaks.
        json: file to write the result to; it may take the place of what `check` wrote before.
        page: HTML page to write, with a picture of every suspicious pair; likewise.
        workers: threads that read; all cores when None.

    Returns:
        What is written to `json`: "findings", each with severity ("error", "warning", "note"),
        kind, path, what, expected and fix; "labels"; "pairs" and "good", how many were found and
        can be used; "sizes", "groups" and "suggestions".

    Raises:
        InputError: a folder that is missing or holds no image; or options that cannot work.
    """
    from contorno.check_page import replaceable, write_page
    from contorno.data.check import check as look

    began, threads = clock_time.monotonic(), _threads(workers)
    data = _data(
        images,
        masks,
        files,
        ignore,
        suffix=suffix,
        channels=endings(channels),
        pages=pages,
        validation_files=_text(validation_files),
        group=group,
        foreground=foreground,
        classes=classes,
    )
    found = match(data)
    listed = read_list(Path(validation_files)) if validation_files else ()
    written = [file for file in (json, page) if file is not None]
    if len({*map(realpath, written)}) < len(written):
        raise ConfigError(f"{page}: json and page are one file; give each a name of its own")
    pictures = pictures_of(data) if written else ()
    for file in written:
        if realpath(file) in pictures:
            raise ConfigError(f"{file}: one of the images or masks themselves; choose another name")
        if not replaceable(Path(file)):
            raise ConfigError(f"{file}: a file that check did not write; choose another name")
    with bar("Checking", len(found.pairs)) as advance:
        done = look(
            found.pairs,
            workers=threads,
            reading=reading_of(data),
            validation=names_listed(listed, {pair.name for pair in found.pairs}, data.channels),
            pattern=group,
            advance=advance,
        )
    result = check_result(data, found, done) | {"seconds": round(clock_time.monotonic() - began, 3)}
    if json is not None:
        write_text(Path(json), dumps(result, indent=1))
    if page is not None:
        write_page(result, Path(page))
    return result


def predict(
    model: PathLike | Model,
    inputs: Iterable[PathLike] | PathLike,
    *,
    out: PathLike,
    probabilities: str | None = None,
    overlay: bool = False,
    files: PathLike | None = None,
    overwrite: bool = False,
    tta: bool = False,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
) -> Outcome:
    """Write the mask of every image as PNG, named after it, in the user's mask values.

    Args:
        model: model file, run folder, foreign checkpoint, or a loaded `Model`.
        inputs: files, folders and globs.
        out: folder to write to; masks that this model made there before, with whatever engine, are
            skipped.
        probabilities: "png" or "tif" to write probabilities too.
        overlay: draw the outlines on the pictures too.
        files: text file of stems to restrict the inputs to.
        overwrite: replace files that this model did not make.
        tta: as in `evaluate`.
        engine, device, precision: as in `evaluate`.

    Raises:
        InputError: no image at all among the inputs.
    """
    if probabilities not in (None, "png", "tif"):
        raise ConfigError(f"probabilities {probabilities!r} must be png or tif")
    loaded = _loaded(model, device, precision, engine)
    several = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    images, problems = find_images(
        several,
        files=Path(str(files)) if files else None,
        channels=loaded.card.preprocessing.channels,
        drawn=partial(drawn_into, Path(out), (DOUBTS,)),
    )
    notes = [problem for problem in problems if problem.severity == "note"]
    problems = [problem for problem in problems if problem not in notes]
    if not images:
        raise InputError("no image to predict", problems)
    inside = [folder for folder in map(Path, several if files is None else ()) if folder.is_dir()]
    known = {*map(realpath, [out, *inside])}
    for folder in inside:
        if realpath(folder) != realpath(out):
            for unread in unread_below(folder, known):
                warn(str(unread))
    for note in notes if files is None else ():
        say(str(note))
    runs = _engine(loaded, tta)
    say(f"Computing with: {runs.name}")
    mark = loaded.sha256 + (AVERAGED if runs is not loaded.engine else "")
    outcome = predict_files(
        runs,
        loaded.card,
        images,
        Path(out),
        fingerprint=mark,
        probabilities=probabilities,
        overlay=overlay,
        overwrite=overwrite,
        workers=cores(),
    )
    outcome.problems[:0] = problems
    return outcome


def _engine(model: Model, tta: bool) -> Engine:
    """The model's engine; one that averages where that is asked for, now or by the card."""
    return Averaged(model.engine) if tta or model.card.tuned.tta else model.engine


def bench(
    model: PathLike | Model,
    images: PathLike | None = None,
    masks: Masks | None = None,
    *,
    files: PathLike | None = None,
    size: int = 512,
    rounds: int = 5,
    device: str = "auto",
    precision: str = "auto",
) -> dict[str, Any]:
    """Measure a model's engines on this machine; "auto" then takes the fastest.

    With pictures and masks, or where those that a run was trained on are still there, an 8-bit form
    is made and held against the others on validation pictures; half of those given are used for
    each. Without, random noise is timed.

    Args:
        model: model file, run folder, or a loaded `Model`.
        images, masks, files: as in `evaluate`.
        size: edge of the picture that is timed, where there is none.
        rounds: that the engines are timed in.
        device, precision: as in `evaluate`.

    Returns:
        See `bench.bench`.
    """
    from contorno.bench import bench as measure

    if images is None and (masks is not None or files is not None):
        name = "files" if masks is None else "masks"
        raise ConfigError(f"{name} without images: give the folder of images too")
    loaded = _loaded(model, device, precision)
    data = None
    if images is not None:
        data = _data(
            images,
            masks,
            files,
            None,
            channels=loaded.card.preprocessing.channels,
            pages=loaded.card.preprocessing.pages,
            foreground=None,
        )
    with fresh_torch():
        return measure(loaded, data, size=size, rounds=rounds)


def demo(
    out: PathLike = "contorno-demo", *, time: float | str = "75s", seed: int = 0
) -> dict[str, Any]:
    """Draw a synthetic microscopy set, train on it, score the model on images it never saw.

    Args:
        out: folder to make.
        time: how long to train.
        seed: of the pictures and of the training.

    Returns:
        The results on the held-out images, with Otsu's Dice on them as "otsu_dice".
    """
    from contorno.data.demo import otsu_dice, write
    from contorno.images import read_mask
    from contorno.recipes import sound_wishes

    folder = Path(out)
    if (folder / "run").exists():
        raise ConfigError(f"{folder}: holds a demo run already; remove it or give another --out")
    wishes = sound_wishes("auto", {"time": parse_duration(time), "seed": seed})
    say(f"Drawing a synthetic microscopy set in {folder}")
    write(folder, seed=wishes["seed"])
    model = train(
        folder / "train" / "images", folder / "train" / "masks", out=folder / "run", **wishes
    )
    test_images, test_masks = folder / "test" / "images", folder / "test" / "masks"
    results = evaluate(model, test_images, test_masks)
    otsu = [
        otsu_dice(read_image(path), read_mask(test_masks / path.name))
        for path in sorted(test_images.iterdir())
    ]
    say(
        f"Held-out images: Otsu's threshold, mean Dice {np.mean(otsu):.3f}; contorno, mean Dice "
        f"{results['per_image']['dice']['mean']:.3f}"
    )
    return results | {"otsu_dice": float(np.mean(otsu))}


def _loaded(model: PathLike | Model, device: str, precision: str, engine: str = "auto") -> Model:
    """The model; one that is loaded has its engine, and options for another would be ignored."""
    options = {"device": device, "precision": precision, "engine": engine}
    if not isinstance(model, Model):
        return load(model, **options)
    if given := [f"{name}={value!r}" for name, value in options.items() if value != "auto"]:
        raise ConfigError(
            f"{', '.join(given)}: the model is loaded already, and runs as it was loaded; expected "
            "these options with a path alone. Give them to contorno.load"
        )
    return model


def _threads(workers: int | None) -> int:
    """As many as asked for, else one for each core."""
    return cores() if workers is None else _whole("workers", workers)


def _whole(name: str, given: int, *, least: int = 0) -> int:
    """A count of any type of whole numbers, NumPy's too."""
    try:
        count = index(given)
    except TypeError:
        count = -1
    if count < least:
        raise ConfigError(f"{name} ({given!r}) must be a whole number, {least} or more")
    return count


def _data(
    images: PathLike,
    masks: Masks | None,
    files: PathLike | None,
    ignore: str | int | None,
    *,
    foreground: str | int | None,
    **rest: Any,
) -> DataConfig:
    if rest.get("classes") is not None and foreground not in (None, "bright"):
        raise ConfigError(
            "classes and foreground both say what the values of masks are: give one of the two"
        )
    data: DataConfig = build(
        DataConfig,
        "data",
        images=str(images),
        masks=folders(masks),
        files=_text(files),
        ignore=_text(ignore),
        foreground=_text(foreground),
        **rest,
    )
    if data.group is not None:
        compiled(data.group)  # what is wrong is said at once
    return data


def _text(given: PathLike | int | None) -> str | None:
    return None if given is None else str(given)
