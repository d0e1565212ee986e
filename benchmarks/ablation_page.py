"""The sections of docs/benchmarks.md that ablation.json makes; called by page.py."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from accuracy_sets import SETS

Cell = dict[str, Any]


def ablation(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    times = sorted({cell["time"] for cell in cells}, key=lambda time: float(time.rstrip("smh")))
    tables = "\n\n".join(_table([c for c in cells if c["time"] == time], time) for time in times)
    return f"""## What each part of the recipe is worth

`python benchmarks/ablation.py DATA --out RUNS`: best validation Dice of runs of the same time with
one value changed, trained and validated on the train lists alone. Means over seeds, in brackets
their lowest and highest; a seed parts the list in its own way. Machine: {results["machine"]}.

{tables}

{budgets([*map(_of_ablation, cells), *_of_accuracy()])}"""


def _table(cells: Sequence[Cell], time: str) -> str:
    changes = list(dict.fromkeys(cell["change"] for cell in cells))
    rows = []
    for change in changes:
        row = [_figure([c for c in cells if c["change"] == change and c["set"] == s]) for s in SETS]
        steps = [cell["steps"] for cell in cells if cell["change"] == change]
        rows.append(f"| {change} | {' | '.join(row)} | {min(steps)} to {max(steps)} |")
    return "\n".join(
        [
            f"### {time}\n",
            f"| | {' | '.join(SETS)} | steps |",
            "|---" * (len(SETS) + 2) + "|",
            *rows,
        ]
    )


def _figure(cells: Sequence[Cell]) -> str:
    dice = [cell["dice"] for cell in cells]
    if not dice:
        return "not measured"
    spread = f" ({min(dice):.3f} to {max(dice):.3f})" if len(dice) > 1 else ""
    return f"{mean(dice):.3f}{spread}"


def _of_ablation(cell: Cell) -> tuple[str, float]:
    return cell["time"], cell["seconds"]


def _of_accuracy() -> list[tuple[str, float]]:
    file = Path(__file__).parent / "results" / "accuracy.json"  # its runs kept a time, too
    results = json.loads(file.read_text()) if file.exists() else {"cells": {}}
    cells = (c for c in results["cells"].values() if "train_command_seconds" in c)
    timed = (c for c in cells if not c["budget"].endswith("pixels"))
    return [(cell["budget"], cell["train_command_seconds"]) for cell in timed]


def budgets(runs: Sequence[tuple[str, float]]) -> str:
    """How far the whole command was from the time that was asked for: (asked, took) of each."""
    rows = []
    for time in sorted({time for time, _ in runs}, key=_seconds):
        want = _seconds(time)
        off = [took - want for asked, took in runs if asked == time]
        kept = sum(abs(seconds) <= max(10, 0.05 * want) for seconds in off)
        rows.append(
            f"| {time} | {len(off)} | {median(off) / want:+.1%} | {min(off) / want:+.1%} to "
            f"{max(off) / want:+.1%} | {min(off):+.1f} to {max(off):+.1f} | {kept} |"
        )
    lines = "\n".join(rows)
    return f"""### How `--time` is kept

The whole command of the {len(runs)} runs above and of contorno's among those for accuracy, from
starting Python to the report, against the time asked for:

| asked | runs | median | from, to | seconds | within 5% or 10 s |
|---|---|---|---|---|---|
{lines}
"""


def _seconds(time: str) -> float:
    return float(time[:-1]) * {"s": 1, "m": 60, "h": 3600}[time[-1]]
