"""What people call from Python, and what the command line calls: puts the steps in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from contorno.checkpoint import ModelCard
from contorno.config import DataConfig, build, parse_duration, read_config
from contorno.data.dataset import Dataset
from contorno.data.dataset import load as load_data
from contorno.data.labels import Labels
from contorno.data.pairs import Pair, find_images, find_pairs, read_list, split
from contorno.errors import ConfigError, InputError, Problem
from contorno.evaluate import evaluate as score_model
from contorno.evaluate import require_two_classes
from contorno.files import sweep
from contorno.hardware import choose, cores, free_memory
from contorno.images import read_image
from contorno.model import Model, PathLike, convert, load
from contorno.predict import Outcome, predict_files
from contorno.progress import bar, clock, say, warn
from contorno.progress import size as in_bytes
from contorno.recipes import fingerprint, resolve
from contorno.report import write_report
from contorno.runfolder import free_path, read_split, seen_in_training, write_split
from contorno.train import fit, plan
from contorno.trainer import Trainer

__all__ = ["Model", "convert", "demo", "evaluate", "load", "predict", "train"]

_CACHE_SHARE = 0.5  # of the free memory may hold decoded images


def train(
    images: PathLike | None = None,
    masks: PathLike | None = None,
    *,
    out: PathLike | None = None,
    recipe: str = "auto",
    time: float | str | None = None,
    resume: PathLike | None = None,
    suffix: str | None = None,
    files: PathLike | None = None,
    validation: float = 0.2,
    validation_files: PathLike | None = None,
    foreground: str = "bright",
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    **wishes: Any,
) -> Model:
    """Train a model on images and their masks, score it on the validation part, write a report.

    Args:
        images: folder of images (and of masks, when `masks` is None).
        masks: folder of masks.
        out: run folder to make; `runs/NAME` with a free name when None.
        recipe: "auto", or "classic" for the reference notebooks.
        time: how long to train, in seconds or as "90s", "20m", "2h".
        resume: run folder to continue exactly; everything but `workers` comes from it.
        suffix: what a mask's stem has after its image's.
        files: list of stems to restrict the data to.
        validation: share of the pairs that validate.
        validation_files: list of the stems that validate.
        foreground: "bright", "dark", "nonzero" or values such as "255" or "1,2".
        device, precision: see `load`.
        workers: threads that decode and prepare batches; all cores when None.
        **wishes: values of config.toml's [training], [network] and `size` that win over the
            recipe's: epochs, batch_size, crop, size, widths, up, loss, learning_rate, seed ...

    Returns:
        The best model of the run.

    Raises:
        InputError: data or options that cannot work; all problems are listed.
        Interrupted: Ctrl-C or SIGTERM; the run can be resumed.
        TrainingError: the loss is not finite, or memory does not suffice.
    """
    workers = cores() if workers is None else workers
    wishes = {key: value for key, value in wishes.items() if value is not None}
    if resume is not None:
        _refuse_others(
            wishes,
            {"images": images, "masks": masks, "out": out, "time": time, "files": files}
            | {"suffix": suffix, "validation_files": validation_files},
            {"recipe": (recipe, "auto"), "foreground": (foreground, "bright")}
            | {"device": (device, "auto"), "precision": (precision, "auto")}
            | {"validation": (validation, 0.2)},
        )
        return _resume(Path(resume), workers)
    if images is None:
        raise ConfigError("train needs a folder of images, or --resume with a run folder")
    data = build(
        DataConfig,
        "data",
        images=_text(images),
        masks=_text(masks),
        suffix=suffix,
        files=_text(files),
        validation=validation,
        validation_files=_text(validation_files),
        foreground=foreground,
    )
    hardware = choose(device=device, precision=precision)
    if time is not None:
        if "epochs" in wishes:
            raise ConfigError("time and epochs both set the length: give one of the two")
        wishes["time"] = parse_duration(str(time))
    run = free_path(out, Path("runs") / date.today().isoformat())
    say(f"Computing on: {hardware.reason}")
    whole, problems = _read_pairs(data, workers)
    chosen = _chosen(data.validation_files, whole.names, problems)
    parts = split(whole.names, share=data.validation, seed=wishes.get("seed", 0), chosen=chosen)
    training, validation_part = (whole.subset(names) for names in parts)
    config = resolve(recipe, data, fingerprint(training), hardware, wishes)
    trainer = _plan(Trainer(config, training, validation_part, hardware, run), workers)
    write_split(run, training, validation_part, problems)
    trainer.config.write(run / "config.toml")  # last: it makes this a run folder
    _announce(trainer)
    return _finish(trainer, workers, problems)


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


def _chosen(path: str | None, names: Sequence[str], problems: list[Problem]) -> list[str] | None:
    """The stems that validate, from a list; those that no usable pair has become problems."""
    if path is None:
        return None
    stems = read_list(Path(path))
    unknown = [
        Problem(
            stem,
            f"named in {path}, but no usable pair has this stem",
            "the stem of a pair",
            "correct the list",
        )
        for stem in stems
        if stem not in names
    ]
    if unknown:
        warn(str(InputError(f"{len(unknown)} name(s) of {path} are passed over:", unknown)))
    problems += unknown
    return stems


def _plan(trainer: Trainer, workers: int) -> Trainer:
    """Fit the schedule to the time asked for, if one was; after this a run is deterministic."""
    seconds = trainer.config.training.time
    if seconds is None:
        return trainer
    reason = f"fills {clock(seconds)} at the speed measured here"
    asked = {name for name, why in trainer.config.reasons.items() if why == "as asked"}
    values = plan(trainer, seconds, workers=workers)
    values = {name: value for name, value in values.items() if f"training.{name}" not in asked}
    planned = trainer.config.replace("training", reason, **values)
    return Trainer(planned, trainer.training, trainer.validation, trainer.hardware, trainer.run)


def _resume(run: Path, workers: int) -> Model:
    if not (run / "config.toml").exists():
        raise ConfigError(
            f"{run}: no run folder to resume, or one that was stopped before training began; start "
            "it again with images, masks and another --out"
        )
    sweep(run)
    config = read_config(run / "config.toml")
    recipe = config.training
    hardware = choose(device=recipe.device, precision=recipe.precision)
    parts = read_split(run / "split.json")
    left_out = [Problem(**problem) for problem in parts.pop("problems", ())]
    pairs = [
        Pair(name, Path(image), Path(mask))
        for part in parts.values()
        for name, (image, mask) in part.items()
    ]
    pairs.sort(key=lambda pair: pair.name)  # the order in which labels were decided
    whole, problems = _decode(pairs, config.data.foreground, workers)
    if problems:
        raise InputError(f"{run}: files of this run cannot be read any more", problems)
    training, validation = (whole.subset(list(parts[part])) for part in ("training", "validation"))
    trainer = Trainer(config, training, validation, hardware, run)
    trainer.restore()
    say(f"Resuming {run} at epoch {trainer.position.epoch + 1}, step {trainer.position.step}")
    return _finish(trainer, workers, left_out)


def _finish(trainer: Trainer, workers: int, problems: Sequence[Problem]) -> Model:
    """Train to the end, score the best model on the validation part, write the report."""
    fit(trainer, workers=workers)
    run = trainer.run
    model = load(
        run, device=trainer.config.training.device, precision=trainer.config.training.precision
    )
    results = score_model(
        model.engine,
        model.card,
        trainer.validation,
        run,
        model=model.about(),
        scored_on="validation part of the training set (it chose the best epoch: expect a little "
        "optimism)",
        problems=problems,
    )
    page = write_report(run / "results.json", run=run)
    say(
        f"Validation Dice {results['per_image']['dice']['mean']:.4f} (mean over "
        f"{len(results['images'])} images, epoch {trainer.position.best_epoch})"
    )
    say(f"Model:  {run / 'model.safetensors'}\nReport: {page}")
    return model


def evaluate(
    model: PathLike | Model,
    images: PathLike,
    masks: PathLike | None = None,
    *,
    out: PathLike | None = None,
    suffix: str | None = None,
    files: PathLike | None = None,
    foreground: str | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
) -> dict[str, Any]:
    """Score a model on images and masks that it has not seen; write results.json and report.html.

    Args:
        model: model file, run folder, or a loaded `Model`.
        images, masks, suffix, files, foreground: as in `train`.
        out: folder to make; `evaluation` with a free name in the run folder (or here) when None.
        device, precision, workers: as in `train`.

    Returns:
        What is in results.json.

    Raises:
        InputError: nothing that can be scored; all problems are listed.
    """
    loaded = model if isinstance(model, Model) else load(model, device=device, precision=precision)
    require_two_classes(loaded.card)
    run = loaded.path.parent if (loaded.path.parent / "config.toml").exists() else None
    folder = free_path(out, (run or Path()) / "evaluation")
    data = build(
        DataConfig,
        "data",
        images=_text(images),
        masks=_text(masks),
        suffix=suffix,
        files=_text(files),
        foreground=foreground or "bright",
    )
    trained_on = None if foreground else loaded.card.labels
    dataset, problems = _read_pairs(
        data,
        cores() if workers is None else workers,
        labels=trained_on,
        channels=loaded.card,
        keep=False,
    )
    results = score_model(
        loaded.engine,
        loaded.card,
        dataset,
        folder,
        model=loaded.about(),
        scored_on=seen_in_training(run, dataset),
        problems=problems,
    )
    page = write_report(folder / "results.json", run=run)
    say(f"Results: {folder / 'results.json'}\nReport:  {page}")
    return results


def predict(
    model: PathLike | Model,
    inputs: Sequence[PathLike] | PathLike,
    *,
    out: PathLike,
    probabilities: str | None = None,
    overlay: bool = False,
    files: PathLike | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
) -> Outcome:
    """Write the mask of every image as PNG, named after it, in the user's mask values.

    Args:
        model: model file, run folder, foreign checkpoint, or a loaded `Model`.
        inputs: files, folders and globs.
        out: folder to write to; masks that this model made there before are skipped.
        probabilities: "png" or "tif" to write probabilities too.
        overlay: draw the outlines on the pictures too.
        files: list of stems to restrict the inputs to.
        overwrite: replace files that this model did not make.
        device, precision: see `load`.

    Raises:
        InputError: no image at all among the inputs.
    """
    if probabilities not in (None, "png", "tif"):
        raise ConfigError(f"probabilities {probabilities!r} must be png or tif")
    loaded = model if isinstance(model, Model) else load(model, device=device, precision=precision)
    several = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    images, problems = find_images(several, files=Path(files) if files else None)
    if not images:
        raise InputError("no image to predict", problems)
    mark = f"{loaded.sha256} {loaded.hardware.precision}"
    outcome = predict_files(
        loaded.engine,
        loaded.card,
        images,
        Path(out),
        fingerprint=mark,
        probabilities=probabilities,
        overlay=overlay,
        overwrite=overwrite,
    )
    outcome.problems[:0] = problems
    return outcome


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

    folder = Path(out)
    if (folder / "run").exists():
        raise ConfigError(f"{folder}: holds a demo run already; remove it or give another --out")
    say(f"Drawing a synthetic microscopy set in {folder}")
    write(folder, seed=seed)
    model = train(
        folder / "train" / "images",
        folder / "train" / "masks",
        out=folder / "run",
        time=time,
        seed=seed,
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


def _read_pairs(
    data: DataConfig,
    workers: int,
    *,
    labels: Labels | None = None,
    channels: ModelCard | None = None,
    keep: bool = True,
) -> tuple[Dataset, list[Problem]]:
    """Find and decode the pairs that `data` names; say what was found and what was left out."""
    found = find_pairs(
        Path(data.images),
        Path(data.masks) if data.masks else None,
        suffix=data.suffix,
        files=Path(data.files) if data.files else None,
    )
    if not found.pairs:
        raise InputError("no image has a mask", found.problems)
    dataset, unread = _decode(
        found.pairs, data.foreground, workers, labels=labels, keep=keep, card=channels
    )
    problems = [*found.problems, *unread]
    if problems:
        warn(
            str(
                InputError(
                    f"{len(problems)} problem(s); going on with {len(dataset)} good pair(s):",
                    problems,
                )
            )
        )
    say(f"{len(dataset)} pairs ({found.rule}). Masks: {dataset.labels.note}")
    if keep:
        say(f"Decoded images in memory: {in_bytes(dataset.cached_bytes)}")
    return dataset, problems


def _decode(
    pairs: Sequence[Pair],
    foreground: str,
    workers: int,
    *,
    labels: Labels | None = None,
    keep: bool = True,
    card: ModelCard | None = None,
) -> tuple[Dataset, list[Problem]]:
    limit = int(free_memory() * _CACHE_SHARE) if keep else 0
    with bar("Reading", len(pairs)) as advance:
        return load_data(
            pairs,
            workers=workers,
            foreground=foreground,
            labels=labels,
            cache_limit=limit,
            advance=advance,
            channels=card.network.in_channels if card else None,
            dtype=card.preprocessing.dtype if card else None,
        )


def _announce(trainer: Trainer) -> None:
    recipe, network = trainer.config.training, trainer.config.network
    parts = f"{len(trainer.training)} images for training, {len(trainer.validation)} for validation"
    length = f"{recipe.epochs} epochs of {recipe.steps_per_epoch} steps"
    if recipe.time:
        length += f", about {clock(recipe.time)}"
    say(
        f"{parts}\nRecipe {recipe.recipe}: {network.architecture} of widths "
        f"{', '.join(map(str, network.widths))}; {length}, batches of {recipe.batch_size}\n"
        f"Run folder: {trainer.run} (config.toml says why each value was chosen)"
    )


def _text(path: PathLike | None) -> str | None:
    return None if path is None else str(path)
