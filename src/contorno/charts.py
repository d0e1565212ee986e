"""Charts of the report, as SVG in the colours of the page, light and dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context, rcdefaults
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from contorno.calibration import STEPS

# Matplotlib draws in these stand-ins; the page's style sheet gives their colours, light and dark.
INK, GRID, FIRST, SECOND = "#000001", "#000002", "#000003", "#000004"
DOTS = 2_000  # images that a chart shows one by one: browsers take seconds for many more
VARIABLES = {INK: "--ink", GRID: "--line", FIRST: "--accent", SECOND: "--second"}
STYLE: dict[Any, Any] = {  # Matplotlib types its keys as literals
    "svg.fonttype": "none",
    "svg.hashsalt": "contorno",
    "axes.spines.top": False,
    "axes.spines.right": False,
    **dict.fromkeys(("axes.edgecolor", "grid.color", "xtick.color", "ytick.color"), GRID),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.labelcolor", "ytick.labelcolor"), INK),
}


def every(images: Sequence[Any]) -> int:
    """Of how many images in order one is drawn as a dot."""
    return max(1, -(-len(images) // DOTS))


def histogram(dice: Sequence[float], mean: float) -> Markup:
    """How many images have which Dice, in order, and the mean."""
    low = min(0.8, math.floor(min(dice) * 10) / 10)
    count = min(25, max(10, round(2 * math.sqrt(len(dice)))))
    bins = np.linspace(low, 1, count + 1).tolist()

    def draw(axes: Axes) -> None:
        tallest = np.histogram(dice, bins)[0].max()
        axes.hist(dice, bins, color=FIRST, alpha=0.45)
        axes.axhline(0, color=GRID, linewidth=0.8)
        # Every image is a dot too, below the bars; the golden ratio spreads equal ones apart.
        shown = dice[:: every(dice)]
        depths = 0.08 + 0.13 * (np.arange(len(shown)) * 0.618034 % 1)
        axes.scatter(shown, -depths * tallest, s=11, color=FIRST, linewidths=0)
        axes.axvline(mean, color=SECOND, linewidth=1.5, label=f"mean {mean:.3f}")
        right = mean <= (low + 1) / 2  # away from the line, which would cross the words
        axes.legend(frameon=False, loc="upper right" if right else "upper left")
        axes.set(xlim=(low - 0.01, 1.01), ylim=(-0.28 * tallest, 1.12 * tallest))
        axes.set(xlabel="Dice of an image", ylabel="images")
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_yticks([t for t in MaxNLocator(4, integer=True).tick_values(0, tallest) if t >= 0])

    return _svg("dice", draw, height=2.7)


def reliability(calibration: Mapping[str, Any] | None) -> Markup | None:
    """Share of true pixels against their probability, before and after the temperature."""
    if calibration is None or calibration["after"]["ece"] is None:
        return None
    lines = {"as predicted": _shares(calibration["after"])}
    if calibration["temperature"] != 1:
        lines["before the temperature"] = _shares(calibration["before"])

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, alpha=0.5, linewidth=1, linestyle=":")
        for (label, points), colour in zip(lines.items(), (FIRST, SECOND), strict=False):
            axes.plot(*points.T, "o-", color=colour, label=label, linewidth=1.8, markersize=4)
        if len(lines) > 1:
            axes.legend(frameon=False, loc="upper left")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.set(xlabel="probability", ylabel="share of true pixels")

    return _svg("reliability", draw, height=3.2)


def _shares(counts: Mapping[str, Any]) -> NDArray[np.float64]:
    """Mean probability and share of true pixels of each bin that holds any, (bins, 2)."""
    table = np.array([counts[name] for name in ("pixels", "positives", "steps")], dtype=float)
    pixels, positives, steps = table[:, table[0] > 0]
    return np.stack([steps / pixels / STEPS, positives / pixels], axis=1)


def expected(images: Sequence[Mapping[str, Any]]) -> Markup | None:
    """True Dice of each image, in order, against the one that its own probabilities promise."""
    shown = images[:: every(images)]
    points = np.array([(i["expected_dice"], i["dice"]) for i in shown if "expected_dice" in i])
    if not len(points):
        return None
    low = min(0.8, math.floor(points.min() * 10) / 10)

    def draw(axes: Axes) -> None:
        axes.plot([low, 1], [low, 1], color=INK, alpha=0.5, linewidth=1, linestyle=":")
        axes.scatter(points[:, 0], points[:, 1], s=14, color=FIRST, alpha=0.6, linewidths=0)
        axes.set(xlim=(low - 0.01, 1.01), ylim=(low - 0.01, 1.01))
        axes.set(xlabel="expected Dice", ylabel="Dice")

    return _svg("expected", draw, height=3.2)


def curves(
    title: str,
    epochs: Sequence[Mapping[str, Any]],
    series: Mapping[str, str],
    best: Mapping[str, Any] | None,
    *,
    height: float = 2.7,
) -> tuple[str, Markup] | None:
    """Title and chart of columns of the log against the epoch; None if they hold no value."""
    lines = {}
    for label, key in series.items():
        points = [(e["epoch"], y) for e in epochs if math.isfinite(y := _number(e.get(key)))]
        if points:
            lines[label] = np.array(points, dtype=float)  # (epochs, 2)
    if not lines:
        return None
    values = np.concatenate(list(lines.values()))[:, 1]

    def draw(axes: Axes) -> None:
        for (label, points), colour in zip(lines.items(), (FIRST, SECOND), strict=False):
            marker = "o" if len(points) == 1 else None
            axes.plot(*points.T, color=colour, label=label, linewidth=1.8, marker=marker)
            if best is not None:
                axes.plot(*points[points[:, 0] == best["epoch"]].T, "o", color=colour)
        if best is not None:
            axes.axvline(best["epoch"], color=INK, alpha=0.5, linewidth=1, linestyle=":")
        if title == "Loss" and 0 < values.min() < values.max() / 30:
            axes.set_yscale("log")  # a loss that falls from 1 to 0.001 is flat on a linear axis
        if len(lines) > 1:
            axes.legend(frameon=False)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set(xlabel="epoch")
        axes.grid(axis="y", linewidth=0.8)

    return title, _svg(title.lower().replace(" ", "-"), draw, height=height)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _svg(name: str, draw: Callable[[Axes], None], *, height: float) -> Markup:
    """Draw one chart as SVG to stand inside the page, 4.3 inches wide and `height` inches high."""
    data = io.StringIO()
    with rc_context():
        rcdefaults()  # a matplotlibrc of the user's must not change the page
        with rc_context(STYLE):
            figure = Figure(figsize=(4.3, height), layout="constrained")
            draw(figure.add_subplot(axisbelow=True))
            figure.savefig(data, format="svg", transparent=True, metadata={"Date": None})
    text = data.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = text[text.index("<svg ") :]
    text = re.sub(r'<svg [^>]*(viewBox="[^"]*")[^>]*>', r"<svg \1>", text)
    # Ids are counted anew in each chart ("axes_1"), but must be unique in the page.
    text = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return Markup(text)
