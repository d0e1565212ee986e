"""K-fold cross-validation: a run for each fold, then all of them as one model and one honest score.

Each fold is an ordinary run, begun and continued by `training`, that validates on its fold. What is
needed to go on stands in folds.json, which is written anew when a fold is done. At the end every
image is scored by the one model that was not trained on it (out of fold).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from contorno.card import ModelCard, Tuned
from contorno.config import Config, DataConfig, read_config
from contorno.data.dataset import Dataset
from contorno.data.groups import folds as draw_folds
from contorno.data.labels import Labels
from contorno.doubt import familiar
from contorno.ensemble import PLAN, pooled_card, write_ensemble
from contorno.errors import ConfigError, InputError, Problem
from contorno.evaluate import evaluate_parts
from contorno.files import write_text
from contorno.fingerprint import fingerprint
from contorno.hardware import Hardware, choose, require_again
from contorno.model import Model, load
from contorno.progress import clock, say
from contorno.recipes import DEFAULT_TIME, resolve
from contorno.report import write_report
from contorno.runfolder import (
    digests_of,
    files_of,
    locked,
    pairs_of,
    read_split,
    refuse_if_changed,
)
from contorno.signals import resumable
from contorno.suspects import RULE, Suspicion, write_suspects
from contorno.trainer import Trainer
from contorno.training import begin, finish, read_again, read_material, restored
from contorno.tune import Part, tune_parts, words

SCORED_ON = (
    "all {images} training images, each by the one of {folds} models that was not trained on it "
    "(they chose its best epoch, and all together what was tuned: expect a little optimism; new "
    "images are drawn by the mean of the models)"
)


_TOGETHER = 0.05  # of the time, at least, for the score of all folds together


class Plan(BaseModel):
    """folds.json: all that is needed to go on with a run of folds.

    Args:
        data, recipe, wishes, device, precision: what was asked for.
        upright, labels: how pictures and masks were understood.
        pairs: files of every name, "images" and "masks".
        parts: names of each fold.
        rule: in words, how the set was parted.
        groups: group of each name, if there are any.
        problems: of what was left out.
        before: seconds until the first fold began.
        spent: seconds that each fold took which is done, in order.
        scored: seconds of these that were after its training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: DataConfig
    recipe: str
    wishes: dict[str, Any]
    device: str
    precision: str
    upright: bool
    labels: Labels
    pairs: dict[str, dict[str, list[str]]]
    parts: tuple[tuple[str, ...], ...]
    rule: str
    groups: dict[str, str] | None
    problems: list[dict[str, str]]
    before: float = 0.0
    spent: tuple[float, ...] = ()
    scored: tuple[float, ...] = ()

    def write(self, run: Path) -> None:
        """Write folds.json of a run folder."""
        write_text(run / PLAN, json.dumps(self.model_dump(mode="json"), indent=1))

    @property
    def total(self) -> float | None:
        """Seconds for the whole; None: as many as the epochs take."""
        usual = DEFAULT_TIME if self.recipe == "auto" and "epochs" not in self.wishes else None
        return self.wishes.get("time", usual)

    def share(self) -> float | None:
        """Seconds for the next fold: what remains, divided by the folds that are left.

        The end, when all images are scored, is left as long as the scoring of all folds. A fold
        that took too long leaves the others at least half of an equal share.
        """
        if self.total is None:
            return None
        count = len(self.parts)
        scored = sum(self.scored) / max(len(self.scored), 1) * count
        end = max(self.total * _TOGETHER, scored)
        left = self.total - end - self.before - sum(self.spent)
        remaining = left / (count - len(self.spent))
        return max(remaining, 0.5 * self.total / count)


def start(
    data: DataConfig,
    run: Path,
    hardware: Hardware,
    *,
    folds: int,
    recipe: str,
    wishes: Mapping[str, Any],
    workers: int,
    began: float,
) -> Model:
    """Read the pairs, part them into folds, train a model for each; see `api.train`.

    Args:
        data: where the pairs are and how to read them.
        run: folder to make.
        hardware: what trains.
        folds: how many.
        recipe, wishes: see `recipes.resolve`; a time is that of all folds together.
        workers: threads that decode and prepare batches.
        began: `time.monotonic()` at which the command began.
    """
    if data.validation_files is not None or data.validation is not None:
        name = "validation" if data.validation_files is None else "validation_files"
        raise ConfigError(f"folds and {name} both say what validates: give one of the two")
    say(f"Computing on: {hardware.reason}")
    found = read_material(data, workers)
    grouping = found.grouping
    parts = draw_folds(
        found.pairs.names,
        folds,
        seed=wishes.get("seed", 0),
        grouping=grouping,
        foreground=found.foreground,
    )
    rule = f"one of {folds} folds validates; they are alike in size and in share of foreground"
    plan = Plan(
        data=data.model_copy(update={"validation": 1 / folds}),
        recipe=recipe,
        wishes=json.loads(json.dumps(dict(wishes), default=str)),  # as it will be read again
        device=hardware.accelerator,
        precision="bf16" if hardware.bf16 else "32",
        upright=found.pairs.upright,
        labels=found.pairs.labels,
        pairs=files_of(found.pairs),
        parts=tuple(map(tuple, parts)),
        rule=rule + (f"; groups are not parted: {grouping.rule}" if grouping else ""),
        groups=None if grouping is None else grouping.of,
        problems=[problem.as_dict() for problem in found.problems],
        before=round(time.monotonic() - began, 2),
    )
    first = found.pairs.subset(_others(plan, 0))
    _config(plan, found.pairs, first, 0)  # what cannot work is said at once
    plan.write(run)
    return _train(run, plan, found.pairs, workers)


