"""What is printed: plain lines where nobody looks, a bar on a terminal, figures for people."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contorno import progress
from contorno.progress import bar, clock, labels_table, say, size, table, warn


def test_messages_are_not_wrapped_or_interpreted(capsys: pytest.CaptureFixture[str]) -> None:
    message = "[bold]path/plate:x:" + "x" * 300 + " 12 [/red]"
    say(message)
    warn(message)
    written = capsys.readouterr()
    assert written.out == message + "\n"
    assert written.err == message + "\n"


def test_a_bar_is_silent_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    with bar("Reading", 3) as advance:
        advance("words")
        advance(steps=2)
    assert capsys.readouterr().out == ""


def test_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with bar("Training", 10, start=4) as advance:
        advance("loss 0.5")
        say("epoch done")
        advance("loss 0.4", steps=3)
    written = capsys.readouterr().out
    assert "Training" in written
    assert "8/10" in written
    assert "loss 0.4" in written
    assert "epoch done" in written


def test_output_may_be_an_object_that_can_only_write(monkeypatch: pytest.MonkeyPatch) -> None:
    class Copied:
        text = ""

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            pass

    copied = Copied()
    monkeypatch.setattr(sys, "stdout", copied)
    with bar("Reading", 3) as advance:
        say("[bold] words")
        advance()
    labels_table([{"value": "255", "name": "cell", "share": 0.5, "images": 3}])
    assert copied.text.startswith("[bold] words\n")
    assert "cell" in copied.text


@pytest.mark.parametrize("columns", [40, 60, 80, 100, 200])
def test_count_and_time_left_stand_whole_beside_a_bar(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    """What is said of each step gives way first, and stays in its line."""
    monkeypatch.setattr(progress, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    with bar("Training", 120_000, start=60_000) as advance:
        advance("loss 0.3905  Dice 0.929  120.5 images/s", steps=0)
    written = capsys.readouterr().out.rstrip()
    assert "60000/120000 -:--:-- lo" in written
    assert len(written.splitlines()) == 1
    assert ("images/s" in written) == (columns >= 100)


SPELLING = """
from contorno.progress import findings, labels_table, say
say("images/日本.png")
labels_table([{"value": "1", "name": "細胞", "share": 0.5, "images": 2}])
one = {"kind": "tiny", "severity": "note", "path": "日本.png"} | dict.fromkeys(("what", "fix"), "≤")
result = {"good": 1, "pairs": 1, "rule": "≥", "labels": None, "suggestions": []}
findings(result | {"findings": [one | {"expected": "é"}]})
"""


def test_an_encoding_that_lacks_a_character_stops_no_script() -> None:
    """As where the output of a script of one's own goes to a file, on Windows."""
    done = subprocess.run(
        [sys.executable, "-c", SPELLING],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "cp1252"},
        timeout=60,
        check=True,
    )
    written = done.stdout.decode("cp1252")
    assert "images/\\u65e5\\u672c.png" in written
    assert "\\u7d30\\u80de" in written
    assert "expected é. Fix: \\u2264" in written


WARNING = """
from contorno.progress import bar, warn
with bar("Training", 2) as advance:
    advance()
    warn("a warning of " + "many words " * 9)
"""


@pytest.mark.parametrize("apart", [False, True])
def test_a_warning_stands_above_the_bar(tmp_path: Path, apart: bool) -> None:
    """And not behind it in its line; standard error in a file holds it as ever."""
    reader, terminal = os.openpty()
    with (tmp_path / "errors").open("wb") as errors:
        subprocess.run(
            [sys.executable, "-c", WARNING],
            stdout=terminal,
            stderr=errors if apart else terminal,
            env=os.environ | {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "80"},
            timeout=60,
            check=True,
        )
    os.close(terminal)
    shown, warning = os.read(reader, 65536).decode(), "a warning of " + "many words " * 9
    os.close(reader)
    assert (f"\x1b[2K{warning}\r\n" in shown) == (not apart)
    assert (tmp_path / "errors").read_text() == (f"{warning}\n" if apart else "")


WORK = """
import sys
from contorno.progress import bar, labels_table, say, warn
for _ in range(2):
    say("a line")
    warn("a warning")
    labels_table([{"value": "1", "name": "cell", "share": 0.5, "images": 2}])
    with bar("Training", 2) as advance:
        advance()
print("done", file=open(sys.argv[1], "w"))
"""


