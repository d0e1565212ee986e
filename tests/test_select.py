"""Which engine runs a model, what is kept of it, and what `contorno bench` finds."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from making import EXACT, easy, read_all, save
from PIL import Image

import contorno
from contorno.bench import _dice, _fastest
from contorno.card import ModelCard
from contorno.cli import main
from contorno.config import NetworkConfig, Preprocessing
from contorno.engines import artifacts, openvino, picture, select
from contorno.engines.artifacts import Artifacts
from contorno.engines.int8 import quantised
from contorno.engines.select import ENGINES, Source, choose_engine, read_bench, write_bench
from contorno.errors import ConfigError, ContornoError, ModelFileError, StorageError
from contorno.hardware import Hardware
from contorno.model import Model
from contorno.normalise import normaliser
from contorno.resample import resize

BF16 = Hardware("cpu", "bf16-mixed", "CPU, bfloat16")
FLOAT = Hardware("cpu", "32-true", "CPU, float32")
GPU = Hardware("cuda", "bf16-mixed", "GPU")


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("discs"), 12)


@pytest.fixture(scope="module")
def run(discs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    small = {"widths": (4, 8), "epochs": 15, "batch_size": 4, "learning_rate": 0.02}
    contorno.train(discs / "images", discs / "masks", out=folder, **small, **EXACT)
    return folder


def source(run: Path, hardware: Hardware = FLOAT) -> Source:
    model = contorno.load(run, precision="32")
    return Source(model.card, hardware, model.source.artifacts, lambda: model.segmenter)


def without(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if these packages were not installed, and all others were."""
    monkeypatch.setattr(select, "find_spec", lambda name: None if name in packages else object())


# What "auto" means


def test_auto_takes_openvino_where_it_is_installed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    assert choose_engine(source(run, BF16))[0] == "openvino"
    assert choose_engine(source(run, GPU))[0] == "pytorch"


def test_auto_without_openvino(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "openvino")
    name, why = choose_engine(source(run, BF16))
    assert name == "pytorch"
    assert "pip install 'contorno[openvino]'" in why
    assert choose_engine(source(run, FLOAT))[0] == "onnxruntime"
    without(monkeypatch, "openvino", "onnxruntime")
    assert choose_engine(source(run, FLOAT))[0] == "pytorch"


def test_auto_takes_what_bench_found_on_this_machine_alone(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch)
    here, elsewhere = source(run, FLOAT), source(run, BF16)
    write_bench(here, {"fastest": "onnxruntime"})
    assert choose_engine(here) == ("onnxruntime", "the fastest here by contorno bench")
    assert read_bench(elsewhere) is None
    assert choose_engine(elsewhere)[0] == "openvino"
    without(monkeypatch, "onnxruntime")  # removed since
    assert choose_engine(here)[0] == "openvino"
    (here.artifacts.folder / "bench.json").unlink()


