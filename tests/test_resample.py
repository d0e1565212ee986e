"""Resizing against Pillow's own, which smooths too when it shrinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from contorno.resample import resize


@pytest.mark.parametrize(
    ("height", "width"),
    [(32, 48), (16, 16), (100, 20), (1, 1), (1, 96), (64, 1), (40, 1), (64, 96)],
)
def test_resize_is_pillow_s_bilinear(height: int, width: int) -> None:
    picture = np.random.default_rng(0).random((64, 96), dtype=np.float32)
    smaller = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    expected = np.asarray(smaller)
    resized = resize(torch.from_numpy(picture)[None, None], height, width)
    assert resized.shape == (1, 1, height, width)
    np.testing.assert_allclose(resized[0, 0], expected, rtol=0, atol=1e-5)


def test_the_same_size_is_the_same_tensor() -> None:
    x = torch.rand(2, 3, 5, 7)
    assert resize(x, 5, 7) is x
