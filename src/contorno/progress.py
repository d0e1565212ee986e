"""Progress to look at: a bar on a terminal, plain lines elsewhere. Output only, no decisions."""

from __future__ import annotations

import os
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

_SCREENFUL = 12  # findings of one kind that are printed
_NARROW = 70  # columns: in fewer, figures are folded; in more, they stay in one line
_LONG_BAR = 120  # columns: in fewer, a progress bar is short


_bars: list[Console] = []  # those that are drawn now


class Advance(Protocol):
    """Call after each piece of work, with words on how it stands, and a new total if it changed."""

    def __call__(self, words: str = "", *, steps: int = 1, total: int | None = None) -> None: ...


def say(message: str) -> None:
    """Print one message for the user on standard output, unwrapped and unstyled."""
    try:
        print(printable(message), flush=True)
    except OSError:
        _go_on_unheard(sys.stdout)


def _go_on_unheard(stream: IO[str]) -> None:
    """Print into nothing from now on: nobody listens, or the disk is full; the work goes on."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Output(Console):
    """Standard output or error for what is more than plain lines; nobody need listen."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False, emoji=False)  # "a:x:b.png" is a name

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)  # here all is written that was printed
        except OSError:  # the terminal is gone, the disk full
            _go_on_unheard(self.file)

    def on_broken_pipe(self) -> None:
        _go_on_unheard(self.file)


def warn(message: str) -> None:
    """Print one warning on standard error; on a terminal above a bar that is drawn there."""
    console: Console = _Output(stderr=True)
    if _bars and console.is_terminal:
        console = _bars[-1]
    console.print(printable(message), style="yellow", soft_wrap=True, markup=False)


def failed(message: str) -> None:
    """Print why a command failed on standard error, unwrapped and unstyled."""
    try:
        print(f"contorno: {printable(message)}", file=sys.stderr)
    except OSError:
        _go_on_unheard(sys.stderr)


def is_terminal() -> bool:
    """Whether somebody looks at standard output, where a bar can be drawn.

    What a script puts in its place, to keep a copy of it say, need not be able to tell.
    """
    able = os.environ.get("TERM", "").lower() not in ("dumb", "unknown")  # Emacs' shell, say
    tells = getattr(sys.stdout, "isatty", None)
    return able and tells is not None and bool(tells())


def printable(message: str) -> str:
    """Control characters, and what standard output cannot spell, are shown with escapes."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    text = message.encode(encoding, "backslashreplace").decode(encoding)
    return "".join(
        c if c == "\n" or unicodedata.category(c) != "Cc" else c.encode("unicode_escape").decode()
        for c in text
    )


class _Words(TextColumn):
    """Words beside a bar, cut short where room lacks, so that count and time left are not."""

    def __init__(self) -> None:
        super().__init__("{task.fields[words]}", markup=False, table_column=Column())

    def render(self, task: Task) -> Text:
        words = super().render(task)
        words.no_wrap, words.overflow = True, "ellipsis"
        return words


@contextmanager
def bar(title: str, total: int, *, start: int = 0) -> Iterator[Advance]:
    """A progress bar with time left on a terminal; nothing elsewhere.

    Messages printed by `say` and `warn` meanwhile appear above the bar.
    """
    if not is_terminal():
        yield lambda words="", *, steps=1, total=None: None
        return
    console, whole = _Output(), Column(no_wrap=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(40 if console.width >= _LONG_BAR else 10),
        MofNCompleteColumn(table_column=whole),
        TimeRemainingColumn(elapsed_when_finished=True, table_column=whole),
        _Words(),
    )
    with Progress(*columns, console=console) as progress, _drawn_on(console):
        task = progress.add_task(title, total=total, completed=start, words="")

        def advance(words: str = "", *, steps: int = 1, total: int | None = None) -> None:
            progress.update(task, advance=steps, words=words, total=total)

        yield advance


@contextmanager
def _drawn_on(console: Console) -> Iterator[None]:
    _bars.append(console)
    try:
        yield
    finally:
        _bars.remove(console)


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


def labels_table(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print how masks were understood: value, class, share of pixels, in how many masks."""
    grid = Table()
    for title in ("mask value", "class"):
        grid.add_column(title, overflow="fold")  # cut short, two classes may look the same
    for title in ("pixels", "in masks"):
        grid.add_column(title, justify="right", overflow="fold")
    for row in rows:
        words = [Text(printable(row[key])) for key in ("value", "name")]
        grid.add_row(*words, f"{100 * row['share']:.3g}%", str(row["images"]))
    _Output().print(grid)


