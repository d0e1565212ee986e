"""The sections of docs/benchmarks.md that accuracy*.json make; called by page.py."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean, median
from typing import Any

import numpy as np
from accuracy_sets import SETS
from scipy.stats import bootstrap

METHODS = {
    "contorno": "`contorno train --time`, then `contorno predict`, no other option",
    "nnunet": "nnU-Net v2, `2d`, its own plan, augmentation, loss and optimiser; fold `all`, so it "
    "trains on every image of the list; iterations cut to the time, with the poly schedule run to "
    "its end in it; mirrored tiles in inference, as is its default",
    "nnunet_small": "the same, planned for 1 GB in place of 8: smaller batches and patches, so "
    "more iterations",
    "R1": "the notebook with transposed convolutions: 512 x 512, MSE, Adam, batches of 4, eager "
    "float32, widths 64 to 1024; with three classes, one output for each and the largest wins; "
    "few of its steps fit into the time, as the second table shows",
    "R2": "the notebook with bilinear up-sampling, otherwise the same",
    "monai": "MONAI's 2-D tutorial: UNet of 16 to 256 channels, crops of 96 half of which are "
    "centred on foreground, flips, turns, DiceCELoss, Adam 1e-3, sliding windows",
    "smp": "segmentation_models.pytorch's CamVid example: Unet with resnet34, crops of 320, its "
    "augmentation, Dice loss, Adam 2e-4, cosine; ImageNet weights were not at hand, so it starts "
    "from random ones, which its users would not do",
}

COUNTED = """### As many training pixels

The same with `--pixels N`: what the recipes are worth without their speed. Counted are crop x batch
x steps as they enter a network, and every schedule ends with them. Contorno, which has no time to
fit, takes its largest network (base width 32, no patches) and the whole epochs that come nearest.
Nothing here keeps a clock, so other work may run beside, and seconds are not to be compared with
those above. Machine: {machines}."""

BESIDE = """### Contorno less a peer, image by image

Mean over the test images of the difference in Dice, with its 95% bootstrap interval over
them, which does not hold what one seed differs from another; of several seeds an image has
the mean. Contorno's five minutes stand beside a peer's longest time, too."""

KEPT = """### How `--time` is kept

The whole command of contorno's runs above, from starting Python to the report, against the time
asked for:"""

WITHOUT_BFLOAT16 = """## The same on a processor without bfloat16

As above, on an older processor: contorno trains in float32 there, like its peers, and does a
quarter of the steps. `python benchmarks/accuracy.py DATA --out WORK --peers PYTHON --results
benchmarks/results/accuracy_float32.json`, with `--budgets 5m --methods contorno --seeds 0 1 2`,
`--budgets 20m --methods contorno --sets dsb2018_stage1 epfl_roads wbc_dataset2` and `--budgets 20m
--methods monai`, the strongest peer above. Here contorno trained by today's recipe,
which takes no average of its weights and keeps the best of all epochs. Machine:
{machines}."""

NOTEBOOKS = ("R1", "R2")
NAMES = {"nnunet": "nnU-Net", "monai": "MONAI", "nnunet_small": "nnU-Net, 1 GB"}


def accuracy(results: dict[str, Any]) -> str:
    cells = list(results["cells"].values())
    if not cells:
        return ""
    used = [name for name in METHODS if any(cell["method"] == name for cell in cells)]
    methods = [name for name in METHODS if name in used or name != "nnunet_small"]
    budgets = sorted({cell["budget"] for cell in cells}, key=amount)
    timed = [budget for budget in budgets if not budget.endswith("pixels")]
    counted = [budget for budget in budgets if budget.endswith("pixels")]
    arms = "\n".join(f"- {name}: {METHODS[name]}." for name in methods)
    parts = [
        f"""## The best mask for the time

`python benchmarks/accuracy.py DATA --out WORK --peers PYTHON --budgets {" ".join(timed) or "5m"}`:
every method trains on the same list of images for the same wall-clock time on the same machine, on
the CPU, and draws the masks of the test list as PNG; one function scores all of them from these
files. All get the same lossless files, in which a mask value is the nearest of the set's two or
three.

{arms}

- The time is that of the training: a peer's clock starts at its first step, so that planning,
  preprocessing, caching and start-up cost it nothing; contorno's is its `--time`. Every peer
  trains in float32, as it does on a CPU unless it is changed. The seconds of whole commands are in
  the second table, and so are the processors that a cell kept busy: few of them tell of a
  measurement that something else disturbed.
- Dice is the mean over the test images; of three classes the two that are not background are
  scored, and an image's figure is their mean. Both empty counts 1, one empty 0.
- With several seeds the figure is their mean, with the lowest and the highest.
- Contorno's recipe then still averaged its weights over the last hundred steps or so. What that was
  worth beside the annealing stands under "What moving average and annealing are worth".
