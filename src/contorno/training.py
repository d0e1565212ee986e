"""A training run from folders to report: begun, or continued from its run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contorno.card import Tuned
from contorno.checkpoint import save_card
from contorno.config import Config, DataConfig, read_config
from contorno.data.check import look_at_set
from contorno.data.dataset import Dataset
from contorno.data.groups import Grouping, split
from contorno.data.labels import Labels
from contorno.data.names import names_listed, read_list, unknown_stems
from contorno.data.pairs import Pair
from contorno.early import about_parts, about_time
from contorno.errors import ConfigError, InputError, Problem
from contorno.evaluate import evaluate
from contorno.fingerprint import fingerprint
from contorno.hardware import Hardware, choose, require_again
from contorno.model import Model, load
from contorno.pace import TUNING, plan
from contorno.progress import clock, say, warn
from contorno.reading import decode, read_pairs, reading_of, say_doubts, split_rule
from contorno.recipes import larger, resolve
from contorno.report import write_report
from contorno.runfolder import locked, read_split, write_split
from contorno.signals import resumable
from contorno.train import AFTER, fit
from contorno.trainer import Trainer
from contorno.tune import tune, words


@dataclass(frozen=True)
class Material:
    """What a run is made of: every usable pair, what was left out, and what belongs together.

    Args:
        pairs: decoded.
        problems: of those that cannot be used.
        chosen: stems that the user wants to validate with; None: contorno draws them.
        grouping: names that must not be parted, if any.
    """

    pairs: Dataset
    problems: list[Problem]
    chosen: list[str] | None
    grouping: Grouping | None

    @property
    def foreground(self) -> dict[str, float]:
        """Share of the pixels of each mask that are foreground."""
        return {name: self.pairs.foreground_share(i) for i, name in enumerate(self.pairs.names)}


def read_material(data: DataConfig, workers: int) -> Material:
    """Read the pairs of a new run, and say what was found."""
    path = data.validation_files
    chosen = None if path is None else read_list(Path(path))  # what is wrong is said at once
    pairs, problems = read_pairs(data, workers)
    if chosen is not None:
        chosen = names_listed(chosen, pairs.names, data.channels)
        problems += _passed_over(chosen, pairs.names, f"named in {path}")
    good = list(zip(pairs.pairs, pairs.facts, strict=True))
    findings, grouping = look_at_set(
        good, pairs.labels, pages=data.pages, validation=chosen or (), pattern=data.group
    )
    say_doubts(findings)
    return Material(pairs, problems, chosen, grouping)


def start(
    data: DataConfig,
    run: Path,
    hardware: Hardware,
    *,
    recipe: str,
    wishes: Mapping[str, Any],
    workers: int,
    began: float | None = None,
) -> Model:
    """Read the pairs, part them, choose a configuration, train; see `api.train`.

    Args:
        data: where the pairs are and how to read them.
        run: folder to make.
        hardware: what trains.
        recipe, wishes: see `recipes.resolve`.
        workers: threads that decode and prepare batches.
        began: `time.monotonic()` at which the command began, for a run that keeps a time.
    """
    began = time.monotonic() if began is None else began
    say(f"Computing on: {hardware.reason}")
    found = read_material(data, workers)
    parts = split(
        found.pairs.names,
        share=data.validation,
        seed=wishes.get("seed", 0),
        chosen=found.chosen,
        grouping=found.grouping,
        foreground=found.foreground,
    )
    training, validation = (found.pairs.subset(names) for names in parts)
    config = resolve(recipe, data, fingerprint(training), hardware, wishes)
    trainer = begin(
        Trainer(config, training, validation, hardware, run, began=began),
        found.problems,
        rule=split_rule(data, found.grouping),
        groups=None if found.grouping is None else found.grouping.of,
        workers=workers,
    )
    return finish(trainer, found.problems, workers=workers)


def resume(run: Path, workers: int) -> Model:
    """Continue a run; see `api.train`."""
    began = time.monotonic()
    if not (run / "config.toml").exists():
        raise ConfigError(
            f"{run}: no run folder to resume, or one that was stopped before training began; start "
            "it again with images and masks"
        )
    with locked(run):
        config = read_config(run / "config.toml")
        require_again(run, device=config.training.device)
        parts = read_split(run / "split.json")
        pairs = [*parts["training"], *parts["validation"]]
        upright = config.preprocessing.upright
        whole = read_again(
            run, config.data, pairs, parts["labels"], upright=upright, workers=workers
        )
        trainer = restored(run, config, whole, parts, began=began)
        return finish(trainer, parts["problems"], workers=workers)


def read_again(
    run: Path,
    data: DataConfig,
    pairs: Sequence[Pair],
    labels: Labels,
    *,
    upright: bool,
    workers: int,
) -> Dataset:
    """Decode the pairs of a run that was begun, as they were understood then.

    Raises:
        InputError: files that were read before cannot be any more.
    """
    pairs = sorted(pairs, key=lambda pair: pair.name)  # the order in which labels were decided
    whole, problems = decode(pairs, reading_of(data, upright=upright), workers, labels=labels)
    if problems:
        raise InputError(f"{run}: files of this run cannot be read any more", problems)
    return whole


def begin(
    trainer: Trainer,
    problems: Sequence[Problem],
    *,
    rule: str,
    groups: Mapping[str, str] | None,
    workers: int,
    fold: bool = False,
) -> Trainer:
    """Fit a new run to its time, make its folder, and say what is going to happen.

    Args:
        trainer: new.
        problems, rule, groups: see `write_split`.
        workers: threads that prepare batches.
        fold: whether it is one of several folds.
    """
    trainer, run = _plan(trainer, workers), trainer.run
    trainer.fetch()
    write_split(
        run,
        trainer.training,
        trainer.validation,
        problems,
        rule=rule,
        digests=trainer.digests,
        groups=groups,
    )
    trainer.config.write(run / "config.toml")  # last: it makes this a run folder
    _announce(trainer, fold=fold)
    return trainer


def restored(
    run: Path,
    config: Config,
    whole: Dataset,
    parts: Mapping[str, Any],
    *,
    began: float | None = None,
) -> Trainer:
    """The trainer of a run that was begun, where it stopped.

    Args:
        run: its folder.
        config: its configuration.
        whole: all pairs of the run, decoded.
        parts: its split.json.
        began: `time.monotonic()` at which the command began; now when None.

    Raises:
        InputError: the split of a fold names what is no pair of the run.
    """
    names = [[pair.name for pair in parts[part]] for part in ("training", "validation")]
    if strange := sorted({*names[0], *names[1]} - {*whole.names}):
        raise InputError(f"{run}: split.json names {strange[0]!r}, no pair of the run; restore it")
    training, validation = (whole.subset(part) for part in names)
    recipe = config.training
    hardware = choose(device=recipe.device, precision=recipe.precision)
    trainer = Trainer(config, training, validation, hardware, run, began=began)
    trainer.restore(parts.get("begun"))
    say(f"Resuming {run} at epoch {trainer.position.epoch + 1}, step {trainer.position.step}")
    return trainer


def _passed_over(stems: Sequence[str], names: Sequence[str], where: str) -> list[Problem]:
    """Those of the stems that shall validate which no usable pair has, told as problems."""
    unknown = unknown_stems(stems, {*names}, f"{where}, but no usable pair has this stem")
    if unknown:
        words = f"{len(unknown)} name(s) {where} are passed over:"
        warn(str(InputError(words, unknown)))
    return unknown


def _plan(trainer: Trainer, workers: int) -> Trainer:
    """Fit the schedule to the time asked for, if one was."""
    seconds = trainer.config.training.time
    if seconds is None:
        return trainer
    reason = f"fills {clock(seconds)} at the speed measured here; the end follows the clock"
    asked = {name for name, why in trainer.config.reasons.items() if why == "as asked"}
    values = plan(trainer, seconds, workers=workers)
    able = larger(trainer.config, values["epochs"] * values["steps_per_epoch"])
    if able is not None:
        trainer = _anew(trainer, able)
        values = plan(trainer, seconds, workers=workers)
    values = {name: value for name, value in values.items() if f"training.{name}" not in asked}
    return _anew(trainer, trainer.config.replace("training", reason, **values))


def _anew(trainer: Trainer, config: Config) -> Trainer:
    """The trainer of the same run with another configuration."""
    parts = trainer.training, trainer.validation
    return Trainer(config, *parts, trainer.hardware, trainer.run, began=trainer.began)


def finish(
    trainer: Trainer, problems: Sequence[Problem], *, workers: int, title: str = "Training"
) -> Model:
    """Train to the end, score the best model on the validation part, write the report."""
    fit(trainer, workers=workers, title=title)
    with resumable(trainer.run, AFTER):
        return _score(trainer, problems)


def _score(trainer: Trainer, problems: Sequence[Problem]) -> Model:
    """Tune and score the best model, write the report."""
    run, recipe = trainer.run, trainer.config.training
    if recipe.tune:
        _tune(trainer)
    elif (model := load(run, device="cpu", engine="pytorch")).card.tuned != Tuned():
        save_card(model.path, model.card.model_copy(update={"tuned": Tuned()}))  # told so later
    model = load(run, device=recipe.device, precision=recipe.precision, engine="pytorch")
    results = evaluate(
        model.engine,
        model.card,
        trainer.validation,
        run,
        model=model.about(),
        scored_on="validation part of the training set (it chose the best epoch, and what was "
        "tuned: expect a little optimism)",
        problems=problems,
        groups=read_split(run / "split.json").get("groups"),
    )
    page = write_report(run / "results.json", run=run)
    say(
        f"Validation Dice {results['per_image']['dice']['mean']:.4f} (mean over "
        f"{len(results['images'])} images, epoch {trainer.position.best_epoch})"
    )
    say(f"Model:  {run / 'model.safetensors'}\nReport: {page}")
    return model


def _tune(trainer: Trainer) -> None:
    """Choose threshold and the like on the validation part, and put them into the model file.

    Averaging is measured on as many images as its passes would take `TUNING` of the training's time
    for: 8 for each pixel, where a training step takes as long as 3.
    """
    recipe = trainer.config.training
    model = load(trainer.run, device=recipe.device, precision=recipe.precision, engine="pytorch")
    pixels = (recipe.crop or 0) ** 2 or trainer.validation.facts[0].pixels
    trained = recipe.epochs * recipe.steps_per_epoch * recipe.batch_size * pixels
    tuned = tune(
        model.engine,
        model.card,
        trainer.validation,
        seed=recipe.seed,
        tta_pixels=int(trained * 3 / 8 * TUNING),
    )
    save_card(model.path, model.card.model_copy(update={"tuned": tuned}))
    for line in words(tuned):
        say(line)


def _announce(trainer: Trainer, *, fold: bool) -> None:
    recipe, network = trainer.config.training, trainer.config.network
    parts = f"{len(trainer.training)} images for training, {len(trainer.validation)} for validation"
    length = f"{recipe.epochs} epochs of {recipe.steps_per_epoch} steps"
    patches = f" on patches of {network.patch} x {network.patch} pixels"
    patches = patches if network.patch > 1 and network.encoder is None else ""
    encoder = f" with {network.encoder}, pretrained," if network.encoder else ""
    if recipe.time:
        length += f", about {clock(recipe.time)}"
    say(
        f"{parts}\nRecipe {recipe.recipe}: {network.architecture}{encoder} of widths "
        f"{', '.join(map(str, network.widths))}{patches}; {length}, batches of "
        f"{recipe.batch_size}\n"
        f"Run folder: {trainer.run} (config.toml says why each value was chosen)"
    )
    short = about_time(recipe.epochs * recipe.steps_per_epoch) if recipe.time else []
    listed = trainer.config.data.validation_files is not None
    about = about_parts(trainer.training, trainer.validation, fold=fold, listed=listed)
    for sentence in [*short, *about]:
        warn(sentence)
