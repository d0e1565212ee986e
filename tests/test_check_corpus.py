"""`contorno check` on every folder of the corpus: it finds what is odd and goes on."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from corpus import CASES, KINDS, NOTES, PEER_CASES, UNREADABLE, Case
from corpus.parts import scene
from making import save
from PIL import Image

from contorno import api
from contorno.errors import InputError

ENTRIES = [
    # files
    "image without mask",
    "mask without image",
    "one stem with two extensions",
    "upper-case extension",
    "NFC/NFD names",
    "spaces/newline/%/leading dash in names",
    "names that differ by case",
    "`a.b.png`",
    "`_mask`/`-gt`/`_label` suffixes",
    "hidden files and Thumbs.db",
    "no permission",
    "folder named x.png",
    "symlink loop",
    "dangling link",
    "FIFO",
    "zero bytes",
    "wrong extension",
    "not an image (HTML, LFS pointer)",
    "truncated",
    "file vanishes mid-run",
    # images
    "EXIF rotation",
    "16-bit",
    "float",
    "NaN/Inf",
    "CMYK",
    "palette",
    "LA/RGBA",
    "1-bit",
    "multi-page",
    "mixed channel counts",
    "more than 4 bands",
    "1 pixel",
    "smaller than the crop",
    "30k x 30k",
    "extreme aspect",
    "constant",
    # masks
    "other size than the image",
    "transposed size",
    "{0,255}",
    "{0,1}",
    "other two values",
    "RGB colours",
    "palette (use the raw index)",
    "object in alpha",
    "JPEG-noised",
    "anti-aliased",
    "undeclared value",
    "255 as ignore or class",
    "ids > 255",
    "all empty",
    "inverted (> 90% foreground)",
    "declared class never present",
    "class absent from validation",
    "instance ids used as classes",
    "all masks identical",
    "mask equal to the image",
    # the set
    "exact duplicates across train and validation",
    "near-duplicates",
    "same image with different masks",
    "one image only",
    "groups shared across the split",
    # what a set may be beyond one image and one mask
    "overlapping classes",
    "channels in separate files",
    "pages as channels",
    "lists of files",
]

BY_NAME = {case.name: case for case in CASES}
LONGEST = 20  # seconds that a check of a few tiny pictures may take on a busy machine
TOO_MANY = 10**8  # pixels
EXTENSIONS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")
COMMANDS = (
    "{0,255}",
    "suffix told",
    "image without mask",
    "not UTF-8, damaged",
    "escapes, damaged",
    "image is a FIFO",
    "cells and nuclei",
    "two stains",
    "LFS pointers",
)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder that can be deleted afterwards, whatever a case forbids in it."""
    folder = tmp_path / "case"
    folder.mkdir()
    yield folder
    for inner, folders, _ in os.walk(folder):
        for name in folders:
            if not (Path(inner) / name).is_symlink():
                (Path(inner) / name).chmod(0o700)


def every(*, names: tuple[str, ...] | None = None) -> pytest.MarkDecorator:
    """Parametrise over cases."""
    chosen = CASES if names is None else [BY_NAME[name] for name in names]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.name)


def made(case: Case, folder: Path) -> Path:
    """The folder of a case; skips where this machine cannot show it."""
    if case.needs == "user" and os.geteuid() == 0:
        pytest.skip("root may read everything")
    if case.needs == "linux" and not sys.platform.startswith("linux"):
        pytest.skip("there is no such file on this system")
    if case.needs == "names" and not keeps_names(folder):
        pytest.skip("this file system changes names")
    case.make(folder)
    return folder


def keeps_names(folder: Path) -> bool:
    """Whether a name keeps its case, its bytes and its Unicode form."""
    names = ["a", "A", os.fsdecode(b"\xe9"), "\u00e9", "e\u0301"]
    try:
        for name in names:
            (folder / name).touch()
        return set(names) <= {path.name for path in folder.iterdir()}
    except OSError:
        return False
    finally:
        for path in list(folder.iterdir()):
            path.unlink()