- Peers run with the environment as it is; contorno's command line sets how long compute threads
  wait before they sleep.
- No test score chose between recipes. That contorno was level with MONAI on dsb2018_stage1 was
  seen, though, before fewer images were put aside for validation, and that two seeds of crackforest
  differ by 0.015, before it was measured (on train lists) which epoch's model should be kept.

Machine: {machines(cells, timed)}."""
    ]
    if timed:
        parts += [table(cells, timed, methods, "time"), details(cells, timed, methods)]
    if counted:
        parts += [COUNTED.format(machines=machines(cells, counted))]
        parts += [table(cells, counted, methods, "training pixels")]
        parts += [details(cells, counted, methods)]
    parts += [BESIDE, beside(cells, timed), known(cells), KEPT, kept(cells)]
    if failed := [cell for cell in cells if "failed" in cell]:
        parts.append("\n".join(f"- Failed: {label(c)}: `{c['failed']}`" for c in failed))
    return "\n\n".join(parts) + "\n"


def accuracy_float32(results: dict[str, Any]) -> str:
    """The same, shorter, of a machine whose figures do not stand beside the others'."""
    cells = list(results["cells"].values())
    methods = [method for method in METHODS if any(cell["method"] == method for cell in cells)]
    budgets = sorted({cell["budget"] for cell in cells}, key=amount)
    about = WITHOUT_BFLOAT16.format(machines=machines(cells, budgets))
    columns = sorted({(c["budget"], c["method"]) for c in cells}, key=lambda one: amount(one[0]))
    parts = [about, across(cells, columns), beside(cells, budgets)]
    return "\n\n".join([*parts, details(cells, budgets, methods), kept(cells)]) + "\n"


def summary(results: dict[str, Any], budget: str, short: str, long: str) -> str:
    """For README: mean Dice of every tool after a budget, of contorno after a short one.

    Also that of those tools after a long one, of which it is known for every set. The notebooks
    are left out: a few steps of theirs are all that fits.
    """
    cells = list(results["cells"].values())
    tools = [method for method in METHODS if method not in NOTEBOOKS]
    columns = [(short, "contorno")]
    columns += [(budget, m) for m in tools if any(of(cells, s, budget, m) for s in SETS)]
    columns += [(long, m) for m in tools if all(of(cells, s, long, m) for s in SETS)]
    return across(cells, columns)


def across(cells: list[dict[str, Any]], columns: list[tuple[str, str]]) -> str:
    """Mean Dice: rows are sets, columns times and methods."""
    heads = [f"{NAMES.get(name, name)}, {time}" for time, name in columns]
    rows = [f"| | {' | '.join(heads)} |", "|---" * (len(columns) + 1) + "|"]
    for each in SETS:
        found = [figure(of(cells, each, *column)) for column in columns]
        rows.append(f"| {each} | {' | '.join(found)} |")
    return "\n".join(rows)


def machines(cells: list[dict[str, Any]], budgets: list[str]) -> str:
    return "; ".join(sorted({cell["machine"] for cell in cells if cell["budget"] in budgets}))


def amount(budget: str) -> float:
    if budget.endswith("pixels"):
        return float(budget.split()[0])
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def shown(budget: str) -> str:
    return f"{amount(budget) / 1e6:.0f} Mpx" if budget.endswith("pixels") else budget


def of(cells: Iterable[dict[str, Any]], *key: str) -> list[dict[str, Any]]:
    """Cells of a set, a budget and a method."""
    return [c for c in cells if (c["set"], c["budget"], c["method"]) == key]


def table(cells: list[dict[str, Any]], budgets: list[str], methods: list[str], words: str) -> str:
    """Mean Dice: rows are sets x budgets, columns methods."""
    rows = [f"| set | {words} | " + " | ".join(methods) + " |", "|---" * (len(methods) + 2) + "|"]
    for name in SETS:
        for budget in budgets:
            found = (figure(of(cells, name, budget, method)) for method in methods)
            rows.append(f"| {name} | {shown(budget)} | " + " | ".join(found) + " |")
    return "\n".join(rows)


def figure(cells: list[dict[str, Any]]) -> str:
    if not cells:
        return "not measured"
    dice = [cell["per_image"]["dice"]["mean"] for cell in cells if "failed" not in cell]
    if not dice:
        return "failed"
    spread = f" ({min(dice):.3f} to {max(dice):.3f}, {len(dice)} seeds)" if len(dice) > 1 else ""
    failed = len(cells) - len(dice)
    return f"{mean(dice):.3f}{spread}" + (f", {failed} failed" if failed else "")


