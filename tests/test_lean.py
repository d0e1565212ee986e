"""Lean training steps learn what plain layers learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from notebooks import R1, R2
from torch import Tensor, nn

from contorno.models import ARCHITECTURES, UNet, lean

WIDTHS_OF_5 = (4, 8, 16, 32, 64)
Gradients = dict[str, Tensor]


def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, every layer is PyTorch's own."""
    monkeypatch.setattr(lean, "trains", lambda x: False)


def batch(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def step(network: nn.Module, images: Tensor, target: Tensor, *, bf16: bool) -> Gradients:
    """Gradients by name, and what else the step changed: the running statistics."""
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        output = network(images)
    nn.functional.mse_loss(output.float(), target).backward()
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return gradients | {name: b.clone().float() for name, b in network.named_buffers()}


def error(found: Tensor, exact: Tensor) -> float:
    """Relative, in the Euclidean norm of the layer."""
    return float((found - exact).norm() / exact.norm().clamp(min=1e-30))


def make(architecture: str, up: str, *, last: bool = True, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    network = ARCHITECTURES[architecture](widths=(8, 16, 32), up=up)
    if last:
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return network.train()


every_network = pytest.mark.parametrize(
    ("architecture", "up"),
    [(name, up) for name in ARCHITECTURES for up in ("transposed", "bilinear")],
)


@every_network
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(("size", "band"), [((2, 3, 32, 48), None), ((1, 3, 37, 53), 200)])
def test_float32_gradients_are_those_of_plain_layers(
    architecture: str,
    up: str,
    last: bool,
    size: tuple[int, ...],
    band: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if band:  # so that small maps are cut into bands that do not divide their height
        monkeypatch.setattr(lean, "_BAND", band)
        monkeypatch.setattr(lean, "_LARGE", 0)
    images, target = batch(*size), batch(size[0], 1, *size[2:], seed=1).round()
    network = make(architecture, up, last=last)
    ours = step(network, images, target, bf16=False)
    plain(monkeypatch)
    theirs = step(make(architecture, up, last=last), images, target, bf16=False)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert error(ours[name], theirs[name]) <= 1e-4, name


@every_network
def test_bfloat16_is_as_exact_as_autocast(
    architecture: str, up: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors against float32, mean of five networks, layer by layer."""
    monkeypatch.setattr(lean, "_BAND", 512)
    monkeypatch.setattr(lean, "_LARGE", 1024)
    images, target = batch(2, 3, 64, 64), batch(2, 1, 64, 64, seed=1).round()

    def collect(bf16: bool) -> list[Gradients]:
        return [step(make(architecture, up, seed=s), images, target, bf16=bf16) for s in range(5)]

    ours = collect(True)
    plain(monkeypatch)
    theirs, exact = collect(True), collect(False)
    for name in exact[0]:
        mine, others = (
            sum(error(f[name], e[name]) for f, e in zip(found, exact, strict=True))
            for found in (ours, theirs)
        )
        assert mine <= 1.5 * others + 1e-3, name


@pytest.mark.parametrize(("up", "notebook"), [("transposed", R1), ("bilinear", R2)])
def test_short_training_reaches_the_loss_of_the_notebook(
    up: str, notebook: Callable[..., nn.Module]
) -> None:
    images = batch(4, 3, 32, 32)
    target = (images[:, :1] > 0.5).float()
    torch.manual_seed(0)
    theirs = notebook(3, 1, WIDTHS_OF_5)
    activation = None if up == "transposed" else "sigmoid"
    ours = UNet(3, 1, WIDTHS_OF_5, up=up, activation=activation)
    ours.load_state_dict(theirs.state_dict())
    losses = []
    for network in (ours, theirs):
        network.train()
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(30):
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(network(images), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[29] == pytest.approx(losses[59], rel=0.02)
    assert losses[29] < 0.8 * losses[0]  # it did learn


@every_network
def test_frozen_statistics_and_weights_stay(architecture: str, up: str) -> None:
    """Batch normalisation in eval mode and weights that are not trained, as in fine-tuning."""
    network = make(architecture, up)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    frozen = network.get_submodule("down1")
    frozen.requires_grad_(False)
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    found = step(network, batch(2, 3, 32, 32), batch(2, 1, 32, 32, seed=1), bf16=False)
    assert all(torch.equal(found[name], buffer.float()) for name, buffer in before.items())
    assert not any(name.startswith("down1.") for name in set(found) - set(before))


def test_weights_that_are_not_trained_get_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    images, target = batch(2, 3, 32, 32), batch(2, 1, 32, 32, seed=1)
    found = []
    for _ in range(2):
        network = make("UNet", "transposed")
        network.get_submodule("down1.conv.3").requires_grad_(False)
        network.get_submodule("up1.conv.1").requires_grad_(False)
        network.get_submodule("upsample1").requires_grad_(False)
        found.append(step(network, images, target, bf16=False))
        plain(monkeypatch)
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        assert error(found[0][name], found[1][name]) <= 1e-4, name


def test_one_value_a_channel_has_no_statistics() -> None:
    network = UNet(3, 1, (4, 8)).train()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network(batch(1, 3, 2, 2))
