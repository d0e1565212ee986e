"""Scoring a model on pairs: predictions, figures for each image, class and over all, results.json.

Sees only an engine's `probabilities`. The page made of it is left to `report`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from contorno import __version__
from contorno.ahead import Behind
from contorno.calibration import RULE, Reliability, relevant, reliability
from contorno.card import ModelCard
from contorno.data.dataset import Array, Dataset
from contorno.data.labels import IGNORE, Labels, classify, prediction_paths, write_prediction
from contorno.data.pairs import Pair
from contorno.doubt import doubt
from contorno.engines import Engine, whole_image
from contorno.errors import InputError, Problem
from contorno.files import write_text
from contorno.finish import draw, temper
from contorno.metrics import FIGURES, RULES, ImageScore, combine, score, summarise
from contorno.progress import bar

_WRITERS = 2  # threads that write masks: for small ones the disk takes as long as all the rest

# Row of the results, tempered probabilities (K, H, W), class map (H, W) of the mask, its labels.
Watch = Callable[[dict[str, Any], Array, Array, Labels], None]


def evaluate(
    engine: Engine,
    card: ModelCard,
    dataset: Dataset,
    out: Path,
    *,
    model: dict[str, Any],
    scored_on: str,
    problems: Sequence[Problem] = (),
    groups: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Score a model on pairs.

    Writes `out`/results.json, and for each image `out`/predictions/NAME.png and
    `out`/truths/NAME.png (overlapping classes: predictions/CLASS/NAME.png), both in the values of
    the masks that the model learnt from.

    Args:
        engine: runs the model.
        card: of the model.
        dataset: the pairs to score on.
        out: folder to write to.
        model: what is known of the model, put into the results as it is.
        scored_on: in words, which images these are.
        problems: of pairs that were left out, put into the results.
        groups: group of each name, over which the intervals are then; None: over images.

    Returns:
        What is in results.json.

    Raises:
        InputError: the classes of model and masks do not fit together.
    """
    return evaluate_parts(
        [(engine, dataset)],
        card,
        out,
        model=model,
        scored_on=scored_on,
        problems=problems,
        groups=groups,
    )


def evaluate_parts(
    parts: Sequence[tuple[Engine, Dataset]],
    card: ModelCard,
    out: Path,
    *,
    model: dict[str, Any],
    scored_on: str,
    problems: Sequence[Problem] = (),
    groups: Mapping[str, str] | None = None,
    watch: Watch | None = None,
) -> dict[str, Any]:
    """Score several models of one kind as one, each on pairs of its own; see `evaluate`.

    Args:
        parts: engines and the pairs that each is scored on, all of one set.
        card, out, model, scored_on, problems, groups: as in `evaluate`.
        watch: is shown every image that is scored.
    """
    dataset, began = parts[0][1], time.monotonic()
    _require_same_classes(card.labels, dataset.labels)
    scored = _score_all(parts, card, out, watch)
    names = [one.row["name"] for one in scored]
    group_of = None if groups is None else {name: groups.get(name, name) for name in names}
    drawn = None if group_of is None else [group_of[name] for name in names]
    results = {
        "contorno": __version__,
        "scored_on": scored_on,
        "model": model | {"engine": parts[0][0].name},
        "labels": _labels(card.labels, dataset.labels),
        "threshold": _threshold(card),
        "tuned": card.tuned.model_dump(mode="json"),
        "pages": dataset.pages,
        "rules": RULES,
        "images": [one.row for one in scored],
        "groups": group_of,
        **summarise([one.combined for one in scored], groups=drawn),
        "classes": _classes(card.labels.scored, [one.alone for one in scored], drawn),
        "calibration": _calibration(scored, card),
        "doubt": {
            "rank_correlation": _rank_correlation([one.row for one in scored]),
            "unlike": sum(bool(one.row["unlike"]) for one in scored),
        },
        "problems": [problem.as_dict() for problem in problems],
        "seconds": round(time.monotonic() - began, 3),
    }
    write_text(out / "results.json", json.dumps(results, indent=1))
    return results


