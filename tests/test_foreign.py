"""Other people's checkpoints: every key used, nothing executed, outputs equal to plain PyTorch."""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from notebooks import R1, R2, TwoConvolutions, milesial, milesial_weights, shaken
from PIL import Image
from torch import Tensor, nn

import contorno
from contorno.cli import main
from contorno.errors import ModelFileError
from contorno.models import MilesialUNet, UNet
from contorno.models.foreign import load_foreign

WIDTHS = (2, 4, 8, 16, 32)
SIZE = (37, 53)


def r2(*, classes: int = 1, channels: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return shaken(R2(channels, classes, WIDTHS))


def saved(folder: Path, content: Any, name: str = "unet.pth") -> Path:
    path = folder / name
    torch.save(content, path)
    return path


def picture(channels: int = 3, seed: int = 0) -> np.ndarray:
    """(H, W, C) uint8 of an odd size."""
    return np.random.default_rng(seed).integers(0, 256, (*SIZE, channels), dtype=np.uint8)


def batch(image: np.ndarray) -> Tensor:
    """What the notebooks feed to the network: (1, C, H, W), divided by 255."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


# --- the layouts


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_r2_notebook(classes: int, channels: int, tmp_path: Path) -> None:
    notebook = r2(classes=classes, channels=channels)
    foreign = load_foreign(saved(tmp_path, notebook.state_dict()))
    assert (foreign.layout, foreign.output, foreign.mask_values) == (
        "U-Net notebook",
        "identity",
        (),
    )
    assert foreign.config.model_dump() == {
        "architecture": "UNet",
        "in_channels": channels,
        "out_channels": classes,
        "widths": WIDTHS,
        "up": "bilinear",
        "activation": "sigmoid",
        "patch": 1,
        "encoder": None,
    }
    assert isinstance(foreign.network, UNet)
    assert not foreign.network.training
    x = batch(picture(channels))
    with torch.no_grad():
        torch.testing.assert_close(foreign.network(x), notebook(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("notebook", [R1, R2])
def test_biases_in_the_convolutions_go_into_the_normalisation(
    notebook: type[nn.Module], tmp_path: Path
) -> None:
    """PyTorch's default, which most notebooks leave as it is."""
    torch.manual_seed(0)
    theirs = notebook(3, 1, WIDTHS)
    for module in theirs.modules():
        if isinstance(module, nn.Conv2d) and module.bias is None:
            module.bias = nn.Parameter(torch.randn(module.out_channels))
    shaken(theirs)
    foreign = load_foreign(saved(tmp_path, theirs.state_dict()))
    x = batch(picture())[..., :32, :48]
    with torch.no_grad():
        torch.testing.assert_close(foreign.network(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_the_r1_notebook_ends_in_plain_values_that_are_clamped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    notebook = shaken(R1(3, 1, WIDTHS))
    foreign = load_foreign(saved(tmp_path, notebook.state_dict()))
    assert (foreign.config.up, foreign.config.activation) == ("transposed", None)
    assert foreign.output == "clamp"
    x = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(foreign.network(x), notebook(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("bilinear", [False, True])
@pytest.mark.parametrize(("classes", "output"), [(1, "sigmoid"), (2, "softmax"), (4, "softmax")])
def test_milesial(bilinear: bool, classes: int, output: str, tmp_path: Path) -> None:
    weights = milesial_weights(bilinear=bilinear, classes=classes, width=4)
    foreign = load_foreign(saved(tmp_path, weights))
    assert isinstance(foreign.network, MilesialUNet)
    assert foreign.layout == "milesial/Pytorch-UNet"
    assert foreign.output == output
    assert foreign.config.up == ("bilinear" if bilinear else "transposed")
    assert foreign.config.widths == (4, 8, 16, 32, 64)
    assert (foreign.config.in_channels, foreign.config.out_channels) == (3, classes)
    x = batch(picture())
    with torch.no_grad():
        torch.testing.assert_close(foreign.network(x), milesial(weights, x), rtol=0, atol=1e-5)


def test_our_own_network_saved_by_hand(tmp_path: Path) -> None:
    network = shaken(UNet(widths=(4, 8, 16)))
    foreign = load_foreign(saved(tmp_path, network.state_dict()))
    assert foreign.config.widths == (4, 8, 16)
    with torch.no_grad():
        assert torch.equal(foreign.network(batch(picture())), network(batch(picture())))


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "clamp", "identity"])
def test_the_output_can_be_told(output: str, tmp_path: Path) -> None:
    path = saved(tmp_path, r2().state_dict())
    assert load_foreign(path, output=output).output == output


# --- how the weights are wrapped


def prefixed(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in weights.items()}


WRAPPINGS = {
    "ordered": lambda weights: OrderedDict(weights),
    "parallel": lambda weights: prefixed(weights, "module."),
    "compiled": lambda weights: prefixed(weights, "_orig_mod."),
    "compiled in parallel": lambda weights: prefixed(weights, "module._orig_mod."),
    "lightning": lambda weights: {"state_dict": prefixed(weights, "model."), "epoch": 7},
    "state_dict": lambda weights: {"state_dict": weights, "epoch": 7},
    "model_state_dict": lambda weights: {"model_state_dict": weights, "loss": 0.1},
    "model": lambda weights: {"model": weights, "optimizer": {"state": {}}},
    "twice": lambda weights: {"model": {"state_dict": prefixed(weights, "module.")}},
    "half": lambda weights: {
        k: v.half() if v.is_floating_point() else v for k, v in weights.items()
    },
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("old_format", [False, True])
def test_wrapped_weights(wrapping: str, old_format: bool, tmp_path: Path) -> None:
    weights = r2().state_dict()
    path = tmp_path / "unet.pt"
    torch.save(WRAPPINGS[wrapping](weights), path, _use_new_zipfile_serialization=not old_format)
    loaded = load_foreign(path).network.state_dict()
    assert loaded.keys() == weights.keys()
    for key, value in weights.items():
        assert loaded[key].dtype == value.dtype
        exact = 1e-3 if wrapping == "half" else 0
        torch.testing.assert_close(loaded[key], value, rtol=exact, atol=exact)


def test_two_networks_in_one_file_are_not_mixed(tmp_path: Path) -> None:
    weights = r2().state_dict()
    both = prefixed(weights, "average.") | prefixed(weights, "model.")
    assert "keys left over: average.bottom.conv.0.weight" in message(saved(tmp_path, both))


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        ([0, 1], (0, 1)),
        ((0, 255), (0, 255)),
        ([0, 7, 9], (0, 7, 9)),
        ([[0, 0, 0], [255, 255, 255]], ()),
        ([0.0, 1.0], ()),
        ([-1, 255], ()),
        ([0, 70000], ()),
        ([0, 0], ()),
        ("0,1", ()),
    ],
)
def test_the_mask_values_entry(stored: Any, expected: tuple[int, ...], tmp_path: Path) -> None:
    weights = milesial_weights(bilinear=False, width=2, classes=3 if len(stored) == 3 else 1)
    foreign = load_foreign(saved(tmp_path, {**weights, "mask_values": stored}))
    assert foreign.mask_values == expected


# --- what does not fit is named


def message(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_foreign(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def layouts() -> dict[str, dict[str, Tensor]]:
    return {
        "r2": r2().state_dict(),
        "transposed": milesial_weights(bilinear=False, width=2),
        "bilinear": milesial_weights(bilinear=True, width=2),
    }


@pytest.mark.parametrize("layout", list(layouts()))
def test_left_over_keys_are_named(layout: str, tmp_path: Path) -> None:
    weights = layouts()[layout] | {"attention.weight": torch.zeros(3), "down9.b": torch.zeros(1)}
    assert "keys left over: attention.weight, down9.b" in message(saved(tmp_path, weights))


@pytest.mark.parametrize("layout", list(layouts()))
def test_every_missing_key_is_named(layout: str, tmp_path: Path) -> None:
    whole = layouts()[layout]
    for key in list(whole)[::3] + list(whole)[-2:]:
        rest = {name: value for name, value in whole.items() if name != key}
        words = message(saved(tmp_path, rest))
        if key.startswith(("inc", "down", "up1.up")) and key.endswith("0.weight"):
            continue  # keys that the layout and the levels are known by: refused in other words
        if key in ("up1.up.weight", "out.weight"):
            continue
        assert key in words, key


@pytest.mark.parametrize("layout", list(layouts()))
def test_wrong_shapes_are_named(layout: str, tmp_path: Path) -> None:
    weights = layouts()[layout]
    last = list(weights)[-1]  # the bias of the last convolution
    weights = weights | {last: torch.zeros(9)}
    assert f"{last} is (9,), not (1,)" in message(saved(tmp_path, weights))


def test_several_problems_stand_in_one_message(tmp_path: Path) -> None:
    weights = dict(r2().state_dict())
    del weights["up2.conv.1.bias"]
    weights["extra"] = torch.zeros(1)
    weights["up1.conv.0.weight"] = torch.zeros(2, 3, 3, 3)
    words = message(saved(tmp_path, weights))
    for part in (
        "keys left over: extra",
        "keys missing: up2.conv.1.bias",
        "up1.conv.0.weight is (2, 3, 3, 3), not (2, 6, 3, 3)",
    ):
        assert part in words


@pytest.mark.parametrize("shape", [(5,), (0, 16, 3, 3)])
def test_a_weight_that_is_no_convolution_s(shape: tuple[int, ...], tmp_path: Path) -> None:
    weights = dict(r2().state_dict()) | {"bottom.conv.0.weight": torch.zeros(shape)}
    assert "bottom.conv.0.weight" in message(saved(tmp_path, weights))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["up1.conv.3.weight", "bottom.conv.4.running_var"])
def test_weights_that_are_not_finite_are_named(key: str, value: float, tmp_path: Path) -> None:
    weights = {name: tensor.clone() for name, tensor in r2().state_dict().items()}
    weights[key].view(-1)[1] = value
    assert f"NaN or infinite values in {key}" in message(saved(tmp_path, weights))


def test_more_classes_than_a_mask_can_hold(tmp_path: Path) -> None:
    weights = milesial_weights(bilinear=False, width=2, classes=256)
    assert "256 classes; contorno draws 255 at most" in message(saved(tmp_path, weights))


def test_long_lists_are_cut(tmp_path: Path) -> None:
    weights = dict(r2().state_dict()) | {f"extra{i:02}": torch.zeros(1) for i in range(20)}
    words = message(saved(tmp_path, weights))
    assert "extra07 and 12 more" in words
    assert "extra08" not in words


def test_entries_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    words = message(saved(tmp_path, {**r2().state_dict(), "epoch": 3, "name": "mine"}))
    assert "entries that are no weights: epoch, name" in words


@pytest.mark.parametrize("kind", ["meta", "sparse", "complex", "repeated"])
def test_tensors_that_are_no_plain_numbers_are_named(kind: str, tmp_path: Path) -> None:
    weights = r2().state_dict()
    odd = {
        "meta": lambda value: value.to("meta"),
        "sparse": lambda value: value.to_sparse(),
        "complex": lambda value: value.to(torch.complex64),
        "repeated": lambda value: value[:1, :1, :1, :1].expand(200_000, 16, 3, 3),
    }
    key = "bottom.conv.0.weight"
    path = saved(tmp_path, weights | {key: odd[kind](weights[key])})
    with pytest.raises(ModelFileError, match=f"entries that are no weights: {key}"):
        load_foreign(path)


def test_a_network_that_no_memory_holds(tmp_path: Path) -> None:
    """Of a bottleneck of so many channels, the second convolution alone takes 1.4 TB."""
    path = saved(
        tmp_path, r2().state_dict() | {"bottom.conv.0.weight": torch.zeros(200_000, 1, 3, 3)}
    )
    with pytest.raises(ModelFileError, match=r"bottom.conv.3.weight is \(32, 32, 3, 3\), not"):
        load_foreign(path)


def test_an_unknown_layout_says_what_is_known(tmp_path: Path) -> None:
    words = message(saved(tmp_path, TwoConvolutions(3, 4).state_dict()))
    for part in ("conv.0.weight", "down1.conv.0.weight", "inc.double_conv.0.weight"):
        assert part in words
    assert "layout" in message(saved(tmp_path, {}))


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), 5])
def test_something_else_than_a_dict(content: Any, tmp_path: Path) -> None:
    assert "expected a dict of weights" in message(saved(tmp_path, content))


