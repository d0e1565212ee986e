"""The model file and the state of a run: whole or refused by name, and the same in every bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from contorno import __version__
from contorno.card import ModelCard, Tuned, read_card
from contorno.checkpoint import (
    flatten,
    load_model,
    load_state,
    model_path,
    optimizer_tensors,
    restore_optimizer,
    save_model,
    save_state,
    unflatten,
)
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.labels import Labels
from contorno.errors import ModelFileError, StorageError
from contorno.models import Segmenter, build_network
from contorno.muon import Muon

CARD = ModelCard(
    network=NetworkConfig(in_channels=2, widths=(4, 8), activation="sigmoid"),
    preprocessing=Preprocessing(
        mean=(1.5, 2.5), std=(3.0, 4.0), dtype="uint16", size=(32, 48), output="identity"
    ),
    labels=Labels(values=(0, 7), note="añejo"),
    tuned=Tuned(thresholds=(0.375,)),
    provenance={"epochs": 3, "data": "0" * 64},
)


def model(card: ModelCard = CARD) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(build_network(card.network), card.preprocessing).eval()


def written(folder: Path, card: ModelCard = CARD) -> Path:
    path = folder / "model.safetensors"
    save_model(path, model(card), card)
    return path


def rewritten(
    path: Path, *, tensors: dict[str, Tensor] | None = None, metadata: dict[str, str] | None = None
) -> Path:
    """The same model file with other tensors or another card."""
    whole = safetensors.torch.load_file(path)
    with safetensors.safe_open(path, framework="pt") as file:
        known = file.metadata()
    safetensors.torch.save_file(
        whole if tensors is None else tensors, path, known if metadata is None else metadata
    )
    return path


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        load_model(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


# --- the model file


def test_a_model_file_brings_back_card_and_weights(tmp_path: Path) -> None:
    path = written(tmp_path)
    segmenter, card = load_model(path)
    assert card == CARD
    assert card.contorno == __version__
    expected = model().state_dict()
    assert segmenter.state_dict().keys() == expected.keys()
    for key, value in segmenter.state_dict().items():
        assert torch.equal(value, expected[key])
    again, _ = load_model(tmp_path)  # the run folder stands for the file in it
    images = torch.rand(1, 2, 9, 9)
    with torch.no_grad():
        assert torch.equal(again(images), segmenter(images))


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    plain = model()
    strided = model().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    save_model(tmp_path / "a", plain, CARD)
    save_model(tmp_path / "b", strided, CARD)
    save_model(tmp_path / "c", plain, CARD.model_copy(update={"tuned": Tuned()}))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


def test_anyone_can_read_a_model_file_with_safetensors(tmp_path: Path) -> None:
    with safetensors.safe_open(written(tmp_path), framework="np") as file:
        card = json.loads(file.metadata()["contorno"])
        assert "network.down1.conv.0.weight" in file.keys()  # noqa: SIM118
    assert card["labels"]["values"] == [0, 7]
    assert card["network"]["widths"] == [4, 8]


@pytest.mark.parametrize("damage", ["empty", "text", "half", "header", "length"])
def test_damaged_model_files(damage: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    data = path.read_bytes()
    path.write_bytes(
        {
            "empty": b"",
            "text": b"these are notes, nothing more",
            "half": data[: len(data) // 2],
            "header": data[:8] + b"[" + data[9:],
            "length": b"\xff" * 8 + data[8:],
        }[damage]
    )
    assert "not a model file, or damaged" in refused(path)


def test_safetensors_that_are_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.zeros(3)}, path)
    assert "not a contorno model (no card)" in refused(path)
    safetensors.torch.save_file({"a": torch.zeros(3)}, path, {"format": "pt"})
    assert "not a contorno model (no card)" in refused(path)


def changed_card(path: Path, change: Any) -> Path:
    card = json.loads(CARD.model_dump_json())
    change(card)
    return rewritten(path, metadata={"contorno": json.dumps(card)})


def test_cards_of_a_newer_version(tmp_path: Path) -> None:
    path = changed_card(written(tmp_path), lambda card: card.update(temperature=1.3, tta=True))
    words = refused(path)
    assert "may come from another version (2 value(s) not understood)" in words
    assert __version__ in words
    path = changed_card(path, lambda card: card["network"].update(architecture="VisionThing"))
    assert "VisionThing" in refused(path)
    rewritten(path, metadata={"contorno": "{not json"})
    assert "its card cannot be read" in refused(path)


THREE = {"values": [0, 1, 2], "names": ["none", "a", "b"], "lookup": [[0, 0], [1, 1], [2, 2]]}
OVERLAPPING = {"names": ["a", "b"], "lookup": [], "parts": [{}, {"names": ["c"]}]}
BOTH = {"values": [9, 9], "names": ["a", "b"], "lookup": [], "parts": [{}, {}]}
TWICE = {"brightness": [], "contrast": [[0, 1]] * 2, "sharpness": [[0, 1]] * 2, "images": 9}


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("labels", {"values": []}, "labels: 0 values and 2 names"),
        ("labels", {"values": [0, -1]}, "labels: value -1, which no grey mask has (0 to 65535)"),
        ("labels", {"values": [0, 256], "kind": "palette"}, "labels: value 256"),
        ("labels", {"names": []}, "labels: 2 values and 0 names"),
        ("labels", {"values": [0], "names": ["a"]}, "labels: 1 values and 1 names"),
        ("labels", {"lookup": []}, "labels: lookup to classes []"),
        ("labels", {"lookup": [[0, 0], [7, 2]]}, "labels: lookup to classes [0, 2]"),
        ("labels", {"lookup": [[0, 0], [10**12, 1]]}, "labels: lookup of values beyond 32 bits"),
        ("labels", {"lookup": [[0, 0], [7, 1], [-1, 255]]}, "labels: value -1"),
        ("labels", {"palette": [0, 0, 300]}, "labels.palette.2: "),
        ("labels", OVERLAPPING, "labels: 2 values and 1 names"),
        ("labels", OVERLAPPING | {"parts": [{}]}, "labels: 1 parts for 2 classes"),
        ("labels", OVERLAPPING | {"parts": [{}, THREE]}, "labels: 3 values and 3 names"),
        ("labels", THREE, "labels: 3 classes (none, a, b) for 1 output(s)"),
        ("labels", BOTH, "labels: 2 classes (a, b) for 1 output(s)"),
        ("network", {"out_channels": 3}, "labels: 2 classes (background, foreground) for 3"),
        ("tuned", {"thresholds": [0.5] * 5}, "tuned: thresholds of 5 value(s) for 1 scored class"),
        ("tuned", {"thresholds": []}, "tuned: thresholds of 0 value(s)"),
        ("tuned", {"thresholds": [float("nan")]}, "tuned.thresholds.0: "),
        ("tuned", {"smallest": [3, 4]}, "tuned: smallest of 2 value(s)"),
        ("tuned", {"smallest": [-3]}, "tuned.smallest.0: "),
        ("tuned", {"holes": [3, 4]}, "tuned: holes of 2 value(s)"),
        ("tuned", {"temperature": float("inf")}, "tuned.temperature: "),
        ("preprocessing", {"std": [3.0, 0.0]}, "preprocessing.std.1: "),
        ("preprocessing", {"std": [float("inf"), 4.0]}, "preprocessing.std.0: "),
        ("preprocessing", {"mean": [1.5, float("nan")]}, "preprocessing.mean.1: "),
        ("preprocessing", {"mean": [1.5] * 3}, "preprocessing: mean of 3 value(s) for 2 channel"),
        ("preprocessing", {"low": [0.0] * 3, "high": [9.0] * 3}, "preprocessing: low of 3"),
        ("preprocessing", {"low": [0.0] * 2}, "preprocessing: low and high must be given together"),
        ("preprocessing", {"size": [10**9, 8]}, "preprocessing.size.0: "),
        ("familiar", TWICE, "familiar: brightness of 0 value(s) for 2 channel"),
    ],
)
def test_cards_whose_values_cannot_work(
    section: str, values: dict[str, Any], words: str, tmp_path: Path
) -> None:
    def change(card: dict[str, Any]) -> None:
        card[section] = (card[section] or {}) | values

    found = refused(changed_card(written(tmp_path), change))
    assert "(1 value(s) not understood)" in found
    assert found.split("damaged: ")[1].startswith(words)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_several_classes_have_one_threshold_or_each_its_own(count: int, tmp_path: Path) -> None:
    tuned = {"thresholds": [0.5] * count}

    def change(card: dict[str, Any]) -> None:
        card.update(labels=THREE, tuned=tuned)
        card["network"]["out_channels"] = 3

    path = changed_card(written(tmp_path), change)
    if count == 3:
        assert "thresholds of 3 value(s) for 2 scored class(s)" in refused(path)
    else:
        assert len(read_card(path).tuned.thresholds) == count


def test_two_classes_may_have_one_output_or_two(tmp_path: Path) -> None:
    both = changed_card(written(tmp_path), lambda card: card["network"].update(out_channels=2))
    assert read_card(both).exclusive


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value: float, tmp_path: Path) -> None:
    path = written(tmp_path)
    tensors = safetensors.torch.load_file(path)
    tensors["network.out.bias"][0] = value
    assert "NaN or infinite values in network.out.bias" in refused(rewritten(path, tensors=tensors))


@pytest.mark.parametrize(
    "values",
    [
        {"patch": 10**12},
        {"patch": 10**4},
        {"widths": [4, 10**6]},
        {"widths": [10**30, 8]},
    ],
)
def test_a_network_larger_than_its_file(
    values: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed_card(written(tmp_path), lambda card: card["network"].update(values))
    real = build_network

    def planned(config: NetworkConfig) -> nn.Module:
        assert torch.get_default_device() == torch.device("meta"), "memory would be taken"
        return real(config)

    monkeypatch.setattr("contorno.checkpoint.build_network", planned)
    assert "its weights do not fit its card" in refused(path)


def test_arguments_that_the_architecture_does_not_take(tmp_path: Path) -> None:
    path = written(tmp_path)
    changed_card(
        path, lambda card: card["network"].update(architecture="MilesialUNet", widths=[4, 9])
    )
    assert "widths ((4, 9)) must double" in refused(path)


def test_weights_that_do_not_fit_the_card(tmp_path: Path) -> None:
    path = written(tmp_path)
    tensors = safetensors.torch.load_file(path)
    short = {key: value for key, value in tensors.items() if key != "network.out.bias"}
    words = refused(rewritten(path, tensors=short))
    assert "do not fit its card" in words
    assert "network.out.bias" in words
    wrong = tensors | {"network.out.bias": torch.zeros(9)}
    assert "network.out.bias" in refused(rewritten(path, tensors=wrong))


def test_model_path(tmp_path: Path) -> None:
    path = written(tmp_path)
    assert model_path(path) == path
    assert model_path(tmp_path) == path
    with pytest.raises(ModelFileError, match="there is no such model file or run folder"):
        model_path(tmp_path / "none")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ModelFileError, match=r"bare: a folder without model\.safetensors"):
        model_path(tmp_path / "bare")
    (tmp_path / "bare" / "model.safetensors").mkdir()
    assert "damaged" in refused(tmp_path / "bare" / "model.safetensors" / "..")


# --- the state of a run


def state(number: int) -> dict[str, Tensor]:
    return {"weights": torch.full((3, 4), float(number)), "step": torch.tensor(number)}


def saved(folder: Path, *numbers: int) -> Path:
    for number in numbers:
        save_state(folder, state(number), {"number": number, "name": f"état {number}"})
    return folder


def states(folder: Path) -> list[Path]:
    return sorted(folder.glob("state-*"))


def test_the_newest_state_comes_back(tmp_path: Path) -> None:
    folder = saved(tmp_path / "state", 1, 2, 10)
    tensors, meta, skipped = load_state(folder)
    assert meta == {"number": 10, "name": "état 10"}
    assert tensors.keys() == {"weights", "step"}
    assert all(torch.equal(tensors[key], value) for key, value in state(10).items())
    assert tensors["step"].dtype == torch.int64
    assert skipped == []


def test_two_states_are_kept_and_litter_goes(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    (folder / ".contorno-left").write_text("half a state")
    (folder / "notes.txt").write_text("the user's own")
    saved(folder, *range(1, 6))
    assert [path.name.split("-")[1] for path in states(folder)] == ["00000004", "00000005"]
    assert {path.name for path in folder.iterdir()} - {p.name for p in states(folder)} == {
        "notes.txt"
    }


def test_equal_states_give_equal_files(tmp_path: Path) -> None:
    first = states(saved(tmp_path / "a", 3))
    second = states(saved(tmp_path / "b", 3))
    assert [path.name for path in first] == [path.name for path in second]
    assert first[0].read_bytes() == second[0].read_bytes()


DAMAGE = {
    "cut": lambda data: data[:-7],
    "empty": lambda data: b"",
    "bit": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "longer": lambda data: data + b"x",
    "header": lambda data: bytes([data[0] ^ 1]) + data[1:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_state_is_named_and_the_one_before_used(
    damage: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path, 1, 2)
    newest = states(folder)[-1]
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    tensors, meta, skipped = load_state(folder)
    assert meta["number"] == 1
    assert torch.equal(tensors["weights"], state(1)["weights"])
    assert len(skipped) == 1
    for part in (
        str(newest),
        "damaged or cut short",
        f"{newest.stat().st_size:,} bytes",
        "going back to the state before",
    ):
        assert part in skipped[0]


def test_no_state_left(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="no whole state to resume from"):
        load_state(tmp_path / "none")
    folder = saved(tmp_path, 1, 2)
    for path in states(folder):
        path.write_bytes(b"")
    with pytest.raises(ModelFileError) as caught:
        load_state(folder)
    for path in states(folder):
        assert str(path) in str(caught.value)


def test_a_state_that_cannot_be_written_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path, 1, 2)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("contorno.files.os.fsync", full)
        with pytest.raises(StorageError, match="bytes are needed"):
            saved(folder, 3)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_flatten_and_unflatten() -> None:
    one, two = {"a": torch.zeros(1), "b.c": torch.ones(1)}, {"a": torch.ones(2)}
    flat = flatten("model", one) | flatten("model2", two)
    assert flat.keys() == {"model.a", "model.b.c", "model2.a"}
    assert unflatten("model", flat) == one
    assert unflatten("model2", flat) == two
    assert unflatten("mod", flat) == {}


# --- optimisers


def trained(
    kind: str, layout: torch.memory_format, *, steps: int, fused: bool = False
) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 2), nn.Conv2d(4, 1, 3)
    )
    network.to(memory_format=layout)  # type: ignore[call-overload]
    if kind == "muon":
        optimizer: torch.optim.Optimizer = Muon(network, lr=0.01, weight_decay=0.01)
    else:
        kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer = kinds[kind](network.parameters(), lr=0.01, fused=fused)
    for step in range(steps):
        advance(network, optimizer, step)
    return network, optimizer


def advance(network: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    random = torch.Generator().manual_seed(step)
    optimizer.zero_grad()
    network(torch.rand((2, 3, 8, 8), generator=random)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("kind", ["adam", "adamw", "muon"])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_restored_optimizer_goes_on_to_the_bit(
    kind: str, fused: bool, layout: torch.memory_format, tmp_path: Path
) -> None:
    network, optimizer = trained(kind, layout, steps=3, fused=fused)
    tensors = flatten("optimizer", optimizer_tensors(optimizer)) | flatten(
        "network", network.state_dict()
    )
    save_state(tmp_path, tensors, {"number": 3})
    read, _, _ = load_state(tmp_path)  # contiguous now, whatever it was

    other, restored = trained(kind, layout, steps=0, fused=fused)
    other.load_state_dict(unflatten("network", read))
    restore_optimizer(restored, unflatten("optimizer", read))
    for parameter in other.parameters():
        for name, value in restored.state[parameter].items():
            assert name == "step" or value.stride() == parameter.stride()
            assert not value.requires_grad
    for step in range(3, 6):
        advance(network, optimizer, step)
        advance(other, restored, step)
    for key, value in network.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


def test_a_fresh_optimizer_has_nothing_to_save() -> None:
    _, optimizer = trained("adam", torch.contiguous_format, steps=0)
    assert optimizer_tensors(optimizer) == {}
    restore_optimizer(optimizer, {})
    assert len(optimizer.state) == 0
