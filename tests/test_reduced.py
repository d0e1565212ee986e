"""The network with less arithmetic gives the values of the network it was made of."""

from __future__ import annotations

import copy

import pytest
import torch
from notebooks import shaken
from torch import nn

from contorno.models import MilesialUNet, UNet
from contorno.models.reduced import reduced

ODD = [(8, 8), (17, 33), (40, 24), (9, 100)]
WIDTHS = [(3, 6), (4, 8, 16), (5, 20, 34, 48), (16, 32, 64, 64, 128)]


def network(up: str, widths: tuple[int, ...] = (4, 8, 16), activation: str | None = None) -> UNet:
    torch.manual_seed(0)
    return shaken(UNet(3, 2, widths, up=up, activation=activation)).eval().double()


def assert_same(one: nn.Module, other: nn.Module, *size: int) -> None:
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        expected, found = one(images), other(images)
    assert found.shape == expected.shape
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_equal_values_at_any_size(up: str, widths: tuple[int, ...]) -> None:
    plain = network(up, widths)
    for size in ODD:
        assert_same(plain, reduced(plain, merged=False).double(), *size)


@pytest.mark.parametrize("widths", WIDTHS)
@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_merged_equal_values_at_aligned_sizes(up: str, widths: tuple[int, ...]) -> None:
    plain, edge = network(up, widths), 2 ** (len(widths) - 1)
    less = reduced(plain, merged=True).double()
    assert all(not isinstance(layer, nn.BatchNorm2d) for layer in less.modules())
    for rows, columns in [(1, 1), (2, 3), (5, 2)]:
        assert_same(plain, less, rows * edge, columns * edge)


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_patches(up: str) -> None:
    torch.manual_seed(0)
    plain = shaken(UNet(3, 2, (4, 8, 16), up=up, patch=2)).eval().double()
    for size in ODD:
        assert_same(plain, reduced(plain, merged=False).double(), *size)
    assert_same(plain, reduced(plain, merged=True).double(), 24, 40)


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
def test_probabilities(up: str) -> None:
    plain = network(up, activation="softmax")
    assert_same(plain, reduced(plain, merged=True).double(), 20, 32)


def test_the_network_itself_stays() -> None:
    plain = network("bilinear")
    before = copy.deepcopy(plain.state_dict())
    reduced(plain, merged=True)
    after = plain.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_other_networks_are_folded() -> None:
    torch.manual_seed(0)
    plain = shaken(MilesialUNet(3, 1, (4, 8, 16), up="bilinear")).eval().double()
    less = reduced(plain, merged=True)
    assert all(not isinstance(layer, nn.BatchNorm2d) for layer in less.modules())
    for size in ODD:
        assert_same(plain, less, *size)
