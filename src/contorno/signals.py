"""Ctrl-C and SIGTERM as a polite request: work ends at a safe place. A second Ctrl-C insists.

Where every place is safe, as all is saved, work ends at once. In both cases the user is told how to
go on.
"""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from contorno.errors import Interrupted


class StopRequest:
    """While entered, notes signals instead of dying from them.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
        at_once: raise KeyboardInterrupt, whichever signal it is, once it is noted.
    """

    def __init__(self, *, at_once: bool = False) -> None:
        self.signal = 0
        self._at_once = at_once
        self._previous: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        return self.signal != 0

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                # None: that of a program which Python runs in, such as R, and could not be put back
                if signal.getsignal(number) is not None:
                    self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._at_once:
            raise KeyboardInterrupt


def stopped(run: Path, where: str, exit_code: int) -> Interrupted:
    """The error to raise when a run whose state is saved was stopped; `where` is in words."""
    words = f"Stopped {where}; everything is saved. {go_on(run)}"
    return Interrupted(words, exit_code=exit_code)


def go_on(run: Path) -> str:
    """How to go on with a run that was stopped, in words that a shell takes as they are."""
    return f"Go on with:\n  contorno train --resume {shlex.quote(str(run))}"


@contextmanager
def resumable(run: Path, where: str) -> Iterator[None]:
    """Let signals end work at once that is done again when the run is resumed.

    Args:
        run: folder of the run.
        where: the work is stopped, in words.

    Raises:
        Interrupted: Ctrl-C or SIGTERM.
    """
    stop = StopRequest(at_once=True)
    try:
        with stop:
            yield
    except Interrupted as error:
        raise stopped(run, where, error.exit_code) from None
    except KeyboardInterrupt:
        raise stopped(run, where, 128 + (stop.signal or signal.SIGINT)) from None