def contents(folder: Path) -> dict[str, str]:
    """What every path below a folder is: the digest of a regular file, the target of a link ..."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        name = str(path.relative_to(folder))
        if stat.S_ISREG(mode) and os.access(path, os.R_OK):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(mode):
            found[name] = os.readlink(path)
        else:
            found[name] = stat.filemode(mode)
    return found


# --- the corpus itself


def test_the_corpus_has_every_entry() -> None:
    assert len(CASES) >= 200
    assert {case.entry for case in CASES} == set(ENTRIES)


def test_nothing_usable_suggests_nothing_else(tmp_path: Path) -> None:
    for index in range(10):
        save(tmp_path / "i" / f"{index}.png", np.eye(32, k=index, dtype=np.uint8) * 200)
        save(tmp_path / "m" / f"{index}.png", np.full((32, 32), 255, np.uint8))
    result = api.check(tmp_path / "i", tmp_path / "m")
    assert result["good"] == 0
    (words,) = result["suggestions"]
    assert words.startswith("Nothing can be trained on yet")


def test_one_pair_is_not_said_to_be_left_out(tmp_path: Path) -> None:
    """It can be used, but not alone."""
    save(tmp_path / "i" / "p.png", np.arange(1024, dtype=np.uint8).reshape(32, 32))
    save(tmp_path / "m" / "p.png", np.eye(32, dtype=np.uint8) * 255)
    result = api.check(tmp_path / "i", tmp_path / "m")
    assert [finding["kind"] for finding in result["findings"]] == ["one-image"]
    (words,) = result["suggestions"]
    assert words.startswith("Nothing can be trained on yet")


def test_cases_have_names_of_their_own_and_known_kinds() -> None:
    assert len(BY_NAME) == len(CASES)
    assert all(case.kinds | case.also <= KINDS for case in CASES)
    assert frozenset[str]().union(*(case.kinds for case in CASES)) == KINDS


def test_forty_cases_are_for_other_tools_too() -> None:
    assert len(set(PEER_CASES)) == len(PEER_CASES) == 40
    assert set(PEER_CASES) <= set(BY_NAME)
    assert not any(BY_NAME[name].needs == "user" for name in PEER_CASES)


def test_good_pictures_are_not_alike() -> None:
    """What is called a near-duplicate must come from a case, not from how scenes are drawn."""
    small = [scene(seed).mean(2)[::4, ::4] for seed in (*range(12), 90, 91, 92)]
    for one in range(len(small)):
        turns = [np.rot90(side, k) for side in (small[one], small[one].T) for k in range(4)]
        for other in small[one + 1 :]:
            assert max(np.corrcoef(t.ravel(), other.ravel())[0, 1] for t in turns) < 0.8


@every()
def test_a_case_is_always_the_same_and_as_readable_as_it_says(case: Case, folder: Path) -> None:
    first, second = folder / "1", folder / "2"
    for copy in (first, second):
        copy.mkdir()
        made(case, copy)
    assert contents(first) == contents(second) != {}
    pictures = {
        path
        for path in first.glob("*/*")
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    }
    bad = {path for path in pictures if not decodes(path)}
    broken = bool(case.kinds & UNREADABLE) and not case.vanishes
    assert bool(bad) == broken or case.also & UNREADABLE or not case.exact
    if broken and case.good is not None:
        assert len({path.name.partition(".")[0] for path in pictures - bad}) >= case.good


def decodes(path: Path) -> bool:
    """Whether Pillow, or tifffile for TIFF, reads all pixels of the first picture in a file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of sizes and of EXIF data
            if path.read_bytes()[:4] in (b"II*\0", b"MM\0*", b"II+\0"):
                with tifffile.TiffFile(path) as file:
                    page: Any = file.pages[0]
                    return bool(page.size < TOO_MANY and page.asarray().size)
            with Image.open(path) as picture:
                return picture.width * picture.height < TOO_MANY and bool(picture.load())
    except Exception:  # whatever a decoder makes of damaged data
        return False


# --- the check


_on_open: Callable[[Path], None] | None = None  # called before any file is opened


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _on_open is not None and event == "open" and isinstance(arguments[0], str):
        _on_open(Path(arguments[0]))


sys.addaudithook(_hook)  # cannot be taken away again, so it does nothing by default


@contextmanager
def vanishing(folder: Path, names: tuple[str, ...]) -> Iterator[None]:
    """Deletes files as soon as a first picture is opened."""
    global _on_open
    places = {folder / Path(name).parts[0] for name in ("images", "masks")}

    def delete(path: Path) -> None:
        if path.parent in places:
            for name in names:
                (folder / name).unlink(missing_ok=True)

    _on_open = delete if names else None
    try:
        yield
    finally:
        _on_open = None


