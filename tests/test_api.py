"""What people call from Python."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from making import EXACT, digest, digests, easy, model_file, save, save_palette
from PIL import Image

import contorno
from contorno import api, training
from contorno import folds as cross_validation
from contorno.config import read_config
from contorno.errors import ConfigError, InputError, ModelFileError, StorageError
from contorno.runfolder import locked

TINY = {"widths": (4, 8), "crop": 32, "epochs": 15, "learning_rate": 0.01, "batch_size": 4}
PALETTE = (0, 0, 0, 90, 90, 90, 0, 200, 100)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright discs; the masks are palette pictures, 1 for the ground and 2 for the disc."""
    root = easy(tmp_path_factory.mktemp("data"), 8)
    for path in sorted((root / "masks").iterdir()):
        save_palette(path, np.asarray(Image.open(path)) // 255 + 1, PALETTE)
    return root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    before = digests(data)
    model = contorno.train(data / "images", data / "masks", out=folder, **TINY, **EXACT)
    assert isinstance(model, contorno.Model)
    assert model.path == folder / "model.safetensors"
    assert digests(data) == before
    return folder


# Names


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = python(
        "import sys, contorno; dir(contorno); contorno.__version__; print(sorted("
        "{name.partition('.')[0] for name in sys.modules}))"
    )
    assert not {"torch", "numpy", "pydantic", "PIL", "scipy"} & set(
        json.loads(loaded.replace("'", '"'))
    )


def test_public_names_are_what_they_say() -> None:
    assert set(dir(contorno)) == set(contorno.__all__)
    for name in contorno.__all__:
        assert getattr(contorno, name) is not None
    assert contorno.load is api.load
    assert contorno.UNet(widths=(2, 4)).out.out_channels == 1
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        contorno.nothing  # noqa: B018


@pytest.mark.parametrize("first", ["import contorno.train", "import contorno.api", "pass"])
def test_functions_outlive_the_modules_of_their_name(first: str) -> None:
    words = python(
        f"{first}\n"
        "import contorno\n"
        "from contorno import evaluate, predict, train\n"
        "import contorno.predict, contorno.evaluate, contorno.train\n"
        "from contorno.train import fit\n"
        "assert contorno.train is train and callable(train), train\n"
        "assert contorno.evaluate is evaluate and contorno.predict is predict\n"
        "print(train.__module__, evaluate.__module__, predict.__module__, fit.__module__)"
    )
    assert words == "contorno.api contorno.api contorno.api contorno.train"


# Train, load, predict, evaluate


def test_a_run_folder_holds_what_it_should(run: Path, data: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "config.toml",
        "split.json",
        "log.jsonl",
        "model.safetensors",
        "state",
        "results.json",
        "report.html",
        "predictions",
    }
    assert not [path for path in run.rglob("*") if path.name.startswith(".contorno-")]
    parts = json.loads((run / "split.json").read_text())
    assert len(parts["training"]) == 6
    assert len(parts["validation"]) == 2
    assert parts["problems"] == []
    assert parts["rule"].startswith("a fifth, but no more than 50")
    assert [row["value"] for row in parts["labels"]["table"]] == ["1", "2"]
    for part in ("training", "validation"):
        for name, files in parts[part].items():
            assert files == {
                "images": [str((data / "images" / f"{name}.png").resolve())],
                "masks": [str((data / "masks" / f"{name}.png").resolve())],
            }
    config = read_config(run / "config.toml")
    assert config.training.epochs == 15
    assert config.network.widths == (4, 8)
    assert config.reasons["network.widths"] == "as asked"
    assert config.reasons["training.optimizer"]
    results = json.loads((run / "results.json").read_text())
    assert results["scored_on"].startswith("validation part of the training set")
    assert sorted(row["name"] for row in results["images"]) == sorted(parts["validation"])


@pytest.mark.parametrize("as_text", [True, False])
def test_loaded_models_draw_arrays_and_files(run: Path, data: Path, as_text: bool) -> None:
    path = data / "images" / "p3.png"
    image = np.asarray(Image.open(path))
    truth = np.asarray(Image.open(data / "masks" / "p3.png"))
    model = contorno.load(
        str(run) if as_text else run / "model.safetensors", device="cpu", precision="32"
    )
    mask = model.predict(image)
    assert mask.shape == (32, 32)
    assert mask.dtype == np.uint8
    assert set(np.unique(mask)) == {1, 2}
    assert (mask == truth).mean() > 0.95
    probabilities = model.probabilities(image)
    assert probabilities.shape == (32, 32)
    assert probabilities.dtype == np.float32
    assert 0 <= probabilities.min() < 0.5 < probabilities.max() <= 1
    assert np.array_equal(mask == 2, probabilities >= 0.5)
    assert np.array_equal(model.predict(image[..., None]), mask)
    for named in (path, str(path)):
        assert np.array_equal(model.predict(named), mask)
        assert np.array_equal(model.probabilities(named), probabilities)


@pytest.mark.parametrize("engine", ["pytorch", "openvino"])
def test_a_model_in_use_can_be_sent_to_another_process(run: Path, data: Path, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    model = contorno.load(run, device="cpu", precision="32", engine=engine)
    image = data / "images" / "p3.png"
    probabilities = model.probabilities(image)
    for copied in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert np.array_equal(copied.probabilities(image), probabilities)


def test_a_model_outlives_a_change_of_folder(
    run: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)
    model = contorno.load(run.name, device="cpu", precision="32", engine="pytorch")
    copied = pickle.dumps(model)
    assert model.run == Path(run.name)  # as it was given, for people to read
    monkeypatch.chdir(tmp_path)
    assert model.run == run
    probabilities = model.probabilities(data / "images" / "p3.png")
    again = pickle.loads(copied).probabilities(data / "images" / "p3.png")
    assert np.array_equal(again, probabilities)
    results = contorno.evaluate(model, data / "images", data / "masks")
    assert "8 of the 8 images were used in training" in results["scored_on"]
    assert not list(tmp_path.iterdir())  # all is written where the run is


@pytest.mark.parametrize("engine", ["pytorch", "openvino"])
def test_a_model_file_that_is_replaced_is_not_mixed(tmp_path: Path, engine: str) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    path = model_file(tmp_path / "model.safetensors", image)
    model = contorno.load(path, device="cpu", precision="32", engine=engine)
    model_file(path, image, seed=1)
    with pytest.raises(ModelFileError, match="replaced since it was loaded; load it again"):
        model.predict(image)


def test_files_come_out_as_the_masks_went_in(run: Path, data: Path, tmp_path: Path) -> None:
    outcome = contorno.predict(run, data / "images", out=tmp_path, device="cpu", precision="32")
    assert len(outcome.written) == 8
    model = contorno.load(run, device="cpu", precision="32")
    for path in outcome.written:
        with Image.open(path) as picture:
            assert picture.mode == "P"
            assert tuple(picture.getpalette()[:9]) == PALETTE
            assert np.array_equal(np.asarray(picture), model.predict(data / "images" / path.name))


def test_evaluation_of_the_run_is_what_the_run_said(run: Path, data: Path, tmp_path: Path) -> None:
    said = json.loads((run / "results.json").read_text())
    (tmp_path / "list.txt").write_text("\n".join(row["name"] for row in said["images"]))
    results = contorno.evaluate(
        run,
        data / "images",
        data / "masks",
        files=tmp_path / "list.txt",
        device="cpu",
        precision="32",
    )
    assert results["pooled"] == said["pooled"]
    assert results["model"]["sha256"] == digest(run / "model.safetensors")
    assert results["per_image"]["dice"]["mean"] > 0.9
    assert (run / "evaluation" / "results.json").exists()  # in the run folder, where none is given
    last = (run / "log.jsonl").read_text().splitlines()
    best = max(json.loads(line)["validation_dice"] for line in last)
    assert results["per_image"]["dice"]["mean"] == pytest.approx(best)


def test_the_same_run_twice_is_the_same_model(run: Path, data: Path, tmp_path: Path) -> None:
    again = api.train(
        data / "images", data / "masks", out=tmp_path / "run", **TINY, **(EXACT | {"workers": 2})
    )
    assert again.sha256 == digest(run / "model.safetensors")


def test_images_in_subfolders_are_not_drawn_and_counted(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for name in ("a.png", "site/b.png"):
        (photos / name).parent.mkdir(exist_ok=True)
        shutil.copy(data / "images" / "p0.png", photos / name)
    for out in (photos / "drawn", photos / "drawn", photos):
        outcome = contorno.predict(run, photos, out=out, device="cpu", overwrite=True)
        assert len(outcome.written) == (out != photos)  # the picture itself is not replaced
        told = "1 image(s) in sub-folders, which are not read: site (1)" in capsys.readouterr().err
        assert told == (out != photos)


def test_files_of_other_kinds_are_not_drawn_and_named(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    shutil.copy(data / "images" / "p0.png", photos / "a.png")
    for name in ("b.heic", "c.jp2", ".DS_Store"):
        (photos / name).touch()
    for _ in range(2):  # the second time with a list of the first
        outcome = contorno.predict(run, photos, out=photos, device="cpu", overlay=True)
        assert not outcome.written
        said = capsys.readouterr().out
        assert f"{photos}: 2 file(s) of other kinds passed over: b.heic, c.jp2; expected" in said
        contorno.predict(run, photos / "a.png", out=tmp_path / "out", device="cpu")
        shutil.copy(tmp_path / "out" / "doubt.csv", photos)
        assert "passed over" not in capsys.readouterr().out


def test_stems_are_given_in_a_file(run: Path, data: Path, tmp_path: Path) -> None:
    folders, stems = (data / "images", data / "masks"), {"files": ["p0", "p1"]}
    with pytest.raises(InputError, match="cannot be read as a list of stems"):
        contorno.predict(run, data / "images", out=tmp_path / "x", **stems)
    with pytest.raises(InputError, match="cannot be read as a list of stems"):
        contorno.evaluate(run, *folders, out=tmp_path / "x", **stems)
    assert not (tmp_path / "x").exists()


def test_chosen_validation_files_and_one_folder(data: Path, tmp_path: Path) -> None:
    together = tmp_path / "all"
    together.mkdir()
    for path in sorted((data / "images").iterdir()):
        (together / path.name).write_bytes(path.read_bytes())
        (together / f"{path.stem}-truth.png").write_bytes((data / "masks" / path.name).read_bytes())
    (tmp_path / "validation.txt").write_text("p0\np7.png\n")
    (tmp_path / "files.txt").write_text("p0\np1\np2\np7\n")
    api.train(
        together,
        suffix="-truth",
        files=tmp_path / "files.txt",
        validation_files=tmp_path / "validation.txt",
        out=tmp_path / "run",
        **(TINY | {"epochs": 1}),
        **EXACT,
    )
    parts = json.loads((tmp_path / "run" / "split.json").read_text())
    assert sorted(parts["training"]) == ["p1", "p2"]
    assert sorted(parts["validation"]) == ["p0", "p7"]


def test_a_value_of_masks_may_be_a_number(data: Path) -> None:
    folders = (data / "images", data / "masks")
    found, asked = (api.check(*folders, foreground=one)["labels"] for one in (1, "1"))
    assert found == asked
    assert found["note"].endswith("(as asked)")


def test_training_is_apart_from_what_a_script_does_with_torch(data: Path, tmp_path: Path) -> None:
    folders, options = (data / "images", data / "masks"), TINY | {"epochs": 1} | EXACT
    plain = contorno.train(*folders, out=tmp_path / "plain", **options)
    torch.manual_seed(5)
    drawn = torch.rand(4)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), drawn[:2])
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            strange = contorno.train(*folders, out=tmp_path / "strange", **options)
            assert not torch.is_grad_enabled()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.rand(2), drawn[2:])
    assert strange.sha256 == plain.sha256


@pytest.mark.parametrize("folds", [None, np.int64(2)])
def test_options_may_be_numbers_of_any_type(data: Path, tmp_path: Path, folds: int | None) -> None:
    """As a sweep over NumPy's numbers gives them, a table read by pandas, a file of settings."""
    plain = {"widths": (4, 8), "crop": 32, "epochs": 1, "batch_size": 4, "seed": 3}
    given = plain | {"widths": np.array([4, 8]), "epochs": np.int64(1), "crop": 32.0, "seed": 3.0}
    for name, options in (("plain", plain), ("given", given | {"batch_size": "4"})):
        out = tmp_path / name
        contorno.train(data / "images", data / "masks", out=out, folds=folds, **options, **EXACT)
    part = "." if folds is None else "fold1"
    configs = [tmp_path / name / part / "config.toml" for name in ("plain", "given")]
    assert read_config(configs[0]) == read_config(configs[1])
    found = contorno.check(data / "images", data / "masks", workers=np.int64(1))
    assert found["good"] == 8


# What cannot work


def test_wrong_calls_say_so(data: Path, run: Path, tmp_path: Path) -> None:
    folders = (data / "images", data / "masks")
    with pytest.raises(ConfigError, match="train needs a folder of images"):
        api.train()
    with pytest.raises(ConfigError, match="give one of the two"):
        api.train(*folders, time="5s", epochs=3, out=tmp_path / "x")
    both = {"validation": 0.5, "validation_files": tmp_path / "list.txt"}
    with pytest.raises(ConfigError, match=r"validation_files both .* one of the two"):
        api.train(*folders, **both, out=tmp_path / "x")
    for several in (1, 2.5, "3"):
        with pytest.raises(ConfigError, match=r"folds \(.*\) must be a whole number, 2 or more"):
            api.train(*folders, folds=several, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="group: 3"):
        api.train(*folders, group=3, out=tmp_path / "x")
    meaning = {"classes": "a=255,b=0", "foreground": "dark"}
    for call in (api.train, api.check, partial(api.evaluate, run)):
        with pytest.raises(ConfigError, match=r"classes and foreground both .* one of the two"):
            call(*folders, **meaning)
    with pytest.raises(ConfigError, match="no duration"):
        api.train(*folders, time="soon", out=tmp_path / "x")
    with pytest.raises(ConfigError, match=r"exists already .* --resume"):
        api.train(*folders, out=run)
    with pytest.raises(ConfigError, match="validation"):
        api.train(*folders, validation=1.5, out=tmp_path / "x")
    with pytest.raises(ConfigError, match="colour"):
        api.train(*folders, colour="blue", out=tmp_path / "x")
    with pytest.raises(ConfigError, match="recipe"):
        api.train(*folders, recipe="best", out=tmp_path / "x")
    for workers in (-1, 1.5):
        with pytest.raises(ConfigError, match=rf"workers \({workers}\) must be a whole number"):
            api.train(*folders, workers=workers, out=tmp_path / "x")
        with pytest.raises(ConfigError, match="workers"):
            api.evaluate(run, *folders, workers=workers, out=tmp_path / "x")
        with pytest.raises(ConfigError, match="workers"):
            api.check(*folders, workers=workers)
    with pytest.raises(ConfigError, match=r"training\.seed: .* expected less than"):
        api.train(*folders, seed=2**70, out=tmp_path / "x")
    (tmp_path / "one.txt").write_text("p1")
    with pytest.raises(InputError, match="each needs at least one"):
        api.train(*folders, files=tmp_path / "one.txt", out=tmp_path / "x", **EXACT)
    assert not (tmp_path / "x").exists()  # nothing is made before all is known to work


def test_runs_without_a_name_get_a_free_one(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = TINY | {"epochs": 1}
    first = api.train(data / "images", data / "masks", **options, **EXACT)
    second = api.train(data / "images", data / "masks", **options, **EXACT)
    assert first.path.parent.parent == second.path.parent.parent == Path("runs")
    assert second.path.parent.name == first.path.parent.name + "-2"


@pytest.mark.parametrize("folds", [None, 2])
def test_runs_started_together_have_folders_of_their_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int | None
) -> None:
    runs: list[Path] = []

    def started(data_config: object, run: Path, *rest: object, **options: object) -> None:
        runs.append(run)
        if len(runs) < 3:  # a run that begins before this one has written anything
            api.train(data / "images", data / "masks", folds=folds)
        raise InputError("masks that cannot be used")

    monkeypatch.setattr(training if folds is None else cross_validation, "start", started)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        api.train(data / "images", data / "masks", folds=folds)
    assert [run.parent for run in runs] == [Path("runs")] * 3
    assert [run.name.removeprefix(runs[0].name) for run in runs] == ["", "-2", "-3"]
    assert not list(tmp_path.iterdir())  # what failed left nothing behind


def test_an_empty_folder_may_be_given_and_stays(data: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("p1")
    wrong = {"files": tmp_path / "one.txt", **EXACT}
    (tmp_path / "empty").mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "lock").touch()  # of a process that was killed while it read
    for name in ("empty", "killed", "deep/er"):
        with pytest.raises(InputError, match="each needs at least one"):
            api.train(data / "images", data / "masks", out=tmp_path / name, **wrong)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "killed", "one.txt"]
    assert not list((tmp_path / "empty").iterdir())
    with locked(tmp_path / "empty"), pytest.raises(ConfigError, match="another process is train"):
        api.train(data / "images", data / "masks", out=tmp_path / "empty", **EXACT)


