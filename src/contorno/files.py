"""Writing files so that a reader finds either the old one or the new one, never half of one.

Temporary file in the same folder, fsync, rename over the target, fsync the folder. What is no
regular file, such as a device or a FIFO, is written straight into. Leaves what is written to
others.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import secrets
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from contorno.errors import StorageError

TEMPORARY_PREFIX = ".contorno-"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically; what stood there stays whole when this fails.

    A device or a FIFO stays what it is, and gets the bytes as they come. A link to a file is
    replaced: nobody's original that is linked into a folder is written over.

    Raises:
        StorageError: naming the path and the bytes needed (full disk, quota, no permission).
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            _replace(path, data)
    except OSError as error:
        raise storage_error(path, len(data), error) from error


def _replace(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # Ctrl-C too: leave no litter, pass it on
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write_bytes`."""
    write_bytes(path, text.encode())


def csv_bytes(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV in UTF-8, lines ended by a line feed.

    A carriage return, which names of files may hold, is quoted; Python 3.11 leaves it bare, where
    readers take it for the end of the row.
    """
    buffer = io.StringIO()
    plain = csv.writer(buffer, lineterminator="\n")
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        (quoted if any("\r" in str(value) for value in row) else plain).writerow(row)
    return buffer.getvalue().encode("utf-8", "surrogateescape")


def append_line(path: Path, line: str) -> None:
    """Append one line and flush it to the disk.

    Raises:
        StorageError: naming the path and the bytes needed.
    """
    data = (line + "\n").encode()
    try:
        with open(path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise storage_error(path, len(data), error) from error


def storage_error(path: Path, size: int, error: OSError) -> StorageError:
    """The error to raise when writing `size` bytes to `path` failed."""
    if error.errno in _NO_SPACE:
        needed = f": {size:,} bytes are needed" if size else ""
        return StorageError(
            f"{path}: no space to write it{needed} ({error.strerror}). "
            "The files that stood there are whole. Free some space and run the command again"
        )
    return StorageError(f"{path}: cannot be written: {error.strerror or error}")


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sweep(folder: Path, *, idle: float = 0) -> None:
    """Remove temporary files that a killed writer left in `folder`.

    Args:
        folder: where nobody else writes, or with `idle`, anybody.
        idle: seconds since a file was last written to, after which no writer can be at work on it.
    """
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime >= idle:
                leftover.unlink()


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder; not every file system (or Windows) allows it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
