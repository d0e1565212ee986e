"""Scores: every figure as computed by hand from the files that were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import digest, digests, easy, model_file, pictures, save
from PIL import Image

from contorno import __version__, api
from contorno.data.demo import draw
from contorno.data.labels import Labels
from contorno.errors import ConfigError, InputError
from contorno.metrics import RULES, score
from contorno.model import Model, load

VALUES = (7, 200)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs, one of them without any object."""
    root = pictures(tmp_path_factory.mktemp("data"), 4, values=VALUES)
    save(root / "images" / "none.png", draw(9, size=64)[0][:50])
    save(root / "masks" / "none.png", np.full((50, 64), 7, np.uint8))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    labels = Labels(values=VALUES, threshold=103.5, foreground=(200,), note="200 is foreground")
    path = model_file(
        tmp_path_factory.mktemp("model") / "model.safetensors", draw(0, size=64)[0], labels=labels
    )
    return load(path, device="cpu", precision="32")


@pytest.fixture(scope="module")
def scored(model: Model, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scored") / "out"
    before = digests(data)
    returned = api.evaluate(model, data / "images", data / "masks", out=out, workers=0)
    assert digests(data) == before
    assert returned == json.loads((out / "results.json").read_text())
    return out


@pytest.fixture(scope="module")
def results(scored: Path) -> dict[str, Any]:
    return json.loads((scored / "results.json").read_text())


def dice(tp: int, fp: int, fn: int) -> float:
    return 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0


def iou(tp: int, fp: int, fn: int) -> float:
    return tp / (tp + fp + fn) if tp + fp + fn else 1.0


def test_the_file_says_what_was_done(results: dict[str, Any], model: Model) -> None:
    assert results["contorno"] == __version__
    assert results["scored_on"] == "images given to evaluate"
    about = results["model"]
    assert about["path"] == str(model.path)
    assert about["sha256"] == digest(model.path)
    assert about["parameters"] == sum(p.numel() for p in model.segmenter.network.parameters())
    assert about["architecture"].startswith("UNet")
    assert "float32" in about["engine"]
    assert results["labels"] == {"background": 7, "foreground": 200, "note": "200 is foreground"}
    assert results["threshold"] == 0.5
    assert results["rules"] == RULES
    assert results["problems"] == []
    assert results["seconds"] > 0


def test_every_count_is_that_of_the_written_prediction(
    results: dict[str, Any], scored: Path, data: Path
) -> None:
    assert [row["name"] for row in results["images"]] == ["none", "p0", "p1", "p2", "p3"]
    for row in results["images"]:
        assert row["image"] == str((data / "images" / f"{row['name']}.png").resolve())
        assert row["mask"] == str((data / "masks" / f"{row['name']}.png").resolve())
        written = np.asarray(Image.open(scored / row["prediction"]))
        assert set(np.unique(written)) <= set(VALUES)
        truth, drawn = np.asarray(Image.open(row["mask"])) == 200, written == 200
        assert (row["height"], row["width"]) == truth.shape == written.shape
        shown = np.asarray(Image.open(scored / row["truth"]))
        assert np.array_equal(shown, truth * np.uint8(255))
        tp, fp = int((truth & drawn).sum()), int((~truth & drawn).sum())
        fn, tn = int((truth & ~drawn).sum()), int((~truth & ~drawn).sum())
        assert (row["tp"], row["fp"], row["fn"], row["tn"]) == (tp, fp, fn, tn)
        assert row["dice"] == pytest.approx(dice(tp, fp, fn))
        assert row["iou"] == pytest.approx(iou(tp, fp, fn))
        assert row["precision"] == pytest.approx(tp / (tp + fp))
        assert row["recall"] == (pytest.approx(tp / (tp + fn)) if truth.any() else None)
        outline = score(truth, drawn)
        assert row["boundary_f"] == pytest.approx(outline.boundary_f)
        assert row["hd95"] == (pytest.approx(outline.hd95) if truth.any() else None)


def test_means_and_pooled_figures(results: dict[str, Any]) -> None:
    rows = results["images"]
    for name, figure in results["per_image"].items():
        defined = [row[name] for row in rows if row[name] is not None]
        assert figure["mean"] == pytest.approx(np.mean(defined))
        assert figure["n"] == len(defined)
        assert figure["low"] <= figure["mean"] <= figure["high"]
    assert results["per_image"]["dice"]["n"] == 5
    assert results["per_image"]["recall"]["n"] == 4
    tp, fp, fn = (sum(row[key] for row in rows) for key in ("tp", "fp", "fn"))
    pooled = results["pooled"]
    assert pooled["dice"]["value"] == pytest.approx(dice(tp, fp, fn))
    assert pooled["iou"]["value"] == pytest.approx(iou(tp, fp, fn))
    assert pooled["precision"]["value"] == pytest.approx(tp / (tp + fp))
    assert pooled["recall"]["value"] == pytest.approx(tp / (tp + fn))
    assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in pooled.values())
    false = int(rows[0]["fp"] > 0)
    assert results["empty"] == {
        "images": 1,
        "with_false_positives": false,
        "false_positive_rate": float(false),
    }


def test_a_page_is_written_too(scored: Path) -> None:
    page = (scored / "report.html").read_text()
    assert "<html" in page
    assert "p3" in page


