"""Convolutions done before their input grows are those of the grown input."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from contorno.models.growing import grown_conv, grown_conv_backward


@pytest.mark.parametrize(("low", "high"), [((6, 7), (12, 14)), ((1, 3), (2, 7)), ((4, 4), (9, 8))])
def test_as_interpolation_and_convolution(low: tuple[int, int], high: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(2, 5, *low, generator=random, requires_grad=True)
    weight = torch.randn(4, 5, 3, 3, generator=random, requires_grad=True)
    gradient = torch.randn(2, 4, *high, generator=random)
    expected = F.conv2d(
        F.interpolate(x, high, mode="bilinear", align_corners=True), weight, padding=1
    )
    expected.backward(gradient)
    with torch.no_grad():
        found = grown_conv(x, weight, torch.Size(high))
        by_x, by_weight = grown_conv_backward(gradient, x, weight)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_x, x.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(by_weight, weight.grad, rtol=1e-5, atol=1e-4)