def findings(result: dict[str, Any]) -> None:
    """Print what `check` found: how masks are read, then the worst first, some of each kind."""
    console = _Output()
    say(f"{result['good']} of {result['pairs']} pairs can be used ({result['rule']})")
    if result["labels"] is not None:
        say(f"Masks: {result['labels']['note']}")
        labels_table(result["labels"]["table"])
    style = {"error": "red", "warning": "yellow", "note": "default"}
    shown: Counter[str] = Counter()
    hidden: Counter[str] = Counter()
    for finding in result["findings"]:
        kind, severity = finding["kind"], finding["severity"]
        shown[kind] += 1
        if shown[kind] > _SCREENFUL:
            hidden[kind] += 1
            continue
        words = f"{finding['path']}: {finding['what']}; expected {finding['expected']}. Fix: "
        line = printable(f"{severity}: {words}{finding['fix']}")
        console.print(line, style=style[severity], soft_wrap=True, markup=False)
    for kind, count in hidden.items():
        console.print(f"... and {count} more of kind {kind} (--json or --page has all)")
    for suggestion in result["suggestions"]:
        console.print(suggestion, soft_wrap=True, markup=False)


def table(results: dict[str, Any]) -> None:
    """Print the figures of an evaluation: per image, pooled and of each class, with intervals."""
    threshold = results["threshold"]  # None where the largest probability decides
    several = threshold if isinstance(threshold, list) else [threshold]
    limits = ", ".join(f"{one:g}" for one in several if one is not None)
    words = f", threshold {limits}" if limits else ""
    images = len(results["images"])
    grid = Table(title=f"{images} image{'' if images == 1 else 's'}{words}")
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
        number = results["per_image"][key]["n"]
        grid.add_row(
            f"{name} ({number} of {images})" if 0 < number < images else name,
            _interval(results["per_image"][key], "mean"),
            _interval(results["pooled"].get(key), "value"),
        )
    console = _Output()
    console.print(grid)
    if classes := results.get("classes"):
        wide = console.width >= _NARROW
        console.print(_class_table(classes, images, wide=wide))
    empty = results["empty"]
    if empty["images"]:
        say(
            f"{empty['images']} image(s) without any object, {empty['with_false_positives']} of "
            "them with false positives"
        )


def bench_table(result: dict[str, Any]) -> None:
    """Print what `bench` measured, and what it recommends."""
    height, width = result["size"]
    what = "random noise" if result["noise"] else "a picture"
    console = _Output()
    grid = Table(title=f"{what} of {width} x {height}, {result['gflop']:.1f} GFLOP")
    for name in ("engine", "ms (range)", "images/s", "peak", "equal", "Dice"):
        side: Any = "left" if name == "engine" else "right"
        grid.add_column(name, justify=side, overflow="fold", no_wrap=console.width >= _NARROW)
    for row in sorted(result["engines"], key=lambda row: float(row["ms"])):
        share, dice = row["share_of_peak"], row["dice"]
        grid.add_row(
            row["engine"] + (" *" if row["engine"] == result["fastest"] else ""),
            f"{row['ms']:.0f} ({row['ms_low']:.0f}-{row['ms_high']:.0f})",
            f"{row['images_per_second']:.2f}",
            "-" if share is None else f"{share:.0%}",
            f"{row['agreement']:.3%}",
            _plain(dice),
        )
    console.print(grid)
    say("peak: share of the processor's; equal: pixels drawn as by float32")
    peaks = [f"{p:.2f} {name}" for name, p in result["peak"].items() if p is not None]
    step = result["training"]
    say(
        f"Measured peak, TFLOP/s: {', '.join(peaks)}\n"
        f"Training step, {step['batch']} pictures of {step['edge']} x {step['edge']}: "
        f"{step['ms']:.0f} ms, {step['images_per_second']:.1f} pictures/s"
    )
    for name, reason in result["left_out"].items():
        say(f"Left out: {name}: {reason}")
    say(f"* From now on --engine auto means {result['fastest']} for this model on this machine.")


def _class_table(classes: Sequence[dict[str, Any]], images: int, *, wide: bool) -> Table:
    """One row for each class; a class that few images hold is best judged by its pooled Dice."""
    grid = Table(title="Each class on its own")
    grid.add_column("class", overflow="fold")
    grid.add_column("in images", justify="right", overflow="fold")
    grid.add_column("Dice per image", justify="right", overflow="fold", no_wrap=wide)
    grid.add_column("IoU", justify="right", overflow="fold")
    grid.add_column("pooled Dice", justify="right", overflow="fold")
    for one in classes:
        grid.add_row(
            Text(printable(one["name"])),  # a name is no markup
            str(images - one["empty"]["images"]),
            _interval(one["per_image"]["dice"], "mean"),
            _plain(one["per_image"]["iou"]["mean"]),
            _plain(one["pooled"]["dice"]["value"]),
        )
    return grid


def _plain(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4f}"


def _interval(figure: dict[str, Any] | None, key: str) -> str:
    if figure is None or figure[key] is None:
        return "-"
    if figure["low"] is None:
        return f"{figure[key]:.4f}"
    return f"{figure[key]:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"