def test_auto_forgets_bench_when_contorno_changes(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What engines made carries contorno's version: the 8-bit graph is not found any more."""
    here = source(run)
    without(monkeypatch)
    write_bench(here, {"fastest": "onnxruntime"})
    for module in (select, artifacts):
        monkeypatch.setattr(module, "__version__", "99")
    assert read_bench(here) is None
    assert choose_engine(here)[0] == "openvino"
    (here.artifacts.folder / "bench.json").unlink()


def test_auto_takes_8_bits_only_where_their_graph_is(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = source(run)
    without(monkeypatch)
    write_bench(here, {"fastest": "openvino-int8"})
    assert choose_engine(here)[0] == "openvino"
    graph = here.artifacts.made(select._int8_name(), lambda folder: (folder / "model.xml").touch())
    assert choose_engine(here)[0] == "openvino-int8"
    shutil.rmtree(graph)
    (here.artifacts.folder / "bench.json").unlink()


@pytest.mark.parametrize(
    ("precision", "fastest", "taken"),
    [
        ("32-true", "openvino-int8", "openvino"),
        ("32-true", "onnxruntime", "onnxruntime"),
        ("bf16-mixed", "onnxruntime", "openvino"),
        ("bf16-mixed", "pytorch", "pytorch"),
    ],
)
def test_auto_takes_no_other_number_format_than_was_asked_for(
    run: Path, monkeypatch: pytest.MonkeyPatch, precision: str, fastest: str, taken: str
) -> None:
    without(monkeypatch)
    monkeypatch.setattr(select, "_int8", lambda source: source.artifacts.model)  # it is there
    for asked, expected in ((False, fastest), (True, taken)):
        here = source(run, Hardware("cpu", precision, "CPU", asked=asked))
        write_bench(here, {"fastest": fastest})
        assert choose_engine(here)[0] == expected
    (here.artifacts.folder / "bench.json").unlink()


@pytest.mark.parametrize(
    ("engine", "missing", "words"),
    [
        (
            "openvino",
            "openvino",
            "engine openvino needs openvino: pip install 'contorno[openvino]'",
        ),
        ("openvino-int8", "nncf", "engine openvino-int8 needs nncf"),
        ("onnxruntime", "onnxruntime", "pip install 'contorno[export]'"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    run: Path, monkeypatch: pytest.MonkeyPatch, engine: str, missing: str, words: str
) -> None:
    without(monkeypatch, missing)
    with pytest.raises(ConfigError) as caught:
        contorno.load(run, engine=engine)
    assert words in str(caught.value)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_library_that_cannot_be_imported_is_named(
    run: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    model = contorno.load(run, device="cpu", precision="32")
    without(monkeypatch)  # all are there
    monkeypatch.setattr(select, "_onnx", lambda _: run / "model.onnx")
    monkeypatch.setattr(openvino, "core", openvino.core.__wrapped__)  # not the one kept
    monkeypatch.setitem(sys.modules, engine, None)
    with pytest.raises(ConfigError, match=f"{engine} is installed, but cannot be imported"):
        model.open(engine)


def test_engines_that_cannot_be(run: Path) -> None:
    with pytest.raises(ConfigError, match="engine 'tpu' is unknown; choose auto, pytorch"):
        contorno.load(run, engine="tpu")
    with pytest.raises(ConfigError, match="runs on the CPU only; add --device cpu"):
        select.require("onnxruntime", GPU)
    pytest.importorskip("nncf")
    model = contorno.load(run, engine="openvino-int8")
    with pytest.raises(ConfigError, match=r"contorno bench .* IMAGES MASKS"):
        _ = model.engine


# What is kept


def made_of(tmp_path: Path, digest: str = "a" * 64) -> Artifacts:
    (tmp_path / "model.safetensors").touch()
    return Artifacts(tmp_path / "model.safetensors", digest)


def test_an_artefact_is_made_once_and_appears_whole(tmp_path: Path) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "graph").write_text("whole")

    for _ in range(2):
        there = made_of(tmp_path).made("engine-1", make)
        assert (there / "graph").read_text() == "whole"
    assert len(calls) == 1
    assert there.parent == tmp_path / "model.engines" / ("a" * 16)

    def fail(folder: Path) -> None:
        (folder / "graph").write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        made_of(tmp_path).made("engine-2", fail)
    assert [path.name for path in there.parent.iterdir()] == [there.name]


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("length", [0, 1000, None])
def test_a_damaged_artefact_is_named(
    run: Path, tmp_path: Path, name: str, length: int | None
) -> None:
    pytest.importorskip(name)
    path = Path(shutil.copy(run / "model.safetensors", tmp_path))
    picture = np.zeros((16, 16), np.uint8)
    before = contorno.load(path, device="cpu", engine=name).probabilities(picture)
    for file in [*tmp_path.rglob("model.bin"), *tmp_path.rglob("model.onnx")]:
        file.write_bytes(file.read_bytes()[: -1 if length is None else length])
    with pytest.raises(
        ModelFileError, match=r"damaged .* delete the folder .*model\.engines"
    ) as found:
        contorno.load(path, device="cpu", engine=name).probabilities(picture)
    folder = str(found.value).split("delete the folder ")[1].split(", and")[0]
    shutil.rmtree(folder)
    after = contorno.load(path, device="cpu", engine=name).probabilities(picture)
    assert np.array_equal(before, after)


def test_artefacts_that_openvino_cannot_write_are_named(run: Path, tmp_path: Path) -> None:
    openvino = pytest.importorskip("contorno.engines.openvino")
    path = Path(shutil.copy(run / "model.safetensors", tmp_path))

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("basic_ios::clear: iostream error")  # as on a full disk

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino.library(), "save_model", full)
        with pytest.raises(StorageError, match=r"model\.engines.*cannot be written: .*disk full"):
            contorno.load(path, device="cpu", engine="openvino").predict(np.zeros((9, 9), np.uint8))
    assert not list(tmp_path.rglob("model.xml"))


def test_an_artefact_that_cannot_take_its_place_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(StorageError, match=r"engine-1.*cannot be written: Input/output error"):
        made_of(tmp_path).made("engine-1", lambda _: None)


def test_another_process_may_make_the_same_artefact_first(tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "graph").write_text("second")
        there = folder.with_name(f"engine-1-contorno-{contorno.__version__}")
        there.mkdir()
        (there / "graph").write_text("first")

    assert (made_of(tmp_path).made("engine-1", make) / "graph").read_text() == "first"


def test_artefacts_of_a_replaced_model_go(tmp_path: Path) -> None:
    old = made_of(tmp_path, "a" * 64).made("engine", lambda _: None)
    new = made_of(tmp_path, "b" * 64).made("engine", lambda _: None)
    assert new.exists()
    assert not old.exists()


def test_a_checkpoint_of_the_same_stem_keeps_its_own(tmp_path: Path) -> None:
    model = made_of(tmp_path).made("engine", lambda _: None)
    foreign = Artifacts(tmp_path / "model.pth", "b" * 64).made("engine", lambda _: None)
    assert model.exists()
    assert foreign.parent == tmp_path / "model.pth.engines" / ("b" * 16)
    newer = Artifacts(tmp_path / "model.pth", "c" * 64).made("engine", lambda _: None)
    assert newer.exists()
    assert not foreign.exists()


def test_where_the_model_cannot_be_written_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    artifacts = made_of(tmp_path)
    (tmp_path / "model.engines").write_text("a file stands where the folder would")
    assert artifacts.folder == tmp_path / "cache" / "contorno" / ("a" * 16)
    (tmp_path / "cache2").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache2"))
    with pytest.raises(StorageError, match="cannot be written"):
        _ = made_of(tmp_path).folder


def sealed(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """As if nothing in these folders could be written."""
    access = os.access

    def allowed(path: Path, mode: int) -> bool:
        inside = any(folder in (path, *path.parents) for folder in folders)
        return access(path, mode) and not (inside and mode == os.W_OK)

    monkeypatch.setattr(artifacts.os, "access", allowed)


def test_what_stands_ready_is_used_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    there = made_of(tmp_path).made("engine-1", lambda _: None)
    sealed(monkeypatch, tmp_path / "model.engines")
    assert made_of(tmp_path).made("engine-1", pytest.fail) == there
    own = made_of(tmp_path).made("engine-2", lambda _: None)
    assert own.is_relative_to(tmp_path / "cache")
    again = made_of(tmp_path).make("engine-1", lambda _: None)  # 8 bits of other pictures
    assert again.is_relative_to(tmp_path / "cache")
    assert made_of(tmp_path).ready("engine-1") == again
    assert there.exists()


def test_8_bits_of_other_pictures_where_the_first_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("nncf")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = Path(shutil.copy(run / "model.safetensors", tmp_path))
    channels = source(file).card.network.in_channels
    dark, light = (np.full((32, 32, channels), value, np.uint8) for value in (3, 200))
    first = select.quantise(source(file), [dark])
    sealed(monkeypatch, tmp_path / "model.engines")
    assert select.quantise(source(file), [dark]) == first
    assert select.quantise(source(file), [light]).is_relative_to(tmp_path / "cache")


def test_auto_where_nothing_can_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = Path(shutil.copy(run / "model.safetensors", tmp_path))
    channels = source(path).card.network.in_channels
    even, odd = (np.zeros((edge, edge, channels), np.uint8) for edge in (16, 17))
    expected = contorno.load(path, device="cpu", engine="openvino").predict(even)
    write_bench(source(path), {"fastest": "openvino"})
    sealed(monkeypatch, tmp_path)
    assert choose_engine(source(path)) == ("openvino", "the fastest here by contorno bench")
    model = contorno.load(path, device="cpu")
    assert np.array_equal(model.predict(even), expected)
    assert model.engine.name.startswith("OpenVINO")
    model.predict(odd)  # for which no graph was made
    assert model.engine.name.startswith("PyTorch")
    assert "cannot be written; done from here on: PyTorch" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "model.engines")
    assert choose_engine(source(path))[0] == "pytorch"


def test_a_damaged_artefact_that_cannot_be_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = made_of(tmp_path).made("engine-1", lambda _: None)
    sealed(monkeypatch, tmp_path)
    words = str(artifacts.damaged(there / "model.xml"))
    assert f"{there} cannot be deleted from here; have it done, or take --engine pytorch" in words


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nowhere)
    artifacts = made_of(tmp_path)
    assert artifacts.folder == tmp_path / "model.engines" / ("a" * 16)
    shutil.rmtree(tmp_path / "model.engines")
    (tmp_path / "model.engines").write_text("a file stands where the folder would")
    with pytest.raises(StorageError, match="cannot be written"):
        _ = made_of(tmp_path).folder


def test_auto_without_a_place_for_files(
    run: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((run / "model.safetensors").read_bytes())
    for name in ("model.engines", "cache"):
        (tmp_path / name).write_text("a file stands where the folder would")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = contorno.load(file, device="cpu")
    name, why = choose_engine(here.source)
    assert name == "pytorch"
    assert "keeps no files" in why
    assert "cannot be written" in why
    assert here.engine.name.startswith("PyTorch")
    assert contorno.predict(file, discs / "images", out=tmp_path / "out", device="cpu").written
    if not select.missing_for("openvino"):
        asked = contorno.load(file, device="cpu", engine="openvino")
        with pytest.raises(StorageError, match="cannot be written"):
            asked.predict(discs / "images" / "p0.png")


# The same masks by every engine


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_masks_of_a_folder_agree(
    engine: str, run: Path, discs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(engine)
    words = ["predict", str(run), str(discs / "images"), "--precision", "32", "--out"]
    assert main([*words, str(tmp_path / "plain"), "--engine", "pytorch"]) == 0
    assert main([*words, str(tmp_path / "other"), "--engine", engine]) == 0
    name = "OpenVINO" if engine == "openvino" else "ONNX Runtime"
    assert f"Computing with: {name} on CPU, float32" in capsys.readouterr().out
    plain, other = (
        np.stack([np.asarray(Image.open(p)) for p in sorted((tmp_path / d).glob("*.png"))])
        for d in ("plain", "other")
    )
    assert plain.any()
    assert (plain == other).mean() > 0.9999


def test_a_converted_model_predicts_without_pytorch(run: Path, discs: Path, tmp_path: Path) -> None:
    """Loading PyTorch takes longer than the rest."""
    pytest.importorskip("openvino")
    picture = str(discs / "images" / "p0.png")
    words = ["predict", str(run), picture, "--device", "cpu", "--engine", "openvino", "--out"]
    assert main([*words, str(tmp_path / "first")]) == 0
    code = (
        "import sys\nfrom contorno.cli import main\n"
        f"assert main({[*words, str(tmp_path / 'second')]}) == 0\n"
        "assert 'openvino' in sys.modules\n"
        "heavy = {'torch', 'matplotlib', 'lightning_fabric'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "from openvino.tools.ovc import telemetry_utils\n"
        "assert telemetry_utils.tm.__name__.endswith('telemetry_stub')\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
    first, second = (np.asarray(Image.open(tmp_path / d / "p0.png")) for d in ("first", "second"))
    assert np.array_equal(first, second)


def test_ctrl_c_after_an_engine_is_gone(run: Path) -> None:
    """OpenVINO frees the signal handlers' stack with its last core; the next one would crash."""
    pytest.importorskip("openvino")
    code = (
        "import gc, os, signal, sys, contorno\n"
        f"engine = contorno.load({str(run)!r}, device='cpu', engine='openvino').engine\n"
        "del engine\n"
        "gc.collect()\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt:\n"
        "    print('noted')\n"
    )
    words = [
        sys.executable,
        "-c",
        "import signal\nsignal.signal(2, signal.default_int_handler)\n" + code,
    ]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    assert "noted" in done.stdout


@settings(max_examples=60, deadline=None)
@given(
    before=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    after=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_resizing_without_pytorch_is_the_same(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    x = np.random.default_rng(0).random((2, 3, *before)).astype(np.float32)
    expected = resize(torch.from_numpy(x), *after).numpy()
    found = picture.resize(x, *after, axes=(2, 3))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


# contorno bench


def test_bench_of_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its own pictures are still there: 8 bits are made, scored, and chosen only if fit."""
    assert main(["bench", str(run), "--rounds", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    model = contorno.load(run, device="cpu")
    record = read_bench(model.source)
    assert record is not None
    rows = {row["engine"]: row for row in record["engines"]}
    installed = {name for name in ENGINES if not select.missing_for(name)}
    assert set(rows) == installed
    assert set(record["left_out"]) == set(ENGINES) - installed
    assert record["noise"] is False
    assert record["size"] == [32, 32]
    for name, row in rows.items():
        assert name in printed
        assert row["agreement"] > 0.98
        assert 0.5 < row["dice"] <= 1
    fastest = rows[record["fastest"]]
    if record["fastest"] == "openvino-int8":
        assert fastest["dice"] >= max(row["dice"] for row in rows.values()) - 0.002
    assert f"--engine auto means {record['fastest']}" in printed
    assert record["gflop"] == pytest.approx(flops_by_hand(model) / 1e9)
    assert model.engine.name == fastest["name"]


def flops_by_hand(model: Model) -> int:
    """Two for each weight of each convolution and pixel, at 32 x 32 with widths 4 and 8."""
    channels = model.card.network.in_channels
    top = 9 * (channels * 4 + 4 * 4) + 9 * (8 * 4 + 4 * 4) + 4
    bottom = 9 * (4 * 8 + 8 * 8) + 4 * (8 * 4)
    return 2 * (top * 32 * 32 + bottom * 16 * 16)


def test_bench_of_a_model_alone_times_noise(
    run: Path, discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = tmp_path / "model.safetensors"
    alone.write_bytes((run / "model.safetensors").read_bytes())
    without(monkeypatch, "openvino", "onnxruntime")
    found = contorno.bench(alone, size=48, rounds=1, device="cpu")
    assert found["noise"] is True
    assert [row["engine"] for row in found["engines"]] == ["pytorch"]
    assert found["engines"][0]["dice"] is None
    assert "contorno[openvino]" in found["left_out"]["openvino"]
    given = contorno.bench(alone, discs / "images", discs / "masks", rounds=1, device="cpu")
    assert given["noise"] is False
    assert 0.5 < given["engines"][0]["dice"] <= 1


@pytest.mark.parametrize("numbers", [{"rounds": 0}, {"size": 0}, {"size": -8}])
def test_bench_of_no_rounds_or_no_pixels(run: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        contorno.bench(run, device="cpu", **numbers)


@pytest.mark.parametrize("option", ["masks", "files"])
def test_bench_takes_no_masks_or_list_without_images(run: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} without images"):
        contorno.bench(run, device="cpu", **{option: "nowhere"})


def test_bench_when_the_pictures_of_the_run_are_gone(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without(monkeypatch, "openvino", "onnxruntime")
    for name in ("model.safetensors", "config.toml"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    split = json.loads((run / "split.json").read_text())
    first = next(iter(split["training"].values()))
    first["images"] = [str(tmp_path / "gone.png")]
    (tmp_path / "split.json").write_text(json.dumps(split))
    found = contorno.bench(tmp_path, rounds=1, device="cpu")
    assert found["noise"] is True
    assert "gone.png of the run is gone; timing random noise" in capsys.readouterr().out


def test_a_graph_that_cannot_be_quantised(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    (tmp_path / "model.xml").write_text("no graph")
    picture = np.zeros((32, 32, source(run).card.network.in_channels), np.uint8)
    with pytest.raises(ContornoError, match=r"model.xml: nncf could not make an 8-bit form"):
        quantised(tmp_path / "model.xml", tmp_path, source(run).card, [picture])
    assert [path.name for path in tmp_path.iterdir()] == ["model.xml"]


def test_8_bits_are_made_anew_of_other_pictures(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("nncf")
    file = tmp_path / "model.safetensors"
    file.write_bytes((run / "model.safetensors").read_bytes())
    channels = source(file).card.network.in_channels
    dark, light = (np.full((32, 32, channels), value, np.uint8) for value in (3, 200))

    def made(*pictures: np.ndarray) -> int:
        return select.quantise(source(file), pictures).stat().st_mtime_ns

    first = made(dark, light)
    assert made(dark, light) == first
    assert made(light) > first


def test_bench_goes_on_without_8_bits(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf")

    def fails(*_: object) -> None:
        raise ContornoError("nncf could not do it")

    monkeypatch.setattr(import_module("contorno.bench"), "quantise", fails)
    found = contorno.bench(run, rounds=1, device="cpu")
    assert found["left_out"]["openvino-int8"] == "nncf could not do it"


def test_8_bits_see_tiles_of_pictures_that_are_drawn_in_tiles(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[np.ndarray] = []

    def instead(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        with np.load(Path(command[-1]) / "pictures.npz") as file:
            seen.extend(file.values())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", instead)
    monkeypatch.setattr("contorno.engines.int8.TILE", 16)
    monkeypatch.setattr("contorno.engines.int8.WHOLE", 32 * 32)
    card = source(run).card
    large, small = ((edge, edge, card.network.in_channels) for edge in (66, 32))
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, shape, dtype=np.uint8) for shape in (large, small, large)]
    quantised(tmp_path / "model.xml", tmp_path, card, pictures)
    assert [values.shape[1] for values in seen] == [16] * 21 + [32] + [16] * 21
    whole = normaliser(pictures[0], card.preprocessing)(pictures[0])
    places = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (16, 16))
    for values in seen[:21]:
        assert (places == values[0, ..., 0]).all(axis=(2, 3)).sum() == 1


class Brightness:
    """Calls what is bright class 1, and nothing class 2."""

    name, precision, tileable = "brightness", "32", True
    preprocessing = Preprocessing(mean=(0.0,), std=(1.0,))

    def probabilities(self, batch: np.ndarray) -> np.ndarray:
        bright = (batch[..., 0] > 100).astype(np.float32)
        return np.stack([1 - bright, bright, np.zeros_like(bright)], axis=1)


def test_bench_scores_several_classes_as_train_does(tmp_path: Path) -> None:
    """A small class weighs as much as a large one: 8 bits must not win by losing it."""
    root = easy(tmp_path, 6)
    for index, path in enumerate(sorted((root / "masks").iterdir())):
        mask = np.asarray(Image.open(path)) // 255
        mask[0, 0] = 2 * (index % 2)
        save(path, mask)
    dataset, engine = read_all(root), Brightness()
    network = NetworkConfig(in_channels=1, out_channels=3, widths=(4, 8))
    card = ModelCard(network=network, preprocessing=engine.preprocessing, labels=dataset.labels)
    assert _dice(engine, card, dataset) == pytest.approx((1 + 0.5) / 2)


def test_eight_bits_that_lose_too_much_are_not_chosen() -> None:
    def row(engine: str, ms: float, dice: float | None, agreement: float = 1.0) -> dict:
        return {"engine": engine, "ms": ms, "dice": dice, "agreement": agreement}

    exact = [row("pytorch", 9, 0.9), row("openvino", 5, 0.9)]
    assert _fastest([*exact, row("openvino-int8", 2, 0.8985)], FLOAT, 6) == "openvino-int8"
    assert _fastest([*exact, row("openvino-int8", 2, 0.8975)], FLOAT, 6) == "openvino"
    assert (
        _fastest([row("pytorch", 9, None), row("openvino", 5, None, 0.99)], FLOAT, 6) == "pytorch"
    )
    asked = replace(FLOAT, asked=True)
    assert _fastest([*exact, row("openvino-int8", 2, 0.9)], asked, 6) == "openvino"
    assert _fastest([*exact, row("openvino-int8", 2, 0.9)], FLOAT, 5) == "openvino"