def _score_all(
    parts: Sequence[tuple[Engine, Dataset]],
    card: ModelCard,
    out: Path,
    watch: Watch | None,
) -> list[_Scored]:
    scored = []
    images = sum(len(dataset) for _, dataset in parts)
    with bar("Evaluating", images) as advance, Behind(_WRITERS, waiting=2 * _WRITERS) as behind:
        write = partial(_write, behind, out)
        for engine, dataset in parts:
            for index in range(len(dataset)):
                scored.append(_score_pair(engine, card, dataset, index, write, watch))
                advance()
    return scored


@dataclass(frozen=True)
class _Scored:
    """One image's row of the results, its scores: of all classes, and of each; and its pixels
    counted by probability, as the engine gave them and at the card's temperature."""

    row: dict[str, Any]
    combined: ImageScore
    alone: list[ImageScore]
    calibration: tuple[Reliability, Reliability]


def _score_pair(
    engine: Engine,
    card: ModelCard,
    dataset: Dataset,
    index: int,
    write: Callable[[str, str, Array, Labels], list[str]],
    watch: Watch | None,
) -> _Scored:
    """Score one pair and write its masks, see `_write`."""
    pair, labels = dataset.pairs[index], card.labels
    image, truth = dataset.read(index)
    raw = whole_image(engine, image)
    found = temper(raw, card)
    classes = draw(found, card)
    combined, alone = image_score(truth, classes, dataset.labels)
    row = {
        **_sources(pair),
        "turned": dataset.facts[index].turned,
        "prediction": write("predictions", pair.name, classes, labels),
        "truth": write("truths", pair.name, truth, _for_truth(labels, dataset.labels)),
        "height": truth.shape[0],
        "width": truth.shape[1],
        **_figures(combined),
        **asdict(doubt(image, found, classes, card)),
    }
    if len(alone) > 1:
        named = zip(labels.scored, alone, strict=True)
        row["classes"] = {name: _figures(one) for name, one in named}
    if watch is not None:
        watch(row, found, truth, dataset.labels)
    return _Scored(row, combined, alone, _reliabilities(raw, found, truth, dataset.labels))


def _reliabilities(
    raw: Array, found: Array, truth: Array, labels: Labels
) -> tuple[Reliability, Reliability]:
    """Pixels counted by probability, before and after the temperature; see `calibration.RULE`."""
    both = (Reliability(), Reliability())
    valid, drawn = labels.valid(truth), classify(raw, labels, 0.5)
    layers = zip(labels.layers(truth), labels.layers(drawn), strict=True)
    for index, (true, predicted) in enumerate(layers):
        where = relevant(true, predicted, valid)
        channel = index if len(raw) == len(labels.scored) else index + 1  # background comes first
        before, after = (reliability(one[channel][where], true[where]) for one in (raw, found))
        both = both[0] + before, both[1] + after
    return both


def _calibration(scored: Sequence[_Scored], card: ModelCard) -> dict[str, Any]:
    """Pixels of all images counted by probability, with the expected calibration error."""
    before, after = (
        sum((one.calibration[i] for one in scored), Reliability()).as_dict() for i in (0, 1)
    )
    return {
        "rule": RULE,
        "temperature": card.tuned.temperature,
        "before": before,
        "after": after,
    }


def _rank_correlation(rows: Sequence[dict[str, Any]]) -> float | None:
    """Spearman's, of expected and true Dice of the images; None where it has no meaning."""
    pairs = np.array([[row["expected_dice"], row["dice"]] for row in rows])
    if len(pairs) < 3 or (np.ptp(pairs, axis=0) == 0).any():
        return None
    from scipy.stats import spearmanr  # takes a second to import

    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def image_score(
    truth: Array, classes: Array, labels: Labels
) -> tuple[ImageScore, list[ImageScore]]:
    """Score of one image: over all its classes (see `metrics.combine`), and of each.

    Args:
        truth: class map (H, W) of the mask.
        classes: class map (H, W) of the prediction.
        labels: of the truth.
    """
    valid = labels.valid(truth)
    layers = zip(labels.layers(truth), labels.layers(classes), strict=True)
    alone = [score(true, predicted, valid=valid) for true, predicted in layers]
    return combine(alone), alone


