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
    works = sorted({cell["core_seconds"] for cell in cells})
    tables = "\n\n".join(_table([c for c in cells if c["core_seconds"] == w], w) for w in works)
    return f"""## What each part of the recipe is worth

`python benchmarks/ablation.py DATA`: trained on two thirds of a train list, scored on the other
third; nothing is tuned and the test lists are not read. All get as much processor time of one core,
so a change that makes steps cheaper has more of them. The first row is the mean Dice of recipe
auto, the others what a change adds to it or takes away: the mean over seeds, each against the
recipe with the same seed (which parts the list in its own way), in brackets the lowest and the
highest. Last, on how many of the sets the recipe is better without that change. Machine:
{results["machine"]}.

{tables}

{budgets(list(_of_accuracy()))}"""


def _table(cells: Sequence[Cell], work: float) -> str:
    by = {(cell["change"], cell["set"], cell["seed"]): cell for cell in cells}
    changes = list(dict.fromkeys(["recipe", *sorted(cell["change"] for cell in cells)]))
    rows = []
    for change in changes:
        found = [_differences(by, change, name) for name in SETS]
        if change == "recipe":
            figures, better = [_figure(each, "{:.3f}") for each in found], ""
        else:
            figures = [_figure(each, "{:+.3f}") for each in found]
            known = [each for each in found if each]
            better = f"{sum(mean(each) < 0 for each in known)} of {len(known)}"
        steps = [cell["steps"] for cell in cells if cell["change"] == change]
        rows.append(
            f"| {change} | {' | '.join(figures)} | {min(steps)} to {max(steps)} | {better} |"
        )
    seeds = len({cell["seed"] for cell in cells})
    return "\n".join(
        [
            f"### {work:g} seconds of one core, {seeds} seed(s)\n",
            f"| | {' | '.join(SETS)} | steps | recipe better |",
            "|---" * (len(SETS) + 3) + "|",
            *rows,
        ]
    )


def _differences(by: dict[tuple[str, str, int], Cell], change: str, name: str) -> list[float]:
    """Dice of every seed, for a change less that of the recipe where that is measured."""
    found = {s: cell["dice"] for (c, n, s), cell in by.items() if (c, n) == (change, name)}
    if change == "recipe":
        return list(found.values())
    plain = {s: by["recipe", name, s]["dice"] for s in found if ("recipe", name, s) in by}
    return [found[seed] - plain[seed] for seed in plain]


def _figure(values: Sequence[float], form: str) -> str:
    if not values:
        return "not measured"
    ends = f" ({form.format(min(values))} to {form.format(max(values))})"
    return form.format(mean(values)) + (ends if len(values) > 1 else "")


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

The whole command of the {len(runs)} runs of contorno among those for accuracy, from starting
Python to the report, against the time asked for:

| asked | runs | median | from, to | seconds | within 5% or 10 s |
|---|---|---|---|---|---|
{lines}
"""


def _seconds(time: str) -> float:
    return float(time[:-1]) * {"s": 1, "m": 60, "h": 3600}[time[-1]]
