"""Scoring a model on pairs: predictions, figures for each image and over all, results.json.

Sees only an engine's `probabilities`. The page made of it is left to `report`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contorno import __version__
from contorno.checkpoint import ModelCard
from contorno.data.dataset import Dataset
from contorno.data.labels import classify, write_prediction
from contorno.engines import Engine, whole_image
from contorno.errors import InputError, Problem
from contorno.files import write_text
from contorno.images import write_mask
from contorno.metrics import RULES, ImageScore, score, summarise
from contorno.progress import bar


def evaluate(
    engine: Engine,
    card: ModelCard,
    dataset: Dataset,
    out: Path,
    *,
    model: dict[str, Any],
    scored_on: str,
    problems: Sequence[Problem] = (),
) -> dict[str, Any]:
    """Score a model on pairs.

    Writes `out`/results.json, `out`/predictions/NAME.png in the user's mask values and
    `out`/truths/NAME.png (0 and 255).

    Args:
        engine: runs the model.
        card: of the model.
        dataset: the pairs to score on.
        out: folder to write to.
        model: what is known of the model, put into the results as it is.
        scored_on: in words, which images these are.
        problems: of pairs that were left out, put into the results.

    Returns:
        What is in results.json.

    """
    began = time.monotonic()
    rows, scores = [], []
    with bar("Evaluating", len(dataset)) as advance:
        for index, pair in enumerate(dataset.pairs):
            image, truth = dataset.read(index)
            classes = classify(whole_image(engine, image), card.threshold)
            scores.append(score(truth > 0, classes > 0))
            picture = f"predictions/{pair.name}.png"
            write_prediction(out / picture, classes, card.labels)
            write_mask(out / f"truths/{pair.name}.png", truth * np.uint8(255))
            rows.append(
                {
                    "name": pair.name,
                    "image": str(pair.image.resolve()),
                    "mask": str(pair.mask.resolve()),
                    "prediction": picture,
                    "truth": f"truths/{pair.name}.png",
                    "height": truth.shape[0],
                    "width": truth.shape[1],
                    **_row(scores[-1]),
                }
            )
            advance()
    results = {
        "contorno": __version__,
        "scored_on": scored_on,
        "model": model | {"engine": engine.name},
        "labels": {
            "background": card.labels.values[0],
            "foreground": card.labels.values[1],
            "note": dataset.labels.note,
        },
        "threshold": card.threshold,
        "rules": RULES,
        "images": rows,
        **summarise(scores),
        "problems": [problem.as_dict() for problem in problems],
        "seconds": round(time.monotonic() - began, 3),
    }
    write_text(out / "results.json", json.dumps(results, indent=1))
    return results


def require_two_classes(card: ModelCard) -> None:
    """Raise InputError for a model that `evaluate` cannot score yet."""
    if card.network.out_channels > 2:
        raise InputError(
            f"this model has {card.network.out_channels} classes; evaluate scores models of two"
        )


def _row(result: ImageScore) -> dict[str, Any]:
    counts = result.counts
    return {
        "tp": counts.tp,
        "fp": counts.fp,
        "fn": counts.fn,
        "tn": counts.tn,
        "dice": result.dice,
        "iou": result.iou,
        "precision": result.precision,
        "recall": result.recall,
        "boundary_f": result.boundary_f,
        "hd95": result.hd95,
    }
