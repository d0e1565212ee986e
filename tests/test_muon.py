"""Muon: what it does to convolutions, and that all else is AdamW's."""

import pytest
import torch
from torch import Tensor, nn

from contorno.muon import Muon, orthogonalising


def network() -> tuple[nn.Sequential, dict[str, Tensor]]:
    """Layers of every kind that U-Nets have, and the weights of the convolutions among them."""
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 300, 3),
        nn.ConvTranspose2d(300, 8, 2, stride=2),
        nn.Conv2d(8, 1, 1),
    )
    return module, {name: p for name, p in module.named_parameters() if p.ndim == 4}


def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    optimizer.zero_grad()
    module(torch.rand((2, 3, 12, 12), generator=generator)).square().mean().backward()
    optimizer.step()


def test_singular_values_become_about_one() -> None:
    generator = torch.Generator().manual_seed(0)
    matrices, bases = [], []
    for rows, columns in [(16, 16), (16, 300), (300, 16), (16, 20), (1, 40), (40, 1)]:
        rank = min(rows, columns)
        left, _ = torch.linalg.qr(torch.randn(rows, rank, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(columns, rank, generator=generator))
        bases.append((left, right))
        matrices.append(left * torch.linspace(0.2, 1, rank) @ right.T)
    for turn, matrix, (left, right) in zip(orthogonalising(matrices), matrices, bases, strict=True):
        turned = left.T @ (turn @ matrix) @ right  # the directions stay
        values = turned.diagonal()
        assert values.min() > 0.6
        assert values.max() < 1.3
        assert (turned - values.diag()).abs().max() < 1e-4


def test_the_iterations_are_those_of_newton_and_schulz() -> None:
    matrix = torch.randn(24, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    (turn,) = orthogonalising([matrix.float()])
    x = matrix / matrix.norm()
    for _ in range(3):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    torch.testing.assert_close(turn @ matrix.float(), x.float(), rtol=1e-3, atol=1e-4)


def test_nothing_comes_of_nothing() -> None:
    (turn,) = orthogonalising([torch.zeros(4, 9)])
    assert (turn @ torch.zeros(4, 9)).abs().max() == 0


def test_convolutions_step_along_all_their_directions_alike() -> None:
    module, weights = network()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    Muon(module, lr=1e-3, weight_decay=0.0).step()
    for name, weight in weights.items():
        moved = (weight.detach() - before[name]).permute(0, 2, 3, 1).flatten(1)
        rows, columns = moved.shape
        values = torch.linalg.svdvals(moved[:128]) / max(1, rows / columns) ** 0.5
        assert values.max() < 0.02 * 1.3, name
        assert values.min() > 0.02 * 0.6, name


def test_steps_follow_nesterov_s_momentum() -> None:
    """Of a single row the step is the momentum's direction, whatever its length."""
    module = nn.Conv2d(5, 1, 3, bias=False)
    optimizer = Muon(module, lr=1e-3, weight_decay=0.0)
    generator, momentum = torch.Generator().manual_seed(1), torch.zeros(1, 5, 3, 3)
    for _ in range(4):
        before = module.weight.detach().clone()
        gradient = torch.randn(before.shape, generator=generator)
        module.weight.grad = gradient.clone()
        optimizer.step()
        momentum = 0.95 * momentum + 0.05 * gradient
        ahead = 0.95 * momentum + 0.05 * gradient
        moved = before - module.weight.detach()
        torch.testing.assert_close(moved / moved.norm(), ahead / ahead.norm())


def test_all_else_is_adamw() -> None:
    (mine, weights), (theirs, _) = network(), network()
    step(mine, Muon(mine, lr=1e-3, weight_decay=0.1))
    step(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-3, weight_decay=0.1, fused=True))
    mine_now, theirs_now = mine.state_dict(), theirs.state_dict()
    differ = {n for n in mine_now if not torch.equal(mine_now[n], theirs_now[n])}
    assert differ == weights.keys()


def test_decay_without_a_gradient_to_follow() -> None:
    module, weights = network()
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    Muon(module, lr=1e-3, weight_decay=0.1).step()
    for name, weight in weights.items():
        torch.testing.assert_close(weight.detach(), before[name] * (1 - 1e-3 * 20 * 0.1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_in_memory_changes_nothing(layout: torch.memory_format) -> None:
    (module, _), (plain, _) = network(), network()
    module.to(memory_format=layout)  # type: ignore[call-overload]
    strides = [parameter.stride() for parameter in module.parameters()]
    optimizers = [Muon(m, lr=1e-3, weight_decay=0.1) for m in (module, plain)]
    for _ in range(3):
        gradients = [torch.randn(p.shape) for p in plain.parameters()]  # contiguous, all of them
        for one, optimizer in zip((module, plain), optimizers, strict=True):
            for parameter, gradient in zip(one.parameters(), gradients, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    for one, other in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert [parameter.stride() for parameter in module.parameters()] == strides


def test_weights_without_a_gradient_stay() -> None:
    module, _ = network()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    Muon(module, lr=1e-3, weight_decay=0.1).step()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