# --- files that are dangerous, damaged or nothing of the kind


class Hostile:
    """Runs a command while it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.witness}'",)


@pytest.mark.parametrize("kind", ["torch", "old torch", "pickle", "protocol 2", "among weights"])
def test_a_hostile_pickle_executes_nothing(kind: str, tmp_path: Path) -> None:
    witness, path = tmp_path / "witness", tmp_path / "evil.pth"
    bomb = Hostile(witness)
    if kind == "torch":
        torch.save({"state_dict": bomb}, path)
    elif kind == "old torch":
        torch.save(bomb, path, _use_new_zipfile_serialization=False)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(bomb))
    elif kind == "protocol 2":
        path.write_bytes(pickle.dumps(bomb, protocol=2))
    else:
        torch.save({**r2().state_dict(), "bomb": bomb}, path)
    words = message(path)
    assert not witness.exists()
    if kind not in ("pickle", "old torch", "protocol 2"):
        assert "could run any code" in words
        assert "system" in words  # what it wanted to call
    pickle.loads(pickle.dumps(bomb))
    assert witness.exists()  # the bomb is a real one


def test_a_whole_pickled_model_says_how_to_save_weights(tmp_path: Path) -> None:
    words = message(saved(tmp_path, r2()))
    assert "torch.save(model.state_dict()" in words
    assert "R2" in words  # the class that it holds


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    whole = saved(tmp_path, r2().state_dict(), "whole.pth").read_bytes()
    contents = {
        "empty": b"",
        "text": b"these are my notes on U-Nets\n",
        "page": b"<!doctype html><html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "half": whole[: len(whole) // 2],
        "less": whole[:-30],
        "start": whole[:10],
        "noise": bytes(range(256)) * 4,
    }
    for name, content in contents.items():
        path = tmp_path / f"{name}.pth"
        path.write_bytes(content)
        assert "not a PyTorch checkpoint, or damaged" in message(path), name


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    assert "there is no such file" in message(tmp_path / "none.pth")
    (tmp_path / "folder.pth").mkdir()
    message(tmp_path / "folder.pth")


# --- all the way through the command line


def whole_numbers(path: Path) -> np.ndarray:
    """A 16-bit PNG as its file has it."""
    with Image.open(path) as picture:
        assert picture.mode == "I;16"
        return np.asarray(picture).astype(np.int64)


def plain(name: str) -> tuple[dict[str, Tensor], Any]:
    """Weights of a reference, and its probabilities of a batch in plain PyTorch."""
    if name == "r2":
        notebook = r2()
        return notebook.state_dict(), notebook
    weights = milesial_weights(bilinear=name == "bilinear", width=4)
    return weights, lambda x: torch.sigmoid(milesial(weights, x))


@pytest.mark.parametrize("name", ["r2", "transposed", "bilinear"])
def test_predict_writes_what_plain_pytorch_computes(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, reference = plain(name)
    path = saved(tmp_path, weights)
    images = tmp_path / "images"
    images.mkdir()
    for index in range(2):
        Image.fromarray(picture(seed=index)).save(images / f"p{index}.png")
    code = main(
        [
            "predict",
            str(path),
            str(images),
            "--out",
            str(tmp_path / "drawn"),
            "--probabilities",
            "--precision",
            "32",
            "--device",
            "cpu",
        ]
    )
    assert code == 0, capsys.readouterr().err
    for index in range(2):
        with torch.no_grad():
            expected = reference(batch(picture(seed=index)))[0, 0].double().numpy()
        written = whole_numbers(tmp_path / "drawn" / f"p{index}_probability.png")
        assert written.shape == SIZE
        assert expected.std() > 0.01
        assert np.abs(written - expected * 65535).max() <= 1
        sure = np.abs(expected - 0.5) > 1e-5
        mask = np.asarray(Image.open(tmp_path / "drawn" / f"p{index}.png"))
        assert np.array_equal(mask[sure], np.where(expected >= 0.5, 255, 0)[sure])


def test_convert_and_load_give_the_same_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, reference = plain("r2")
    path, out = saved(tmp_path, weights), tmp_path / "model.safetensors"
    assert main(["convert", str(path), "--out", str(out)]) == 0
    assert "UNet, bilinear, 3 channel(s) in, 1 out" in capsys.readouterr().out
    image = picture()
    with torch.no_grad():
        expected = reference(batch(image))[0, 0].numpy()
    for source in (path, out):
        model = contorno.load(source, device="cpu", precision="32")
        probabilities = model.probabilities(image)
        np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
        assert np.array_equal(model.predict(image), np.where(probabilities >= 0.5, 255, 0))
    kept = out.read_bytes()
    assert main(["convert", str(path), "--out", str(out)]) == 2
    assert "exists already" in capsys.readouterr().err
    contorno.convert(path, out, overwrite=True)
    assert out.read_bytes() == kept


@pytest.mark.parametrize("engine", ["pytorch", "openvino", "onnxruntime"])
def test_a_checkpoint_that_is_saved_again(tmp_path: Path, engine: str) -> None:
    if engine != "pytorch":
        pytest.importorskip(engine)
    path, image = tmp_path / "unet.pth", picture()
    found = []
    for seed in range(2):
        torch.manual_seed(seed)
        reference = shaken(R2(3, 1, WIDTHS))
        saved(tmp_path, reference.state_dict())
        found.append((contorno.load(path, precision="32", engine=engine), reference))
    found.append((contorno.load(path, precision="32", engine=engine), reference))
    for model, reference in found:
        with torch.no_grad():
            expected = reference(batch(image))[0, 0].numpy()
        np.testing.assert_allclose(model.probabilities(image), expected, rtol=0, atol=1e-4)


def test_convert_leaves_the_checkpoint_and_its_names_alone(tmp_path: Path) -> None:
    path = saved(tmp_path, r2().state_dict())
    copy = saved(tmp_path, r2().state_dict(), "unet.ckpt")
    kept = path.read_bytes()
    for source in (path, copy):
        with pytest.raises(ModelFileError, match="the checkpoint itself"):
            contorno.convert(source, source, overwrite=True)
    for name in ("new.pth", "new.PT"):
        with pytest.raises(ModelFileError, match=r"end --out in \.safetensors"):
            contorno.convert(path, tmp_path / name)
    assert path.read_bytes() == kept
    assert sorted(file.name for file in tmp_path.iterdir()) == ["unet.ckpt", "unet.pth"]


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes there")
def test_convert_writes_into_no_folder_or_pipe(tmp_path: Path) -> None:
    path = saved(tmp_path, r2().state_dict())
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        for overwrite in (False, True):
            with pytest.raises(ModelFileError, match=r"a folder, a pipe or a device; choose anoth"):
                contorno.convert(path, tmp_path / name, overwrite=overwrite)


def test_a_model_of_contorno_needs_no_converting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    contorno.convert(saved(tmp_path, r2().state_dict()), run / "model.safetensors")
    copy = shutil.copy(run / "model.safetensors", tmp_path / "unet.pt")
    (tmp_path / "folds").mkdir()
    (tmp_path / "folds" / "ensemble.json").touch()
    for path in (run / "model.safetensors", copy, run, tmp_path / "folds"):
        assert main(["convert", str(path), "--out", str(tmp_path / "new.safetensors")]) == 2
        assert f"{path}: a contorno model already" in capsys.readouterr().err
    assert not (tmp_path / "new.safetensors").exists()


def test_convert_with_a_size_resizes_there_and_back(tmp_path: Path) -> None:
    weights, reference = plain("r2")
    out = tmp_path / "model.safetensors"
    contorno.convert(saved(tmp_path, weights), out, size=32)
    model = contorno.load(out, device="cpu", precision="32")
    image = picture()
    smaller = nn.functional.interpolate(batch(image), (32, 32), mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = nn.functional.interpolate(
            reference(smaller), SIZE, mode="bilinear", antialias=True
        )[0, 0].numpy()
    np.testing.assert_allclose(model.probabilities(image), expected, rtol=0, atol=1e-5)


def test_classes_are_written_in_the_checkpoint_s_mask_values(tmp_path: Path) -> None:
    weights = milesial_weights(bilinear=False, classes=3, width=4)
    path = saved(tmp_path, {**weights, "mask_values": [0, 7, 9]})
    model = contorno.load(path, device="cpu", precision="32")
    image = picture()
    with torch.no_grad():
        expected = torch.softmax(milesial(weights, batch(image)), dim=1)[0]
    probabilities = model.probabilities(image)
    assert probabilities.shape == (*SIZE, 3)
    np.testing.assert_allclose(probabilities, expected.permute(1, 2, 0), rtol=0, atol=1e-5)
    mask = model.predict(image)
    assert np.array_equal(mask, np.array([0, 7, 9])[expected.argmax(dim=0).numpy()])
    assert np.unique(mask).size > 1


def test_a_bad_checkpoint_ends_the_command_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "notes.pth"
    path.write_text("notes")
    assert main(["predict", str(path), str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert "not a PyTorch checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
