"""Warnings of libraries that say nothing to the user are left out, also in several threads at once.

Python keeps one list of filters for all threads. Where two `warnings.catch_warnings` overlap, the
one that began last puts back the filters of the other, and they stay for as long as the process
lives.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

_lock = Lock()
_open: list[warnings.catch_warnings[None]] = []  # the one that puts the filters back
_inside = 0  # threads, or places, that are within `hushed`


@contextmanager
def hushed(message: str = "", category: type[Warning] = Warning) -> Iterator[None]:
    """Within, ignore warnings of a kind; the last one to leave puts the caller's filters back.

    Args:
        message: regular expression that these begin with.
        category: their class.
    """
    global _inside
    with _lock:
        if not _inside:
            _open.append(warnings.catch_warnings())
            _open[0].__enter__()
        _inside += 1
        warnings.filterwarnings("ignore", message, category)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                _open.pop().__exit__(None, None, None)