@pytest.mark.parametrize("place", ["a file", "a link to nowhere"])
def test_a_folder_that_cannot_be_made_is_named(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    runs = Path("runs")
    runs.touch() if place == "a file" else runs.symlink_to("nowhere")
    for out in (None, Path("runs/mine")):
        with pytest.raises(StorageError, match=r"runs/.*: cannot be written"):
            api.train(data / "images", data / "masks", out=out, **EXACT)


def test_what_is_no_model_is_named(tmp_path: Path, data: Path) -> None:
    with pytest.raises(ModelFileError, match="no such model file"):
        contorno.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(ModelFileError, match=r"without model\.safetensors"):
        contorno.load(data)
    sample = np.asarray(Image.open(data / "images" / "p0.png"))[..., None]
    path = model_file(tmp_path / "model.safetensors", sample)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ModelFileError, match="damaged"):
        contorno.load(path)


def test_a_run_folder_named_like_a_checkpoint(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "unet.pth")
    assert contorno.load(folder).sha256 == contorno.load(run).sha256


def test_demo_draws_trains_and_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from contorno.data import demo

    real = demo.write
    monkeypatch.setattr(
        demo,
        "write",
        lambda folder, **options: real(folder, **(options | {"train": 4, "test": 2, "size": 64})),
    )  # the real one takes a minute
    results = api.demo(tmp_path / "demo", time="0.5s")
    assert len(results["images"]) == 2
    assert 0 < results["otsu_dice"] < 1
    assert "Held-out images: Otsu's threshold" in capsys.readouterr().out
    assert (tmp_path / "demo" / "run" / "model.safetensors").exists()
    for wrong in ({"time": "20"}, {"seed": -1}):
        with pytest.raises(ConfigError, match=r"has no unit|training\.seed: -1"):
            api.demo(tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()  # nothing is drawn for what cannot be trained
    with pytest.raises(ConfigError, match="holds a demo run already"):
        api.demo(tmp_path / "demo", time="0.5s")


def test_evaluation_says_when_images_were_trained_on(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = (data / "images", data / "masks")
    results = contorno.evaluate(run, *folders, out=tmp_path / "all", device="cpu", precision="32")
    assert "8 of the 8 images were used in training" in results["scored_on"]
    assert "better than on new images" in capsys.readouterr().err
    for kind in ("images", "masks"):
        shutil.copytree(data / kind, tmp_path / kind)
    first = sorted((tmp_path / "images").iterdir())[0]
    save(first, np.asarray(Image.open(first))[::-1])
    folders = (tmp_path / "images", tmp_path / "masks")
    results = contorno.evaluate(run, *folders, out=tmp_path / "copied", device="cpu")
    assert "7 of the 8 images were used in training" in results["scored_on"]
    for path in sorted((tmp_path / "images").iterdir())[1:]:
        path.unlink()
    results = contorno.evaluate(run, *folders, out=tmp_path / "new", device="cpu")
    assert "the model was trained on none of them" in results["scored_on"]


@pytest.mark.parametrize("option", [{"engine": "banana"}, {"device": "cpu"}, {"precision": "32"}])
def test_a_loaded_model_takes_no_options_of_loading(
    run: Path, data: Path, tmp_path: Path, option: dict[str, str]
) -> None:
    model = contorno.load(run, device="cpu")
    (name,) = option
    with pytest.raises(ConfigError, match=rf"{name}='.*loaded already.* contorno\.load"):
        contorno.predict(model, data / "images", out=tmp_path / "out", **option)
    with pytest.raises(ConfigError, match="loaded already"):
        contorno.evaluate(model, data / "images", data / "masks", out=tmp_path / "out", **option)
    if name != "engine":
        with pytest.raises(ConfigError, match="loaded already"):
            contorno.bench(model, **option)
    assert not (tmp_path / "out").exists()


def test_resume_takes_no_other_options(run: Path, data: Path) -> None:
    with pytest.raises(ConfigError, match=r"leave out images, epochs"):
        contorno.train(data / "images", resume=run, epochs=3)


def test_a_run_folder_cannot_write_outside_itself(run: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    parts = json.loads((copy / "split.json").read_text())
    first = next(iter(parts["validation"]))
    parts["validation"]["../../out"] = parts["validation"].pop(first)
    (copy / "split.json").write_text(json.dumps(parts))
    with pytest.raises(InputError, match="no stem of a file"):
        contorno.train(resume=copy)
    (copy / "split.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        contorno.train(resume=copy)
