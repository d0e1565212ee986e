"""The network with less arithmetic gives the values of the network it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
from notebooks import shaken
from torch import nn

from contorno.models import MilesialUNet, UNet
from contorno.models.reduced import reduced

SIZES = [(8, 8), (17, 33), (40, 24), (9, 100)]


def bilinear(widths: tuple[int, ...], activation: str | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = UNet(3, 2, widths, up="bilinear", activation=activation)
    return shaken(network).eval().double()


@pytest.mark.parametrize("widths", [(3, 6), (4, 8, 16), (5, 20, 34, 48), (16, 32, 64, 64, 128)])
def test_equal_values_at_any_size(widths: tuple[int, ...]) -> None:
    network = bilinear(widths)
    less = reduced(network).double()
    for size in SIZES:
        images = torch.randn(2, 3, *size, dtype=torch.float64)
        with torch.no_grad():
            expected, found = network(images), less(images)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_equal_probabilities() -> None:
    network = bilinear((4, 8, 16), "softmax")
    images = torch.randn(1, 3, 21, 30, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(reduced(network).double()(images), network(images))


def test_the_network_itself_stays() -> None:
    network = bilinear((4, 8, 16))
    before = copy.deepcopy(network.state_dict())
    assert reduced(network) is not network
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_others_are_given_back() -> None:
    for network in (
        UNet(3, 1, (4, 8)),
        MilesialUNet(3, 1, (4, 8, 16), up="bilinear"),
        nn.Conv2d(3, 1, 1),
    ):
        assert reduced(network) is network
