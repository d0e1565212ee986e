"""The sections of docs/benchmarks.md that ablation.json makes; called by page.py."""

from __future__ import annotations

from collections.abc import Sequence
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

{budgets(cells)}"""


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


def budgets(cells: Sequence[Cell]) -> str:
    """How far the whole command was from the time that was asked for."""
    asked = [_seconds(cell["time"]) for cell in cells]
    off = [cell["seconds"] - want for cell, want in zip(cells, asked, strict=True)]
    kept = sum(abs(o) <= max(10, 0.05 * want) for o, want in zip(off, asked, strict=True))
    shares = [o / want for o, want in zip(off, asked, strict=True)]
    return f"""### How `--time` is kept

The whole command of the {len(cells)} runs above, from starting Python to the report, against the
time asked for: median {median(shares):+.1%}, {min(shares):+.1%} to {max(shares):+.1%}; in seconds
{min(off):+.1f} to {max(off):+.1f}. Within 5% or 10 s: {kept} of {len(cells)}.
"""


def _seconds(time: str) -> float:
    return float(time[:-1]) * {"s": 1, "m": 60, "h": 3600}[time[-1]]