def resume(run: Path, workers: int) -> Model:
    """Continue a run of folds exactly; see `api.train`."""
    began = time.monotonic()
    with locked(run):
        plan = read_plan(run)
        require_again(run, device=plan.device)
        pairs = pairs_of(plan.pairs)
        whole = read_again(
            run, plan.data, pairs, plan.labels, upright=plan.upright, workers=workers
        )
        for fold in range(len(plan.spent)):
            _refuse_if_changed(folder(run, fold), whole)
        say(f"Resuming {run}: {len(plan.spent)} of {len(plan.parts)} folds are done")
        before = plan.before + time.monotonic() - began  # to read them again is of the time, too
        plan = plan.model_copy(update={"before": round(before, 2)})  # written with the next fold
        return _train(run, plan, whole, workers)


def read_plan(run: Path) -> Plan:
    """folds.json of a run folder.

    Raises:
        InputError: missing, or not as it was written.
    """
    try:
        plan = Plan.model_validate_json((run / PLAN).read_bytes())
    except OSError as error:
        raise InputError(f"{run / PLAN}: cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise InputError(
            f"{run / PLAN}: not as contorno wrote it ({error.error_count()} value(s) not "
            "understood); restore it, or start the run again"
        ) from None
    strange = [name for name in plan.pairs if Path(name).name != name]
    if strange:  # names become file names in the run folder, and must stay there
        raise InputError(f"{run / PLAN}: {strange[0]!r} is no stem of a file")
    if sorted(name for part in plan.parts for name in part) != sorted(plan.pairs):
        raise InputError(f"{run / PLAN}: its folds do not hold every pair once; restore it")
    return plan


def _refuse_if_changed(place: Path, whole: Dataset) -> None:
    """Raise if a fold that is done was trained on other data, or otherwise, than stands there now.

    Args:
        place: its run folder.
        whole: all pairs of the run, decoded.
    """
    parts = read_split(place / "split.json")
    training, validation = (
        whole.subset([pair.name for pair in parts[part]]) for part in ("training", "validation")
    )
    now = digests_of(read_config(place / "config.toml"), training, validation)
    refuse_if_changed(place, now, parts.get("begun", {}))


def _others(plan: Plan, fold: int) -> list[str]:
    """Names that a fold is trained on, those of the other folds, sorted."""
    return sorted(n for place, part in enumerate(plan.parts) if place != fold for n in part)


def folder(run: Path, fold: int) -> Path:
    """The run folder of a fold, counted from 0; its name counts from 1."""
    return run / f"fold{fold + 1}"


# Training ---------------------------------------------------------------------------------------


def _train(run: Path, plan: Plan, whole: Dataset, workers: int) -> Model:
    """Train the folds that are not done, then score all of them together."""
    count = len(plan.parts)
    for fold in range(len(plan.spent), count):
        where = f"in fold {fold + 1} of {count}"
        with resumable(run, where), locked(folder(run, fold)):
            spent, scored = _train_fold(run, plan, whole, fold, workers)
        times = {
            "spent": (*plan.spent, round(spent, 2)),
            "scored": (*plan.scored, round(scored, 2)),
        }
        plan = plan.model_copy(update=times)
        plan.write(run)
    with resumable(run, "after the last fold"):
        return _together(run, plan, whole)


def _train_fold(
    run: Path, plan: Plan, whole: Dataset, fold: int, workers: int
) -> tuple[float, float]:
    """Train one fold to its end.

    Returns:
        Seconds that it took, those before it was stopped too; and those of them after its training.
    """
    title = f"Fold {fold + 1} of {len(plan.parts)}"
    say(f"\n{title}")
    place = folder(run, fold)
    if (place / "config.toml").exists():
        config = read_config(place / "config.toml")
        trainer = restored(place, config, whole, read_split(place / "split.json"))
    else:
        training = whole.subset(_others(plan, fold))
        validation = whole.subset(plan.parts[fold])
        hardware = choose(device=plan.device, precision=plan.precision)
        trainer = begin(
            Trainer(_config(plan, whole, training, fold), training, validation, hardware, place),
            _problems(plan),
            rule=plan.rule,
            groups=plan.groups,
            workers=workers,
            fold=True,
        )
    finish(trainer, _problems(plan), workers=workers, title=title)
    spent = trainer.spent
    return spent, spent - trainer.position.spent


