"""One contract for all networks, and their equality with independent plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from notebooks import R1, R2, milesial, milesial_weights, shaken
from torch import Tensor, nn

from contorno.card import ModelCard
from contorno.checkpoint import load_model, save_model
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.labels import Labels
from contorno.errors import ConfigError
from contorno.models import ARCHITECTURES, MilesialUNet, Segmenter, UNet, build_network
from contorno.models.blocks import activate, fit

SIZES = [(1, 1), (1, 9), (17, 33), (16, 16), (40, 23)]
WIDTHS = (4, 8, 16)
WIDTHS_OF_5 = (2, 4, 8, 16, 32)


def of_classes(count: int) -> Labels:
    """Grey masks of the values 0, 1, 2 ...; for two classes those of 0 and 255."""
    if count == 2:
        return Labels()
    values = tuple(range(count))
    return Labels(
        values=values,
        names=tuple(f"class {value}" for value in values),
        lookup=tuple(zip(values, values, strict=True)),
    )


def make(
    architecture: str,
    up: str,
    activation: str | None,
    *,
    in_channels: int = 3,
    widths: Sequence[int] = WIDTHS,
    seed: int = 0,
) -> nn.Module:
    torch.manual_seed(seed)
    classes = 3 if activation == "softmax" else 1
    return ARCHITECTURES[architecture](
        in_channels=in_channels, out_channels=classes, widths=widths, up=up, activation=activation
    )


def picture(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def parameters(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


every_kind = pytest.mark.parametrize("architecture", list(ARCHITECTURES))
every_up = pytest.mark.parametrize("up", ["transposed", "bilinear"])
every_activation = pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])


@every_kind
@every_up
@every_activation
def test_the_output_has_the_size_of_the_input(
    architecture: str, up: str, activation: str | None
) -> None:
    network = shaken(make(architecture, up, activation))
    classes = 3 if activation == "softmax" else 1
    for height, width in SIZES:
        with torch.no_grad():
            output = network(picture(2, 3, height, width))
        assert output.shape == (2, classes, height, width)
        assert output.isfinite().all()
        if activation is not None:
            assert output.min() >= 0
            assert output.max() <= 1
        if activation == "softmax":
            torch.testing.assert_close(output.sum(dim=1), torch.ones(2, height, width))


@every_up
@pytest.mark.parametrize("patch", [2, 3, 4])
def test_patches_are_channels_of_a_plain_network(up: str, patch: int) -> None:
    torch.manual_seed(0)
    network = shaken(UNet(3, 2, WIDTHS, up=up, patch=patch)).double()
    inner = UNet(3 * patch**2, 2 * patch**2, WIDTHS, up=up).eval().double()
    inner.load_state_dict(network.state_dict())
    images = picture(2, 3, 8 * patch, 12 * patch).double()
    seen = torch.zeros(2, 3 * patch**2, 8, 12).double()
    for row, column in product(range(patch), repeat=2):  # c, row, column, as in pixel shuffling
        seen[:, row * patch + column :: patch**2] = images[:, :, row::patch, column::patch]
    with torch.no_grad():
        found, values = network(images), inner(seen)
    for row, column in product(range(patch), repeat=2):
        part = found[:, :, row::patch, column::patch]
        torch.testing.assert_close(part, values[:, row * patch + column :: patch**2])


@every_up
@pytest.mark.parametrize("patch", [2, 4])
def test_patches_of_pictures_of_any_size(up: str, patch: int) -> None:
    torch.manual_seed(0)
    network = shaken(UNet(3, 2, WIDTHS, up=up, patch=patch)).double()
    for height, width in SIZES:
        images = picture(1, 3, height, width).double()
        down, right = (max(-edge % patch, 4 * patch - edge) for edge in (height, width))
        whole = F.pad(images, (0, right, 0, down), mode="replicate")
        with torch.no_grad():
            found, expected = network(images), network(whole)[..., :height, :width]
        assert found.shape == (1, 2, height, width)
        torch.testing.assert_close(found, expected)


@every_kind
@every_up
@every_activation
def test_training_mode_works_at_any_size_and_eval_mode_forgets_the_batch(
    architecture: str, up: str, activation: str | None
) -> None:
    network = make(architecture, up, activation)
    batch = picture(2, 3, 17, 33)
    network.train()
    for height, width in SIZES:
        assert network(picture(2, 3, height, width)).shape[-2:] == (height, width)
    with torch.no_grad():
        together = network(batch)
        network.eval()
        alone = torch.cat([network(batch[:1]), network(batch[1:])])
        torch.testing.assert_close(network(batch), alone)
    assert not torch.allclose(together, alone)  # training mode normalises by the batch


@every_kind
@every_up
@every_activation
@pytest.mark.parametrize("in_channels", [1, 3, 5])
def test_a_model_file_brings_back_the_same_model(
    architecture: str, up: str, activation: str | None, in_channels: int, tmp_path: Path
) -> None:
    network = shaken(make(architecture, up, activation, in_channels=in_channels))
    card = ModelCard(
        network=NetworkConfig(
            architecture=architecture,
            in_channels=in_channels,
            widths=WIDTHS,
            up=up,
            out_channels=3 if activation == "softmax" else 1,
            activation=activation,
        ),
        preprocessing=Preprocessing(
            mean=(3.5,) * in_channels, std=(71.0,) * in_channels, output="identity"
        ),
        labels=of_classes(3 if activation == "softmax" else 2),
    )
    segmenter = Segmenter(network, card.preprocessing).eval()
    save_model(tmp_path / "first.safetensors", segmenter, card)
    again, read = load_model(tmp_path / "first.safetensors")
    assert read == card
    assert not again.training
    images = picture(2, in_channels, 17, 33) * 255
    with torch.no_grad():
        assert torch.equal(segmenter(images), again(images))
    save_model(tmp_path / "second.safetensors", again, read)
    first, second = (tmp_path / f"{name}.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()


@every_kind
@every_up
@every_activation
def test_gradients_reach_every_parameter(
    architecture: str, up: str, activation: str | None
) -> None:
    network = make(architecture, up, activation).train()
    output = network(picture(2, 3, 17, 33))
    weights = picture(*output.shape, seed=1)  # a plain sum of a softmax has no gradient
    (output * weights).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@every_kind
@every_up
@every_activation
def test_bfloat16_stays_close_to_float32(
    architecture: str, up: str, activation: str | None
) -> None:
    network = shaken(make(architecture, up, activation))
    images = picture(2, 3, 33, 47)
    with torch.no_grad():
        exact = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            coarse = network(images)
    spread = float(exact.std())
    error = (coarse.float() - exact).abs()
    assert error.max() > 0  # it did run in bfloat16
    assert error.mean() < 0.03 * spread
    assert error.max() < 0.3 * spread
    if activation is not None:
        assert coarse.dtype == torch.float32  # eight bits are too coarse for a probability


@every_kind
@every_up
@every_activation
def test_channels_last_gives_the_same(architecture: str, up: str, activation: str | None) -> None:
    network = shaken(make(architecture, up, activation))
    images = picture(2, 3, 17, 33)
    with torch.no_grad():
        plain = network(images)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        other = network(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=1e-5)


@every_kind
@every_up
def test_a_constant_picture_pads_without_an_edge_of_its_own(architecture: str, up: str) -> None:
    """Sizes below 2**levels are padded by repeating the rim, not by zeros: 1x1 is no dark frame."""
    network = shaken(make(architecture, up, None))
    with torch.no_grad():
        dot = network(torch.full((1, 3, 1, 1), 0.7))
        block = network(torch.full((1, 3, 4, 4), 0.7))
    torch.testing.assert_close(dot, block[..., :1, :1])


@every_kind
def test_unknown_words_are_errors(architecture: str) -> None:
    network = ARCHITECTURES[architecture]
    with pytest.raises(ValueError, match="'nearest'"):
        network(widths=WIDTHS, up="nearest")
    with pytest.raises(ValueError, match="'relu'"):
        network(widths=WIDTHS, activation="relu")
    with pytest.raises(ValueError, match="channels must be positive"):
        network(widths=(4, 0))
    with pytest.raises(ValueError, match="channels must be positive"):
        network(widths=())


def test_parameter_counts() -> None:
    with torch.device("meta"):
        assert parameters(UNet(up="bilinear", activation="sigmoid")) == 31_384_833
        assert parameters(UNet()) == 31_037_633
        assert parameters(MilesialUNet()) == 31_037_633
        assert parameters(MilesialUNet(up="bilinear")) == 17_262_977
        assert parameters(R2()) == 31_384_833


def test_build_network_follows_the_config_and_names_unknown_architectures() -> None:
    config = NetworkConfig(
        architecture="UNet",
        in_channels=2,
        out_channels=4,
        widths=(4, 8),
        up="bilinear",
        activation="softmax",
    )
    network = build_network(config)
    assert isinstance(network, UNet)
    assert network(picture(1, 2, 9, 9)).shape == (1, 4, 9, 9)
    with pytest.raises(ConfigError, match=r"'VNet' is unknown; choose UNet, MilesialUNet"):
        build_network(config.model_copy(update={"architecture": "VNet"}))
    with pytest.raises(ConfigError, match="patch is for architecture UNet, not MilesialUNet"):
        build_network(config.model_copy(update={"architecture": "MilesialUNet", "patch": 2}))
    with pytest.raises(ValueError, match=r"patch \(0\) must be at least 1 pixel"):
        UNet(patch=0)


# --- equal to independent plain PyTorch


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (37, 53), (64, 48), (31, 100)])
@pytest.mark.parametrize("classes", [1, 3])
def test_bilinear_is_the_r2_notebook(height: int, width: int, classes: int) -> None:
    torch.manual_seed(1)
    notebook = shaken(R2(3, classes, WIDTHS_OF_5))
    ours = UNet(3, classes, WIDTHS_OF_5, up="bilinear", activation="sigmoid").eval()
    ours.load_state_dict(notebook.state_dict())
    images = picture(2, 3, height, width)
    with torch.no_grad():
        expected = notebook(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05  # not flat: a wrong order of channels would show


def test_bilinear_trains_like_the_r2_notebook() -> None:
    torch.manual_seed(2)
    notebook = R2(3, 1, WIDTHS_OF_5).train()
    ours = UNet(3, 1, WIDTHS_OF_5, up="bilinear", activation="sigmoid").train()
    ours.load_state_dict(notebook.state_dict())
    images, target = picture(2, 3, 37, 53), picture(2, 1, 37, 53, seed=1).round()
    for network in (notebook, ours):
        nn.functional.mse_loss(network(images), target).backward()
    theirs = dict(notebook.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6)
    for name, values in ours.state_dict().items():  # running statistics moved alike
        torch.testing.assert_close(values, notebook.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 80)])
def test_transposed_is_the_r1_notebook(height: int, width: int) -> None:
    torch.manual_seed(3)
    notebook = shaken(R1(3, 1, WIDTHS_OF_5))
    ours = UNet(3, 1, WIDTHS_OF_5, up="transposed").eval()
    ours.load_state_dict(notebook.state_dict())
    images = picture(2, 3, height, width)
    with torch.no_grad():
        expected = notebook(images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05  # not flat: a wrong order of channels would show


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 33), (37, 53), (31, 100)])
@pytest.mark.parametrize("classes", [1, 3])
def test_milesial_is_the_repository(bilinear: bool, height: int, width: int, classes: int) -> None:
    weights = milesial_weights(bilinear=bilinear, width=8, classes=classes, seed=4)
    up = "bilinear" if bilinear else "transposed"
    ours = MilesialUNet(3, classes, (8, 16, 32, 64, 128), up=up).eval()
    ours.load_state_dict(weights)  # strict: every key used, none missing
    images = picture(2, 3, height, width)
    with torch.no_grad():
        expected = milesial(weights, images)
        torch.testing.assert_close(ours(images), expected, rtol=0, atol=1e-5)
    assert expected.std() > 0.05  # not flat: a wrong order of channels would show


# --- the pieces


def test_fit_repeats_the_rim() -> None:
    x = torch.arange(6.0).view(1, 1, 2, 3)
    larger = torch.tensor([[0.0, 1, 2, 2, 2], [3, 4, 5, 5, 5], [3, 4, 5, 5, 5]])
    assert torch.equal(fit(x, 3, 5)[0, 0], larger)
    assert torch.equal(fit(x, 2, 3), x)


def test_activations() -> None:
    x = torch.tensor([[[[-3.0, 0.25]], [[1.5, 0.5]]]])  # (1, 2, 1, 2)
    assert torch.equal(activate(x, None), x)
    assert torch.equal(activate(x, "identity"), x)
    assert torch.equal(activate(x, "clamp"), torch.tensor([[[[0.0, 0.25]], [[1.0, 0.5]]]]))
    torch.testing.assert_close(activate(x, "sigmoid"), 1 / (1 + torch.exp(-x)))
    both = torch.exp(x) / torch.exp(x).sum(dim=1, keepdim=True)
    torch.testing.assert_close(activate(x, "softmax"), both)


# --- the whole model


def test_a_segmenter_normalises_and_activates() -> None:
    network = nn.Identity()
    segmenter = Segmenter(network, Preprocessing(mean=(10.0, 20.0), std=(2.0, 4.0)))
    images = torch.tensor([[[[14.0]], [[12.0]]]])
    plain = torch.tensor([[[[2.0]], [[-2.0]]]])
    assert torch.equal(segmenter.network(segmenter.normalise(images)), plain)
    torch.testing.assert_close(segmenter(images), torch.sigmoid(plain))


def test_a_segmenter_of_fixed_size_gives_back_the_picture_s_own_size() -> None:
    seen = []

    class Spy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(tuple(x.shape))
            return x[:, :1]

    preprocessing = Preprocessing(
        size=(32, 48), std=(255.0,) * 3, mean=(0.0,) * 3, output="identity"
    )
    segmenter = Segmenter(Spy(), preprocessing)
    gentle = torch.linspace(0, 255, 21).expand(2, 3, 13, 21)  # a ramp survives both resizes
    output = segmenter(gentle)
    assert seen == [(2, 3, 32, 48)]
    assert output.shape == (2, 1, 13, 21)
    torch.testing.assert_close(output, gentle[:, :1] / 255, rtol=0, atol=0.03)


def test_mean_and_deviation_travel_with_the_weights() -> None:
    segmenter = Segmenter(nn.Identity(), Preprocessing(mean=(1.0,), std=(2.0,)))
    assert segmenter.state_dict().keys() == {"mean", "std"}
    assert list(segmenter.parameters()) == []  # and are not trained
