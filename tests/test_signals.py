"""Ctrl-C and SIGTERM are noted while work goes on; a second Ctrl-C is obeyed at once."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from pathlib import Path

import pytest

from contorno.errors import Interrupted
from contorno.signals import StopRequest, go_on, resumable


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number: int) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    with StopRequest() as stop:
        assert not stop.requested
        send(number)
        assert stop.requested
        assert stop.signal == number
    assert {n: signal.getsignal(n) for n in before} == before


def test_handlers_that_are_not_pythons_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a program that Python runs in: `signal` tells None of them, and takes no None."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(signal, "getsignal", lambda number: None)
    with StopRequest() as stop:
        monkeypatch.undo()
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not stop.requested


def test_a_second_ctrl_c_is_not_polite() -> None:
    with StopRequest() as stop:
        send(signal.SIGINT)
        send(signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_can_be_done_again_ends_at_once(number: int) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    words = r"^Stopped here; everything is saved\. Go on with:\n  contorno train --resume run$"
    with pytest.raises(Interrupted, match=words) as caught, resumable(Path("run"), "here"):
        send(number)
    assert caught.value.exit_code == 128 + number
    assert {n: signal.getsignal(n) for n in before} == before


def test_a_shell_takes_the_command_that_goes_on_as_it_is() -> None:
    run = Path("runs/my cells (2)")
    command = go_on(run).splitlines()[-1]
    assert shlex.split(command) == ["contorno", "train", "--resume", str(run)]


def test_the_outermost_says_where_and_keeps_the_exit_code() -> None:
    run = Path("run")
    with pytest.raises(Interrupted, match=r"outside; .*\n.*resume run$") as caught:  # noqa: SIM117
        with resumable(run, "outside"), resumable(run / "fold1", "inside"):
            send(signal.SIGTERM)
    assert caught.value.exit_code == 143


def test_handlers_come_back_after_an_error() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ZeroDivisionError), StopRequest():
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) == before


def test_outside_the_main_thread_it_does_nothing() -> None:
    seen: list[bool] = []

    def work() -> None:
        with StopRequest() as stop:
            seen.append(stop.requested)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
    assert signal.getsignal(signal.SIGINT) == before