@contextmanager
def no_hang(folder: Path) -> Iterator[None]:
    """Fails after `LONGEST`; a thread that waits for a FIFO is let go, or it would never end."""

    def late(*_: object) -> None:
        for path in folder.rglob("*"):
            if stat.S_ISFIFO(path.lstat().st_mode):
                os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK))
        pytest.fail(f"the check has not ended after {LONGEST} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, LONGEST, 1)  # again each second: cleaning up may wait too
    faulthandler.dump_traceback_later(3 * LONGEST, exit=True)  # C code does not let a signal in
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def checked(case: Case, folder: Path) -> tuple[list[dict[str, str]], int | None, str]:
    """Findings, good pairs (None where an error says that there are none) and its message."""
    images, masks, options = case.arguments(folder)
    try:
        with no_hang(folder), vanishing(folder, case.vanishes):
            result = api.check(images, masks, **options)
    except InputError as error:
        if case.fatal is False:
            raise
        return [problem.as_dict() for problem in error.problems], None, str(error)
    if case.fatal is not None:
        assert (result["good"] == 0) == case.fatal, result["findings"]
    assert json.loads(json.dumps(result)) == result
    return result["findings"], result["good"], ""


@every()
def test_check_says_what_is_wrong_and_goes_on(case: Case, folder: Path) -> None:
    made(case, folder)
    before = contents(folder)
    findings, good, message = checked(case, folder)
    for name in case.vanishes:
        del before[name]
    assert contents(folder) == before
    if case.good is not None and good is not None:
        assert good == case.good
    judge(case, findings, message)


def judge(case: Case, findings: list[dict[str, str]], message: str) -> None:
    """The findings are the ones of the case, well said."""
    loud = {finding["kind"] for finding in findings if finding["severity"] != "note"}
    assert {finding["kind"] for finding in findings} <= KINDS
    if findings or not message:  # where there is not one pair, words are all there is
        assert case.kinds <= {finding["kind"] for finding in findings}
    assert not loud & NOTES
    assert case.alarms <= loud
    if case.exact and not case.fatal:
        assert loud <= case.alarms | case.also
    for finding in findings:
        assert finding["severity"] in ("error", "warning", "note")
        if finding["severity"] != "note":
            assert all(finding[part].strip() for part in ("path", "what", "expected", "fix"))
    texts = [
        " ".join(finding[part] for part in ("path", "what", "expected", "fix"))
        for finding in findings
        if finding["kind"] in case.kinds
    ]
    for words in case.says:
        assert any(words in text for text in [*texts, message]), words


# --- the command


def words(case: Case, folder: Path) -> list[str]:
    """The command line of a case."""
    images, masks, options = case.arguments(folder)
    line = [str(images)]
    if isinstance(masks, dict):
        line += [word for name, path in masks.items() for word in ("--masks", f"{name}={path}")]
    elif masks is not None:
        line.append(str(masks))
    for name, value in options.items():
        line.append("--" + name.replace("_", "-"))
        if value is not True:
            line.append(",".join(value) if isinstance(value, tuple) else str(value))
    return line


@every(names=COMMANDS)
def test_the_command_ends_well(case: Case, folder: Path) -> None:
    made(case, folder)
    out = folder.parent / "out.json"
    done = subprocess.run(
        [sys.executable, "-m", "contorno", "check", *words(case, folder), "--json", str(out)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=120,
    )
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert "\x1b[31m" not in output  # names cannot colour the terminal
    assert done.returncode == case.exit_code, output
    if done.returncode != 2:
        result = json.loads(out.read_text(encoding="utf-8"))
        assert result["good"] == case.good
        judge(case, result["findings"], "")


def test_values_that_are_all_foreground_are_not_said_to_go_to_the_nearest(tmp_path: Path) -> None:
    numbers = np.kron(np.arange(20, dtype=np.uint8).reshape(4, 5), np.ones((8, 8), np.uint8))
    for index in range(4):
        save(tmp_path / "images" / f"{index}.png", np.roll(numbers, index) * np.uint8(9))
        save(tmp_path / "masks" / f"{index}.png", numbers)
    result = api.check(tmp_path / "images", tmp_path / "masks", foreground="nonzero")
    assert result["good"] == 4
    assert not {"soft-masks", "stray-values"} & {one["kind"] for one in result["findings"]}