def _config(plan: Plan, whole: Dataset, training: Dataset, fold: int) -> Config:
    """The configuration of a fold, which prepares pictures as all others do.

    The mean of models hands one prepared picture to all. So mean, spread and cut are those of all
    pictures (not of their masks), as in nnU-Net.
    """
    count, total, share = len(plan.parts), plan.total, plan.share()
    wishes = plan.wishes if total is None else plan.wishes | {"time": total / count}
    hardware = choose(device=plan.device, precision=plan.precision)
    seen = replace(fingerprint(whole), images=len(training))  # as one, so that the mean is right
    config = resolve(plan.recipe, plan.data, seen, hardware, wishes)
    if total is not None and share is not None:
        left = count - len(plan.spent)
        reason = f"what remains of {clock(total)}, divided by the {left} fold(s) left"
        config = config.replace("training", reason, time=round(share, 2))
    seed = config.training.seed + fold
    return config.replace("training", "the run's, counted up by fold", seed=seed)


def _problems(plan: Plan) -> list[Problem]:
    return [Problem(**problem) for problem in plan.problems]


# All folds together -----------------------------------------------------------------------------


def _together(run: Path, plan: Plan, whole: Dataset) -> Model:
    """Make the folds one model, score it out of fold, write the report."""
    count = len(plan.parts)
    say(f"\nAll {count} folds, each on the images that it was not trained on")
    files = [folder(run, fold) / "model.safetensors" for fold in range(count)]
    options = {"device": plan.device, "precision": plan.precision, "engine": "pytorch"}
    card = _card(run, plan, whole, [load(file, **options) for file in files])
    write_ensemble(run, card, files)
    model = load(run, **options)
    watch = Suspicion()
    results = evaluate_parts(
        _parts(plan, whole, model.members),
        card,
        run,
        model=model.about(),
        scored_on=SCORED_ON.format(images=len(whole), folds=count),
        problems=_problems(plan),
        groups=plan.groups,
        watch=watch,
    )
    suspects = watch.ranked()
    listed = write_suspects(run, suspects)
    results |= {"suspects": {"rule": RULE, "images": [asdict(one) for one in suspects]}}
    results["folds"] = _figures(plan, results)
    write_text(run / "results.json", json.dumps(results, indent=1))
    page = write_report(run / "results.json")
    dice = [row["dice"] for row in results["folds"] if row["dice"] is not None]
    say(
        f"Out-of-fold Dice {results['per_image']['dice']['mean']:.4f} (mean over "
        f"{len(results['images'])} images; folds {min(dice):.4f} to {max(dice):.4f})"
    )
    say(f"Which masks to look at first: {listed}")
    say(f"Model:  {run} (the mean of {count} models)\nReport: {page}")
    return model


def _parts(plan: Plan, whole: Dataset, models: Sequence[Model]) -> list[Part]:
    """Each model's engine with the images that it was not trained on."""
    each = zip(models, plan.parts, strict=True)
    return [(model.engine, whole.subset(names)) for model, names in each]


def _card(run: Path, plan: Plan, whole: Dataset, models: Sequence[Model]) -> ModelCard:
    """What holds for all folds, tuned on the images that each was not trained on."""
    recipe = read_config(folder(run, 0) / "config.toml").training
    provenance = {
        "folds": len(plan.parts),
        "training_images": len(whole),
        "recipe": recipe.recipe,
        "fold_images": [len(part) for part in plan.parts],
    }
    pooled = pooled_card([model.card for model in models])
    card = pooled.model_copy(update={"familiar": familiar(whole), "provenance": provenance})
    tuned = Tuned()
    if recipe.tune:
        tuned = tune_parts(_parts(plan, whole, models), card, seed=recipe.seed)
        for line in words(tuned):
            say(line)
    return card.model_copy(update={"tuned": tuned})


def _figures(plan: Plan, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For each fold its images and their mean Dice; each row of an image gets its fold's number."""
    fold_of = {name: fold for fold, names in enumerate(plan.parts, 1) for name in names}
    dice: dict[int, list[float]] = {fold: [] for fold in range(1, len(plan.parts) + 1)}
    for row in results["images"]:
        row["fold"] = fold_of[row["name"]]
        dice[row["fold"]].append(row["dice"])
    return [
        {"fold": fold, "images": len(each), "dice": sum(each) / len(each) if each else None}
        for fold, each in dice.items()
    ]