@pytest.mark.parametrize("where", ["closed", "full", "pipe", "terminal"])
def test_work_goes_on_where_nothing_can_be_printed(tmp_path: Path, where: str) -> None:
    """Output closed (>&-), on a full disk, to a reader or a terminal that is gone."""
    streams: dict[str, Any] = {}
    if where == "full":
        full = os.open("/dev/full", os.O_WRONLY)
        streams = {"stdout": full, "stderr": full}
    elif where != "closed":
        reader, writer = os.pipe() if where == "pipe" else os.openpty()
        os.close(reader)
        streams = {"stdout": writer, "stderr": writer}
    words = [sys.executable, "-c", WORK, str(tmp_path / "end")]
    closing = ["sh", "-c", 'exec "$@" >&- 2>&-', "sh"] if where == "closed" else []
    assert subprocess.run([*closing, *words], timeout=60, check=False, **streams).returncode == 0
    assert (tmp_path / "end").read_text() == "done\n"


def test_is_terminal_follows_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress.is_terminal() is False  # pytest captures it
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    for term, able in (("xterm", True), ("dumb", False), ("unknown", False)):
        monkeypatch.setenv("TERM", term)
        assert progress.is_terminal() is able  # where no bar can be drawn, lines are printed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0:00"),
        (0.4, "0:00"),
        (42, "0:42"),
        (59.6, "1:00"),
        (725, "12:05"),
        (3599.7, "1:00:00"),
        (3723, "1:02:03"),
        (36000, "10:00:00"),
    ],
)
def test_clock(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (12_345, "12.3 kB"),
        (12_345_678, "12.3 MB"),
        (999_600, "1 MB"),
        (2_500_000_000, "2.5 GB"),
        (3_210_000_000_000, "3.21 TB"),
    ],
)
def test_size(bytes_: float, words: str) -> None:
    assert size(bytes_) == words


@given(st.integers(0, 10**14))
def test_a_size_is_right_to_three_digits(bytes_: int) -> None:
    number, unit = size(bytes_).split()
    assert "e" not in number
    scale = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}[unit]
    assert float(number) * scale == pytest.approx(bytes_, rel=0.006)


def results(*, empty: int) -> dict[str, Any]:
    figure = {"mean": 0.91234, "low": 0.9, "high": 0.95, "n": 3}
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    pooled = {"value": 0.87654, "low": 0.8, "high": 0.9}
    names = ("dice", "iou", "precision", "recall")
    return {
        "images": [{}] * 3,
        "threshold": 0.5,
        "per_image": dict.fromkeys(names, figure) | {"boundary_f": figure, "hd95": nothing},
        "pooled": dict.fromkeys(names, pooled),
        "empty": {"images": empty, "with_false_positives": 1, "false_positive_rate": 0.5},
        "classes": [],
    }


def test_a_table_of_figures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    table(results(empty=0))
    written = capsys.readouterr().out
    assert "3 images, threshold 0.5" in written
    assert "0.9123 (0.9000 to 0.9500)" in written
    assert "0.8765 (0.8000 to 0.9000)" in written
    last = next(line for line in written.splitlines() if "HD95" in line)
    assert last.count(" - ") == 2
    assert "false positives" not in written
    assert "Each class" not in written
    fewer = results(empty=0)
    fewer["per_image"] |= {"hd95": {"mean": 0.0, "low": 0.0, "high": 0.0, "n": 2}}
    table(fewer)
    written = capsys.readouterr().out
    assert "HD95, pixels (2 of 3)" in written  # the third image has none
    assert "Recall (" not in written
    table(results(empty=2))
    assert "2 image(s) without any object, 1 of them with" in capsys.readouterr().out


def test_a_narrow_terminal_cuts_no_class_short(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    names = ("epithelium_left", "epithelium_right")
    labels_table([{"value": "1", "name": name, "share": 0.5, "images": 2} for name in names])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    cells = [line.split("│")[2].strip() for line in lines if "│" in line]
    assert "".join(cells) == "".join(names)


@pytest.mark.parametrize("threshold", [0.5, None])
def test_several_classes_have_a_table_of_their_own(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    threshold: float | None,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")  # as where nobody looks
    whole = results(empty=1)
    one = {key: whole[key] for key in ("per_image", "pooled", "empty")}
    dice = {"mean": 0.5678, "low": 0.5, "high": 0.6, "n": 3}
    other = one | {"per_image": one["per_image"] | {"dice": dice}}
    names = {"nucleus": one, "[red]cell[/red]": other, "caf\udce9": one}
    whole["classes"] = [{"name": name} | figures for name, figures in names.items()]
    whole["threshold"] = threshold
    table(whole)
    written = capsys.readouterr().out
    lines = written.splitlines()
    assert max(map(len, lines)) <= 80
    assert ("3 images, threshold 0.5" in written) == (threshold is not None)
    line = next(line for line in lines if "nucleus" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "nucleus", "2", "0.9123 (0.9000 to 0.9500)", "0.9123", "0.8765",
    ]  # fmt: skip
    assert "0.5678 (0.5000 to 0.6000)" in next(line for line in lines if "[red]cell[/" in line)
    assert "caf\\udce9" in written
    assert "1 image(s) without any object" in written
