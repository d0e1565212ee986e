"""A reader finds the old file or the new one; a full disk is named, litter is swept."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from contorno import files
from contorno.errors import StorageError
from contorno.files import (
    TEMPORARY_PREFIX,
    append_line,
    sha256,
    storage_error,
    sweep,
    write_bytes,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "x.bin"
    write_bytes(path, b"first")
    assert path.read_bytes() == b"first"
    write_bytes(path, b"")
    assert path.read_bytes() == b""
    write_text(path, "añadir\n")
    assert path.read_bytes() == b"a\xc3\xb1adir\n"
    assert names(path.parent) == ["x.bin"]


def test_what_a_link_leads_to_is_not_written_over(tmp_path: Path) -> None:
    write_bytes(tmp_path / "deep" / "original", b"old")
    (tmp_path / "link").symlink_to(Path("deep") / "original")
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "deep" / "original").read_bytes() == b"old"
    assert (tmp_path / "link").read_bytes() == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
def test_what_is_no_regular_file_is_written_into(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_bytes(fifo, b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
    assert fifo.is_fifo()
    assert names(tmp_path) == ["fifo"]


@pytest.mark.skipif(not Path("/dev/fd").exists(), reason="no /dev/fd here")
def test_an_open_pipe_by_its_name() -> None:
    """As /dev/stdout often is: a link to a name that no folder holds."""
    reader, writer = os.pipe()
    try:
        write_bytes(Path(f"/dev/fd/{writer}"), b"through")
        assert os.read(reader, 100) == b"through"
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_those_of_any_new_file(
    mask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(mask)
    try:
        with (
            monkeypatch.context() as patched
        ):  # to ask for the mask is to change it for all threads
            patched.setattr(os, "umask", None)
            write_bytes(tmp_path / "ours", b"x")
        (tmp_path / "plain").write_bytes(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize(
    "fault", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failure_at_any_step_leaves_the_old_file_and_no_litter(
    step: str, fault: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(files.os, step, fail)
    kind = StorageError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(kind):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


def test_a_file_system_that_cannot_sync_folders_is_good_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: object, flags: int) -> int:
        raise PermissionError(errno.EACCES, "folders cannot be opened here")

    monkeypatch.setattr(files, "os", FakeOs(refuse))
    write_bytes(tmp_path / "x", b"new")
    assert (tmp_path / "x").read_bytes() == b"new"


class FakeOs:
    """The module `os`, but for `open`."""

    def __init__(self, replacement: object) -> None:
        self.open = replacement

    def __getattr__(self, name: str) -> object:
        return getattr(os, name)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match=r"file/inner: cannot be written"):
        write_bytes(tmp_path / "file" / "inner", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=r"folder: cannot be written: Is a directory"):
        write_bytes(tmp_path / "folder", b"x")
    with pytest.raises(StorageError, match="cannot be written"):
        append_line(tmp_path / "folder", "x")
    assert names(tmp_path) == ["file", "folder"]


LIMITED = """
import resource, sys
from pathlib import Path
from contorno.errors import StorageError
from contorno.files import append_line, write_bytes

folder = Path(sys.argv[1])
write_bytes(folder / "x.bin", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
for write in (lambda: write_bytes(folder / "x.bin", bytes(123_456)),
              lambda: append_line(folder / "log.jsonl", "y" * 4321)):
    try:
        write()
    except StorageError as error:
        print(error)
"""


def test_no_space_names_the_path_and_the_bytes(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    first, second = run.stdout.splitlines()
    assert str(tmp_path / "x.bin") in first
    assert "123,456 bytes" in first
    assert "The files that stood there are whole" in first
    assert str(tmp_path / "log.jsonl") in second
    assert "4,322 bytes" in second
    assert (tmp_path / "x.bin").read_bytes() == b"old"
    assert [name for name in names(tmp_path) if name.startswith(TEMPORARY_PREFIX)] == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_storage_errors_in_words(number: int) -> None:
    error = storage_error(Path("a/b"), 2_000_000, OSError(number, os.strerror(number)))
    assert "a/b" in str(error)
    assert "2,000,000 bytes" in str(error)
    assert os.strerror(number) in str(error)
    other = storage_error(Path("a/b"), 7, OSError(errno.EROFS, "Read-only file system"))
    assert str(other) == "a/b: cannot be written: Read-only file system"


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("one", "zwei ü", ""):
        append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "one\nzwei ü\n\n"


def test_sweep_takes_only_our_own_leftovers(tmp_path: Path) -> None:
    for name in (f"{TEMPORARY_PREFIX}abc", f"{TEMPORARY_PREFIX}def", "x", ".hidden"):
        (tmp_path / name).write_text("x")
    sweep(tmp_path)
    assert names(tmp_path) == [".hidden", "x"]
    sweep(tmp_path / "none")  # nothing there, nothing to do


def test_sweep_leaves_what_may_be_written_to(tmp_path: Path) -> None:
    now, old = (tmp_path / f"{TEMPORARY_PREFIX}{name}" for name in ("now", "old"))
    for file in (now, old):
        file.touch()
    os.utime(old, (0, time.time() - 61))
    sweep(tmp_path, idle=60)
    assert names(tmp_path) == [now.name]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    write_bytes(path, b"old")
    script = (
        "import os, sys; from pathlib import Path; from contorno import files\n"
        "files.os.replace = lambda *_: os._exit(9)\n"
        "files.write_bytes(Path(sys.argv[1]), b'new')"
    )
    run = subprocess.run([sys.executable, "-c", script, str(path)], timeout=60, check=False)
    assert run.returncode == 9
    assert path.read_bytes() == b"old"
    assert len(names(tmp_path)) == 2
    sweep(tmp_path)
    assert names(tmp_path) == ["x.bin"]


def test_sha256_is_sha256() -> None:
    assert sha256(b"abc") == hashlib.sha256(b"abc").hexdigest()
    assert sha256(b"").startswith("e3b0c44298fc1c14")
