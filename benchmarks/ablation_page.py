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
that change. The recipe then still took a moving average of its weights, which the next table took
out of it. Machine:
{results["machine"]}.

{_tables(results)}
"""


def averages(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    steps = max(cell["steps"] for cell in cells)
    seeds = len({cell["seed"] for cell in cells})
    parts = {1: "a quarter", 2: "half", 3: "three quarters", 4: "all"}
    pairs = {
        f"average, after {words} of the steps{', annealed' if schedule == 'cosine' else ''}": (
            (schedule, quarter, "average"),
            (schedule, quarter, "newest"),
        )
        for schedule in ("cosine", "constant")
        for quarter, words in parts.items()
    } | {
        f"annealing, {name}": (("cosine", 4, weights), ("constant", 4, other))
        for name, weights, other in (
            ("no average", "newest", "newest"),
            ("both with the average", "average", "average"),
            ("and the average, for neither", "average", "newest"),
        )
    }
    rows = []
    for name, (one, other) in pairs.items():
        gains = [_gains(cells, each, one, other) for each in SETS]
        known = [each for each in gains if each]
        better = f"{sum(mean(each) > 0 for each in known)} of {len(known)}"
        rows.append(f"| {name} | {' | '.join(_figure(g, '{:+.4f}') for g in gains)} | {better} |")
    table = "\n".join(
        [f"| gain by | {' | '.join(SETS)} | better on |", "|---" * (len(SETS) + 2) + "|", *rows]
    )
    return f"""## What moving average and annealing are worth

`python benchmarks/averages.py DATA --seeds 0 1 2`: {steps} steps on two thirds of a train list,
scored on the other third, as above. The average changes nothing in training, so each training is
scored with the average of its weights and with the newest ones: the differences are free of the
luck by which two trainings differ. Dice gained, the mean over {seeds} seeds, in brackets the least
and the most. Machine:
{results["machine"]}.

{table}
"""


def light(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    steps, seeds = max(c["steps"] for c in cells), len({c["seed"] for c in cells})
    rows = []
    for name in ("as they are", *cells[0]["lights"]):
        by = {
            (c["change"], c["set"], c["seed"]): {"dice": c["lights"].get(name, c["dice"])}
            for c in cells
        }
        for change in dict.fromkeys(["recipe", *(c["change"] for c in cells)]):
            found = [_differences(by, change, each) for each in SETS]
            known = [each for each in found if each]
            plain = change == "recipe"
            figures = [_figure(each, "{:.3f}" if plain else "{:+.3f}") for each in found]
            better = "" if plain else f"{sum(mean(each) < 0 for each in known)} of {len(known)}"
            rows.append(f"| {name} | {change} | {' | '.join(figures)} | {better} |")
    table = "\n".join(
        [
            f"| pictures | | {' | '.join(SETS)} | recipe better |",
            "|---" * (len(SETS) + 3) + "|",
            *rows,
        ]
    )
    return f"""## What normalising each image is worth

`python benchmarks/ablation.py DATA --steps {steps} --seeds 0 1 2 --changes recipe "normalised by
the set"`: as above, with {steps} steps for all and {seeds} seeds. The third that judges is scored
as it is, with half of its light, and with half as much again (every value times 0.5 or 1.5, cut off
at the largest): what a lamp or an exposure other than the training's does to a new picture. Mean
Dice of recipe auto, which normalises each image by its own mean and spread, and what changes where
all are normalised by the mean and spread of the training set. Machine:
{results["machine"]}.

{table}
"""


def ablation_steps(results: dict[str, Any]) -> str:
    return f"""## As many steps for all

`python benchmarks/ablation.py DATA --steps 300 --seeds 0 1 2 --changes recipe "no crop moved to a
class" ...`: as above, with as many steps for all and today's recipe, which takes no average. Sets
where a change changed nothing at all are left out of the last column: in three of them each crop of
256 pixels holds every class of its picture, so that none is moved. Machine:
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

`python benchmarks/kept.py DATA --seconds 240 --seeds 0 1`: one training of
{cells[0]["epochs"]} epochs, {min(steps):,} to {max(steps):,} steps, on two thirds of a train list,
parted as in a run. Each rule picks an epoch by the validation part of these, on which threshold and
the like are then tuned; the mean Dice is that of the other third, which chose nothing, over
{seeds} seeds. The test lists are not read. Contorno keeps the epoch of the best Dice. Machine:
{results["machine"]}.

{table}
"""


def _tables(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    works = sorted({_work(cell) for cell in cells})
    return "\n\n".join(_table([c for c in cells if _work(c) == work], work) for work in works)


def _gains(
    cells: Sequence[Cell], name: str, one: tuple[str, int, str], other: tuple[str, int, str]
) -> list[float]:
    """Of every seed of a set: Dice of one (schedule, quarter, weights) less that of another."""
    scores = {(c["schedule"], c["seed"]): c["scores"] for c in cells if c["set"] == name}

    def dice(seed: int, which: tuple[str, int, str]) -> float:
        schedule, quarter, weights = which
        return float(scores[schedule, seed][quarter - 1][weights])

    seeds = sorted({seed for _, seed in scores})
    both = [s for s in seeds if all((w[0], s) in scores for w in (one, other))]
    return [dice(seed, one) - dice(seed, other) for seed in both]


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
            known = [each for each in found if any(each)]
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
