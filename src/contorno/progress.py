"""Progress to look at: a bar on a terminal, plain lines elsewhere. Output only, no decisions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table


class Advance(Protocol):
    """Call after each piece of work, with words on how it stands."""

    def __call__(self, words: str = "", *, steps: int = 1) -> None: ...


def say(message: str) -> None:
    """Print one message for the user on standard output, unwrapped and unstyled."""
    print(_printable(message), flush=True)


def warn(message: str) -> None:
    """Print one warning on standard error."""
    Console(stderr=True, highlight=False).print(
        _printable(message), style="yellow", soft_wrap=True, markup=False
    )


def is_terminal() -> bool:
    """Whether somebody looks at standard output."""
    return sys.stdout.isatty()


def _printable(message: str) -> str:
    """File names that are not UTF-8 are shown with escapes."""
    return message.encode("utf-8", "backslashreplace").decode()


@contextmanager
def bar(title: str, total: int, *, start: int = 0) -> Iterator[Advance]:
    """A progress bar with time left on a terminal; nothing elsewhere.

    Messages printed by `say` meanwhile appear above the bar.
    """
    if not is_terminal():
        yield lambda words="", *, steps=1: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        TextColumn("{task.fields[words]}"),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(title, total=total, completed=start, words="")

        def advance(words: str = "", *, steps: int = 1) -> None:
            progress.update(task, advance=steps, words=words)

        yield advance


def clock(seconds: float) -> str:
    """Seconds as 0:42, 12:05 or 1:02:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def size(bytes_: float) -> str:
    """Bytes as 12.3 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_ < 999.5:  # more would be rounded to 1e+03
            return f"{bytes_:.3g} {unit}"
        bytes_ /= 1000
    return f"{bytes_:.3g} TB"


def table(results: dict[str, Any]) -> None:
    """Print the figures of an evaluation: per image and pooled, with 95% intervals."""
    grid = Table(title=f"{len(results['images'])} images, threshold {results['threshold']:g}")
    grid.add_column("")
    grid.add_column("per image (95% interval)", justify="right")
    grid.add_column("pooled (95% interval)", justify="right")
    names = {
        "dice": "Dice",
        "iou": "IoU",
        "precision": "Precision",
        "recall": "Recall",
        "boundary_f": "Boundary F",
        "hd95": "HD95, pixels",
    }
    for key, name in names.items():
        grid.add_row(
            name,
            _interval(results["per_image"][key], "mean"),
            _interval(results["pooled"].get(key), "value"),
        )
    Console(highlight=False).print(grid)
    empty = results["empty"]
    if empty["images"]:
        say(
            f"{empty['images']} image(s) without any object, {empty['with_false_positives']} of "
            "them with false positives"
        )


def _interval(figure: dict[str, Any] | None, key: str) -> str:
    if figure is None or figure[key] is None:
        return "-"
    return f"{figure[key]:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"