def test_the_same_scores_every_time(
    model: Model, data: Path, tmp_path: Path, results: dict[str, Any]
) -> None:
    again = api.evaluate(
        model.path,
        data / "images",
        data / "masks",
        out=tmp_path / "out",
        device="cpu",
        precision="32",
        workers=2,
    )
    for part in ("images", "per_image", "pooled", "empty"):
        assert again[part] == results[part]


def test_a_list_restricts_what_is_scored(model: Model, data: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("p2.png\nnone\n")
    results = api.evaluate(
        model, data / "images", data / "masks", out=tmp_path / "out", files=tmp_path / "list.txt"
    )
    assert [row["name"] for row in results["images"]] == ["none", "p2"]
    assert sorted(p.name for p in (tmp_path / "out" / "predictions").iterdir()) == [
        "none.png",
        "p2.png",
    ]


def test_problems_are_recorded_and_the_rest_is_scored(
    model: Model, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    for name in ("p0", "p1", "p2"):
        for folder in ("images", "masks"):
            save(
                root / folder / f"{name}.png", np.asarray(Image.open(data / folder / f"{name}.png"))
            )
    save(root / "masks" / "p1.png", np.zeros((9, 9), np.uint8))
    save(root / "images" / "deep.png", np.zeros((9, 9), np.uint16))
    save(root / "masks" / "deep.png", np.zeros((9, 9), np.uint8))
    save(root / "images" / "lonely.png", draw(5, size=64)[0])
    results = api.evaluate(model, root / "images", root / "masks", out=tmp_path / "out")
    assert [row["name"] for row in results["images"]] == ["p0", "p2"]
    assert {Path(p["path"]).name for p in results["problems"]} == {
        "p1.png",
        "deep.png",
        "lonely.png",
    }
    assert all(
        set(p) == {"path", "what", "expected", "fix", "kind", "severity"}
        for p in results["problems"]
    )
    words = " ".join(capsys.readouterr().err.split())
    assert "3 problem(s); going on with 2 good pair(s)" in words


def test_nothing_to_score_lists_everything(model: Model, tmp_path: Path) -> None:
    save(tmp_path / "i" / "a.png", np.zeros((9, 9), np.uint16))
    save(tmp_path / "m" / "a.png", np.eye(9, dtype=np.uint8))
    with pytest.raises(InputError, match="no usable pair") as caught:
        api.evaluate(model, tmp_path / "i", tmp_path / "m", out=tmp_path / "out")
    assert "uint16" in str(caught.value)
    save(tmp_path / "m" / "b.png", np.eye(9, dtype=np.uint8))
    (tmp_path / "m" / "a.png").unlink()
    with pytest.raises(InputError, match="no image has a mask") as caught:
        api.evaluate(model, tmp_path / "i", tmp_path / "m", out=tmp_path / "out")
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "out").exists()


def test_masks_coded_otherwise_give_the_same_scores(
    model: Model, data: Path, tmp_path: Path, results: dict[str, Any]
) -> None:
    for path in sorted((data / "masks").iterdir()):
        truth = np.asarray(Image.open(path)) == 200
        save(tmp_path / "bits" / path.name, truth.astype(np.uint8))
        save(tmp_path / "dark" / path.name, np.where(truth, 0, 255).astype(np.uint8))
    for folder, options in (("bits", {}), ("dark", {"foreground": "dark"})):
        again = api.evaluate(
            model, data / "images", tmp_path / folder, out=tmp_path / "o" / folder, **options
        )
        assert again["pooled"] == results["pooled"]
        predictions = tmp_path / "o" / folder / "predictions"
        assert set(np.unique(np.asarray(Image.open(predictions / "p0.png")))) == set(VALUES)


def test_nothing_is_overwritten(
    model: Model, data: Path, scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(scored)
    with pytest.raises(ConfigError, match="exists already and is left as it is"):
        api.evaluate(model, data / "images", data / "masks", out=scored)
    assert digests(scored) == before
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("p0\n")
    for _ in range(2):  # without --out: a free name
        api.evaluate(model, data / "images", data / "masks", files=tmp_path / "list.txt")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evaluation", "evaluation-2", "list.txt"]


def test_models_of_several_classes_are_refused(data: Path, tmp_path: Path) -> None:
    file = model_file(tmp_path / "m.safetensors", draw(0, size=64)[0], classes=3)
    with pytest.raises(InputError, match="3 classes"):
        api.evaluate(file, data / "images", data / "masks", out=tmp_path / "out", device="cpu")


def test_one_channel_models_score_grey_pictures_saved_as_colour(tmp_path: Path) -> None:
    root = easy(tmp_path / "data", 3)
    grey = np.asarray(Image.open(root / "images" / "p0.png"))
    model = load(
        model_file(tmp_path / "m.safetensors", grey[..., None]), device="cpu", precision="32"
    )
    first = api.evaluate(model, root / "images", root / "masks", out=tmp_path / "a")
    for path in (root / "images").iterdir():
        save(path, np.stack([np.asarray(Image.open(path))] * 3, -1))
    second = api.evaluate(model, root / "images", root / "masks", out=tmp_path / "b")
    assert second["pooled"] == first["pooled"]  # as predict takes them