def _require_same_classes(trained: Labels, found: Labels) -> None:
    """Classes are compared by their place, so these must be the same ones in the same order."""
    if (
        trained.multilabel != found.multilabel
        or len(trained.names) != len(found.names)
        or (found.multilabel and trained.names != found.names)
    ):
        raise InputError(
            f"the masks have {_words(found)} ({found.note}); the model has {_words(trained)} "
            f"({trained.note}). Say which value, or which folder, is which class as in training, "
            "and which values are not to be scored (ignore)"
        )
    if trained.names != found.names and set(trained.names) == set(found.names):
        raise InputError(
            f"the masks have {_words(found)}; the model has them in another order: "
            f"{', '.join(trained.names)}. Name them in this order"
        )


def _words(labels: Labels) -> str:
    kind = "overlapping classes" if labels.multilabel else "classes"
    return f"{len(labels.names)} {kind}: {', '.join(labels.names)}"


def _threshold(card: ModelCard) -> float | list[float] | None:
    """The threshold, or one for each class where they differ; None: the largest probability."""
    if card.exclusive:
        return None
    several = sorted(set(card.tuned.thresholds))
    return several[0] if len(several) == 1 else list(card.tuned.thresholds)


def _for_truth(trained: Labels, found: Labels) -> Labels:
    """The model's values, with one for pixels that are ignored in these masks alone."""
    taken = {value for value, _ in trained.lookup}
    free = [value for value in found.ignored if value not in taken]
    if trained.ignored or not free or found.kind != trained.kind:
        return trained
    return trained.model_copy(update={"lookup": (*trained.lookup, (free[0], IGNORE))})


def _write(
    behind: Behind, out: Path, folder: str, name: str, classes: Array, labels: Labels
) -> list[str]:
    """Write a class map behind the caller; the paths of its files, from `out`."""
    path = Path(folder, f"{name}.png")
    behind(partial(write_prediction, out / path, classes, labels))
    return [file.as_posix() for file in prediction_paths(path, labels)]


def _sources(pair: Pair) -> dict[str, Any]:
    """Name and files of a pair; `images` and `masks` only where there are several."""
    images, masks = ([str(path.resolve()) for path in one] for one in (pair.images, pair.masks))
    several = {"images": images, "masks": masks}
    return {"name": pair.name, "image": images[0], "mask": masks[0]} | {
        key: paths for key, paths in several.items() if len(paths) > 1
    }


def _labels(written: Labels, read: Labels) -> dict[str, Any]:
    """The scored classes as they are written, and how the masks were read."""
    parts = written.parts or (written,) * len(written.scored)
    values = written.values if written.multilabel else written.values[1:]
    return {
        "note": read.note,
        "multilabel": written.multilabel,
        "classes": [
            {"name": name, "value": value, "kind": part.kind}
            for name, value, part in zip(written.scored, values, parts, strict=True)
        ],
        "table": [row.model_dump() for row in read.table],
    }


def _classes(
    names: Sequence[str],
    of_classes: Sequence[Sequence[ImageScore]],
    groups: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """Figures of each class on its own; nothing where there is only one."""
    if len(names) == 1:
        return []
    return [
        {"name": name} | summarise([image[k] for image in of_classes], groups=groups)
        for k, name in enumerate(names)
    ]


def _figures(result: ImageScore) -> dict[str, Any]:
    counts = result.counts
    pixels = {"tp": counts.tp, "fp": counts.fp, "fn": counts.fn, "tn": counts.tn}
    return pixels | {name: getattr(result, name) for name in FIGURES}
