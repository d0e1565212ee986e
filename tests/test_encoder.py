"""U-Nets with an encoder of timm.

timm cannot be imported beside every build of PyTorch, and its weights need the network: a small
stand-in with the two functions and the two tables that contorno uses takes its place here. Where
timm itself can be imported, its networks are tried too, with random weights.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from making import easy, trainer
from torch import Tensor, nn

import contorno
from contorno.card import ModelCard
from contorno.checkpoint import save_model
from contorno.cli import main
from contorno.config import NetworkConfig, Preprocessing
from contorno.errors import ConfigError, MissingExtra
from contorno.models import EncoderUNet, Segmenter, build_network
from contorno.models.encoder import Maps, maps_of
from contorno.recipes import larger
from contorno.training import begin

CHANNELS = (6, 8, 12)
TRAINED = 0.05  # what all weights of the stand-in are "on photographs"


class StandIn(nn.Module):
    """Maps at 1/2, 1/4 and 1/8 of the picture, as timm's `features_only=True` gives them."""

    def __init__(self, in_chans: int, scales: tuple[int, ...] = (2, 4, 8)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(one, two, 3, 2, 1), nn.BatchNorm2d(two), nn.ReLU())
            for one, two in zip((in_chans, *CHANNELS), CHANNELS, strict=False)
        )
        self.feature_info = SimpleNamespace(
            channels=lambda: list(CHANNELS), reduction=lambda: list(scales)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class OtherAxes(StandIn):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [one.permute(0, 2, 3, 1) for one in super().forward(x)]


class Unpadded(StandIn):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [one[..., 1:, 1:] for one in super().forward(x)]


class FixedSize(StandIn):
    def forward(self, x: Tensor) -> list[Tensor]:
        assert x.shape[-1] == 224, "Input size doesn't match model"
        return super().forward(x)


class OneSize(StandIn):
    """Its graph holds for the size it was traced with."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [one.reshape(*(int(n) for n in one.shape)) for one in super().forward(x)]


class Timm:
    """The functions of timm that are used."""

    def __init__(self) -> None:
        self.fetched: list[str] = []
        self.offline = False

    def list_models(self) -> list[str]:
        return ["standin", "uneven", "otheraxes", "unpadded", "fixedsize", "broken", "onesize"]

    def is_model(self, name: str) -> bool:
        return name.partition(".")[0] in self.list_models()

    def create_model(
        self, name: str, *, pretrained: bool, features_only: bool, in_chans: int
    ) -> nn.Module:
        assert features_only
        if name == "broken":
            raise RuntimeError("features_only not implemented")
        if name == "uneven":
            return StandIn(in_chans, (2, 4, 4))
        kinds = {"otheraxes": OtherAxes, "unpadded": Unpadded, "fixedsize": FixedSize}
        kinds["onesize"] = OneSize
        model = kinds.get(name, StandIn)(in_chans)
        if pretrained:
            if self.offline:
                raise OSError("the hub cannot be reached")
            self.fetched.append(name)
            for parameter in model.parameters():
                nn.init.constant_(parameter, TRAINED)
        return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Timm:
    stand_in = Timm()
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    return stand_in


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("discs"), 6)


def network(**arguments: Any) -> EncoderUNet:
    values = {"in_channels": 3, "out_channels": 2, "encoder": "timm/standin", "widths": (4, 8, 12)}
    return EncoderUNet(**values | arguments)


@pytest.mark.parametrize("up", ["transposed", "bilinear"])
@pytest.mark.parametrize("size", [(1, 1), (8, 8), (17, 40), (32, 7)])
def test_the_output_has_the_size_of_the_picture(timm: Timm, up: str, size: tuple[int, int]) -> None:
    found = network(up=up).eval()(torch.rand(2, 3, *size))
    assert found.shape == (2, 2, *size)
    found.sum().backward()


def test_every_part_of_a_picture_reaches_its_own_place(timm: Timm) -> None:
    torch.manual_seed(0)
    model = network().eval()
    plain = torch.rand(1, 3, 64, 64)
    changed = plain.clone()
    changed[..., 40, 24] += 1
    far = (model(plain) - model(changed)).abs().sum(dim=(0, 1)).argmax().item()
    assert abs(far // 64 - 40) <= 8
    assert abs(far % 64 - 24) <= 8


def test_what_an_encoder_gives(timm: Timm) -> None:
    assert maps_of("timm/standin") == Maps(CHANNELS, 2)
    assert maps_of("timm/standin.a1_in1k") == Maps(CHANNELS, 2)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/standing", "did you mean timm/standin"),
        ("resnet34", "timm/resnet34"),
        ("timm/hf-hub:someone/else", "is unknown"),
        ("timm/uneven", "1/2, 1/4, 1/4"),
        ("timm/otheraxes", r"\(96, 96, 6\), .* halve step by step"),
        ("timm/unpadded", r"\(6, 95, 95\)"),
        ("timm/fixedsize", "Input size doesn't match"),
        ("timm/broken", "features_only not implemented"),
    ],
)
def test_encoders_that_do_not_do(timm: Timm, name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        maps_of(name)


def test_timm_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"contorno\[pretrained\]"):
        maps_of("timm/resnet34")


def test_a_torchvision_that_does_not_fit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms is missing')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(ConfigError, match=r"nms is missing; install the torchvision"):
        maps_of("timm/resnet34")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"widths": (4, 8)}, "give 3 widths"),
        ({"patch": 1}, "leave patch out"),
        ({"widths": (4, 8, 16)}, "make it 12"),
    ],
)
def test_a_decoder_that_does_not_fit(timm: Timm, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        network(**arguments)


def test_encoders_are_for_one_architecture() -> None:
    with pytest.raises(ConfigError, match="leave it out"):
        build_network(NetworkConfig(architecture="MilesialUNet", encoder="timm/standin"))


def test_a_planned_run_begins_with_the_weights_and_so_does_one_that_was_stopped_at_once(
    timm: Timm, discs: Path, tmp_path: Path
) -> None:
    run, values = tmp_path / "run", {"crop": 32, "widths": (4, 8, 12), "time": 2.0}
    new = trainer(discs, run, encoder="timm/standin", **values)
    assert new.config.training.optimizer == "adamw"
    assert larger(new.config, 10**6) is None
    assert timm.fetched == []
    begun = begin(new, (), rule="", groups=None, workers=0)
    assert begun.config.training.steps_per_epoch > 0
    assert timm.fetched == ["standin"]
    resumed = trainer(discs, run, encoder="timm/standin", **values)
    resumed.restore()  # no state was written yet
    for one in (begun, resumed):
        weights = one.segmenter.network.get_submodule("encoder.stages.0.0").weight
        assert torch.equal(weights, torch.full_like(weights, TRAINED))


def test_from_training_to_masks(
    timm: Timm, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--encoder", "timm/standin", "--epochs", "2", "--crop", "32", "--device", "cpu"]
    folders = [str(discs / "images"), str(discs / "masks")]
    run = tmp_path / "run"
    assert main(["train", *folders, *words, "--workers", "0", "--out", str(run)]) == 0
    assert (
        "UNet with timm/standin, pretrained, of widths 6, 8, 12; 2 epochs"
        in capsys.readouterr().out
    )
    assert timm.fetched == ["standin"]
    picture = np.random.default_rng(0).integers(0, 255, (41, 50), dtype=np.uint8)
    exact = contorno.load(run, engine="pytorch", device="cpu", precision="32")
    assert "after timm/standin" in exact.about()["architecture"]
    expected = exact.probabilities(picture)
    assert expected.shape[-2:] == picture.shape
    for engine in ("onnxruntime", "openvino"):
        model = contorno.load(run, engine=engine, device="cpu", precision="32")
        found = model.probabilities(picture)
        np.testing.assert_allclose(found, expected, atol=2e-4)
    assert timm.fetched == ["standin"]  # a model file has all of them


def test_an_encoder_whose_graph_holds_for_one_size(
    timm: Timm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = network(encoder="timm/onesize", out_channels=1).eval()
    preprocessing = Preprocessing(mean=(0.0,) * 3, std=(255.0,) * 3)
    config = NetworkConfig(out_channels=1, encoder="timm/onesize", widths=(4, 8, 12), patch=2)
    path = tmp_path / "model.safetensors"
    card = ModelCard(network=config, preprocessing=preprocessing)
    save_model(path, Segmenter(model, preprocessing), card)
    picture = np.zeros((41, 50, 3), np.uint8)
    for engine in ("onnxruntime", "openvino"):
        loaded = contorno.load(path, engine=engine, device="cpu")
        with pytest.raises(ConfigError, match=r"timm/onesize .* 50 x 41 .* --engine pytorch"):
            loaded.probabilities(picture)
    exact = contorno.load(path, engine="pytorch", device="cpu", precision="32")
    expected = exact.probabilities(picture)
    assert expected.shape == (41, 50)
    chosen = contorno.load(path, device="cpu", precision="32")
    assert chosen.engine.name == "OpenVINO on CPU, float32"
    assert np.array_equal(chosen.probabilities(picture), expected)
    assert chosen.engine.name == exact.engine.name
    assert np.array_equal(chosen.probabilities(picture), expected)
    said = capsys.readouterr().err
    assert said.count("from here on: PyTorch on") == 1
    assert "onesize cannot be run" in said


def test_weights_that_cannot_be_had_end_a_run_before_it_begins(
    timm: Timm, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    timm.offline = True
    words = ["--encoder", "timm/standin", "--epochs", "1", "--crop", "32", "--device", "cpu"]
    folders = [str(discs / "images"), str(discs / "masks")]
    run = tmp_path / "run"
    assert main(["train", *folders, *words, "--workers", "0", "--out", str(run)]) == 2
    found = capsys.readouterr().err
    assert "the hub cannot be reached" in found
    assert "Traceback" not in found
    assert not (run / "config.toml").exists()


def test_an_encoder_is_for_recipe_auto(
    timm: Timm, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(discs / "images"), str(discs / "masks")]
    words = ["--encoder", "timm/standin", "--recipe", "classic", "--out", str(tmp_path / "run")]
    assert main(["train", *folders, *words]) == 2
    assert "recipe auto" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_encoders_of_timm_itself(name: str, channels: int) -> None:
    try:
        import timm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"timm cannot be imported: {error}")
    maps = maps_of(f"timm/{name}")
    assert list(maps.channels) == sorted(maps.channels)
    model = EncoderUNet(channels, 1, f"timm/{name}", maps.channels, patch=maps.patch).eval()
    assert model(torch.rand(1, channels, 75, 130)).shape == (1, 1, 75, 130)
