"""The sections of docs/benchmarks.md that ablation*.json make; called by page.py."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from accuracy_sets import SETS

Cell = dict[str, Any]


def ablation(results: dict[str, Any]) -> str:
    return f"""## What each part of the recipe is worth

`python benchmarks/ablation.py DATA`: trained on two thirds of a train list, scored on the other
third; nothing is tuned and the test lists are not read. All get as much processor time of one core,
so a change that makes steps cheaper has more of them. The first row is the mean Dice of recipe
auto, the others what a change adds to it or takes away: the mean over seeds, each against the
recipe with the same seed (which parts the list in its own way), in brackets the lowest and the
highest; one seed where there are none. Last, on how many of the sets the recipe is better without
that change. Machine:
{results["machine"]}.

{_tables(results)}
"""


def ablation_float32(results: dict[str, Any]) -> str:
    return f"""## Moving average and annealing together

The same on a machine without bfloat16, with as many steps for both rows (`--steps 400 --results
benchmarks/results/ablation_float32.json`): what is lost without either, since each may do what the
other would. Machine:
{results["machine"]}.

{_tables(results)}
"""


def ablation_before(results: dict[str, Any]) -> str:
    return f"""## What each part was worth before

The same, of the recipe that had more parts: gradients clipped to a norm of 1, a warm-up of 5% of
the steps, weight decay of 0.01, and a third of all crops moved to a class, not only of those that
miss one. These went, since the recipe was better with them on fewer than four of the five sets;
the parts that stayed are judged by these tables, too. Machine:
{results["machine"]}.

{_tables(results)}
"""


def kept_epoch(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    rules = list(cells[0]["rules"])
    rows = []
    for name in SETS:
        found = [cell["rules"] for cell in cells if cell["set"] == name]
        judged = [_figure([each[rule]["judged"] for each in found], "{:.4f}") for rule in rules]
        epochs = ", ".join(str(each["best Dice"]["epoch"]) for each in found)
        rows.append(f"| {name} | {' | '.join(judged)} | {epochs} |")
    table = "\n".join(
        [f"| | {' | '.join(rules)} | epochs of best Dice |", "|---" * (len(rules) + 2) + "|", *rows]
    )
    steps = [cell["steps"] for cell in cells]
    seeds = len({cell["seed"] for cell in cells})
    return f"""## Which epoch is kept

`OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/kept.py DATA`: one training of
{cells[0]["epochs"]} epochs, {min(steps):,} to {max(steps):,} steps, on two thirds of a train list,
parted as in a run. Each rule picks an epoch by the validation part of these, on which threshold and
the like are then tuned; the mean Dice is that of the other third, which chose nothing, over
{seeds} seeds. The test lists are not read. Contorno keeps the best of the second half. Machine:
{results["machine"]}.

{table}
"""


def _tables(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    works = sorted({_work(cell) for cell in cells})
    return "\n\n".join(_table([c for c in cells if _work(c) == work], work) for work in works)


def _work(cell: Cell) -> tuple[float, str]:
    """How much of it a cell got, and of what."""
    if cell["core_seconds"] is None:
        return cell["steps"], "steps"
    return cell["core_seconds"], "seconds of one core"


def _table(cells: Sequence[Cell], work: tuple[float, str]) -> str:
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
            f"### {work[0]:g} {work[1]}, up to {seeds} seeds\n",
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