def details(cells: list[dict[str, Any]], budgets: list[str], methods: list[str]) -> str:
    """One row for each cell: intervals, other figures, steps and seconds."""
    rows = [
        "| set, budget, method, seed | Dice (95% over images) | IoU | pooled Dice | boundary F "
        "| steps | training Mpx | training, s | whole, s | cores busy |",
        "|---" * 10 + "|",
    ]
    for name in SETS:
        for budget in budgets:
            for method in methods:
                for cell in of(cells, name, budget, method):
                    if "failed" not in cell:
                        rows.append(row(cell))
    return "\n".join(rows)


def beside(cells: list[dict[str, Any]], budgets: list[str]) -> str:
    """Contorno's Dice less every peer's, image by image, at each time and at the peer's longest."""
    rows = ["| set | contorno | peer | difference (95%) |", "|---" * 4 + "|"]
    for name in SETS:
        for peer in [method for method in METHODS if method != "contorno"]:
            theirs = [budget for budget in budgets if images(of(cells, name, budget, peer))]
            times = [(budget, budget) for budget in theirs] + [("5m", last) for last in theirs[-1:]]
            for ours, other in dict.fromkeys(times):
                sides = (of(cells, name, ours, "contorno"), of(cells, name, other, peer))
                if images(sides[0]):
                    rows.append(f"| {name} | {ours} | {peer}, {other} | {difference(*sides)} |")
    return "\n".join(rows)


def images(cells: list[dict[str, Any]]) -> list[list[float]]:
    """Dice of every image, for each seed."""
    return [cell["dice_of_images"] for cell in cells if "failed" not in cell]


def difference(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> str:
    less = np.mean(images(ours), axis=0) - np.mean(images(theirs), axis=0)
    low, high = bootstrap((less,), np.mean, method="percentile", rng=0).confidence_interval
    return f"{less.mean():+.3f} ({low:+.3f} to {high:+.3f})"


def known(cells: list[dict[str, Any]]) -> str:
    """What contorno knows of its own masks, one row for each of its cells."""
    rows = [
        "| set, budget, seed | error before | after temperature | temperature | rank correlation "
        "| Dice | with `--tta` |",
        "|---" * 7 + "|",
    ]
    for cell in sorted(cells, key=lambda c: (list(SETS).index(c["set"]), amount(c["budget"]))):
        if "calibration_error" in cell:
            before, after = cell["calibration_error"]
            rows.append(
                f"| {cell['set']}, {shown(cell['budget'])}, {cell['seed']} | {before:.4f} "
                f"| {after:.4f} | {cell['temperature']:.2f} | {cell['rank_correlation']:.2f} "
                f"| {cell['per_image']['dice']['mean']:.3f} | {cell['dice_with_tta']:.3f} |"
            )
    return (
        "### What contorno knows of its masks\n\nOn the same test lists, by `contorno evaluate`: "
        "expected calibration error (15 bins, pixels\nof objects and around them, see "
        "[metrics](metrics.md)), rank correlation of expected and true Dice,\nand what averaging "
        "over mirrored and turned pictures would add.\n\n" + "\n".join(rows)
    )


def kept(cells: list[dict[str, Any]]) -> str:
    """How far contorno's whole command was from the time that was asked for."""
    timed = [
        c for c in cells if "train_command_seconds" in c and not c["budget"].endswith("pixels")
    ]
    rows = [
        "| asked | runs | median | from, to | seconds | within 5% or 10 s |",
        "|---" * 6 + "|",
    ]
    for budget in sorted({cell["budget"] for cell in timed}, key=amount):
        want = amount(budget)
        off = [c["train_command_seconds"] - want for c in timed if c["budget"] == budget]
        within = sum(abs(seconds) <= max(10, 0.05 * want) for seconds in off)
        rows.append(
            f"| {budget} | {len(off)} | {median(off) / want:+.1%} | {min(off) / want:+.1%} to "
            f"{max(off) / want:+.1%} | {min(off):+.1f} to {max(off):+.1f} | {within} |"
        )
    return "\n".join(rows)


def label(cell: dict[str, Any]) -> str:
    return f"{cell['set']}, {shown(cell['budget'])}, {cell['method']}, {cell['seed']}"


def row(cell: dict[str, Any]) -> str:
    dice, iou, boundary = (cell["per_image"][key] for key in ("dice", "iou", "boundary_f"))
    return (
        f"| {label(cell)} | {dice['mean']:.3f} ({dice['low']:.3f} to {dice['high']:.3f}) "
        f"| {iou['mean']:.3f} "
        f"| {cell['pooled']['dice']['value']:.3f} | {boundary['mean']:.3f} | {cell['steps']} "
        f"| {cell['pixels'] / 1e6:.1f} | {cell['training_seconds']:.0f} | {cell['seconds']:.0f} "
        f"| {cell['processor_seconds'] / cell['seconds']:.1f} |"
    )
