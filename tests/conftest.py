"""What many tests share: one thread for torch, a tiny data set, a tiny model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

# Before torch is loaded, here and in what tests start: tiny tensors gain nothing from threads, and
# sums come out the same on every machine.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest

from contorno.data import demo


@pytest.fixture(scope="session", autouse=True)
def ctrl_c() -> None:
    """Shells start what runs in the background with SIGINT ignored; the tests send it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `train` (6 pairs) and `test` (3 pairs), each of `images` and `masks`, 64 x 64.

    Shared by the whole session: read it, never write to it.
    """
    folder = tmp_path_factory.mktemp("tiny")
    demo.write(folder, train=6, test=3, size=64)
    return folder
