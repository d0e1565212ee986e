"""Warnings that are left out, and the caller's filters after it."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from making import save

from contorno import decoding
from contorno.hush import hushed
from contorno.images import read_image


def test_the_last_one_to_leave_puts_the_filters_back() -> None:
    before = list(warnings.filters)
    first, second = hushed("of the first"), hushed(category=DeprecationWarning)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    warnings.warn("of the first, still", stacklevel=1)
    warnings.warn("of the second", DeprecationWarning, stacklevel=1)
    with pytest.warns(UserWarning, match="of nobody"):
        warnings.warn("of nobody", stacklevel=1)
    second.__exit__(None, None, None)
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="within"), hushed(category=DeprecationWarning):
        warnings.warn("within", stacklevel=1)
    with pytest.raises(ValueError, match="an error"), hushed():
        raise ValueError("an error")
    assert warnings.filters == before


def test_pictures_read_together_leave_the_filters_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, came, left = Event(), Event(), Event()
    real = decoding._from_pillow

    def slow(picture: Any, *rest: Any) -> Any:
        """The narrow picture comes first and leaves first, while the wide one is read."""
        if picture.width == 8:
            began.set()
            came.wait(5)
        else:
            came.set()
            left.wait(5)
        return real(picture, *rest)

    narrow, wide = (
        save(tmp_path / f"{width}.jpg", np.zeros((8, width), np.uint8)) for width in (8, 9)
    )
    monkeypatch.setattr(decoding, "_from_pillow", slow)
    before = list(warnings.filters)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(read_image, narrow)
        began.wait(5)
        second = pool.submit(read_image, wide)
        assert first.result().shape == (8, 8, 1)
        left.set()
        assert second.result().shape == (8, 9, 1)
    assert warnings.filters == before
