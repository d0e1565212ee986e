"""Scores: every figure as computed by hand from the files that were written."""

from __future__ import annotations

import json
import shutil
import threading
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import digest, digests, easy, model_file, pictures, save
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from contorno import __version__, api
from contorno.card import ModelCard, Tuned
from contorno.checkpoint import save_card
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.agreement import Reading
from contorno.data.dataset import Dataset
from contorno.data.dataset import load as load_data
from contorno.data.demo import draw
from contorno.data.labels import IGNORE, Labels
from contorno.data.pairs import find_pairs
from contorno.errors import ConfigError, InputError, StorageError
from contorno.evaluate import evaluate, image_score
from contorno.finish import temper
from contorno.metrics import FIGURES, RULES, combine, mean_dice, score, summarise
from contorno.model import Model, load
from contorno.report import write_report

Array = NDArray[Any]
VALUES = (7, 200)
NAMES = ("cell", "nucleus", "rare")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs, one of them without any object."""
    root = pictures(tmp_path_factory.mktemp("data"), 4, values=VALUES)
    save(root / "images" / "none.png", draw(9, size=64)[0][:50])
    save(root / "masks" / "none.png", np.full((50, 64), 7, np.uint8))
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    labels = Labels(values=VALUES, lookup=((7, 0), (200, 1)), note="200 is foreground")
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
    true = sum(row["tp"] + row["fn"] for row in results["images"])
    whole = sum(row["height"] * row["width"] for row in results["images"])
    share, rest = pytest.approx(true / whole), pytest.approx(1 - true / whole)
    assert results["labels"] == {
        "note": "200 is foreground (28% of the pixels), 7 is background",  # of these masks
        "multilabel": False,
        "classes": [{"name": "foreground", "value": 200, "kind": "grey"}],
        "table": [
            {"value": "7", "name": "background", "share": rest, "images": 5},
            {"value": "200", "name": "foreground", "share": share, "images": 4},
        ],
    }
    assert results["classes"] == []
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
        (prediction,), (true,) = row["prediction"], row["truth"]
        written = np.asarray(Image.open(scored / prediction))
        assert set(np.unique(written)) <= set(VALUES)
        truth, drawn = np.asarray(Image.open(row["mask"])) == 200, written == 200
        assert (row["height"], row["width"]) == truth.shape == written.shape
        assert np.array_equal(np.asarray(Image.open(scored / true)), np.where(truth, 200, 7))
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


def test_masks_are_written_behind_and_a_full_disk_is_told(
    model: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()

    def write(path: Path, *_: object, **__: object) -> None:
        threads.add(threading.current_thread())
        raise StorageError(f"{path}: no space")

    monkeypatch.setattr(import_module("contorno.evaluate"), "write_prediction", write)
    with pytest.raises(StorageError, match="no space"):
        api.evaluate(model, data / "images", data / "masks", out=tmp_path / "out", workers=0)
    assert threads
    assert threading.main_thread() not in threads  # which scores the next one meanwhile


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


def test_intervals_are_over_groups_where_there_are_any(
    model: Model, data: Path, results: dict[str, Any], tmp_path: Path
) -> None:
    assert results["groups"] is None
    masks = data / "masks"
    pairs: dict[str, Any] = {"images": data / "images", "masks": masks, "workers": 0}
    grouped = api.evaluate(model, **pairs, group="none|p[01]|p", out=tmp_path / "out")
    assert grouped["groups"] == {"none": "none", "p0": "p0", "p1": "p1", "p2": "p", "p3": "p"}
    assert grouped["images"] == results["images"]
    assert grouped["per_image"]["dice"]["mean"] == results["per_image"]["dice"]["mean"]
    assert grouped["per_image"]["dice"] != results["per_image"]["dice"]
    assert "5 images of 4 groups" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(InputError, match="finds no group in 1 of 5 names: none"):
        api.evaluate(model, **pairs, group="p[0-9]", out=tmp_path / "other")


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


def test_evaluations_started_together_have_folders_of_their_own(
    model: Model, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    def reading(*arguments: object, **options: object) -> None:
        seen.append(sorted(path.name for path in tmp_path.iterdir()))
        if len(seen) == 1:  # an evaluation that begins while this one reads
            api.evaluate(model, data / "images", data / "masks")
        raise InputError("masks that cannot be used")

    monkeypatch.setattr(api, "read_pairs", reading)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="cannot be used"):
        api.evaluate(model, data / "images", data / "masks")
    assert seen == [["evaluation"], ["evaluation", "evaluation-2"]]
    assert not list(tmp_path.iterdir())


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


# Several classes


class Echo:
    """An engine that takes the channels of a picture for the probabilities of the classes."""

    name, tileable, preprocessing = "echo", True, Preprocessing()

    def probabilities(self, batch: Array) -> Array:
        return np.moveaxis(batch, -1, 1).astype(np.float32) / 255


def card_of(labels: Labels, outputs: int) -> ModelCard:
    network = NetworkConfig(in_channels=outputs, out_channels=outputs)
    return ModelCard(network=network, preprocessing=Preprocessing(), labels=labels)


def run(dataset: Dataset, out: Path, *, labels: Labels | None = None) -> dict[str, Any]:
    """Score `Echo`; what stands in results.json."""
    returned = evaluate(
        Echo(),
        card_of(labels or dataset.labels, dataset.channels),
        dataset,
        out,
        model={"path": "m", "sha256": "0", "architecture": "none", "parameters": 0},
        scored_on="a test",
    )
    assert json.loads((out / "results.json").read_text()) == returned
    return returned


def squares(*corners: tuple[int, int], size: int = 9) -> list[Array]:
    """Boolean (24, 30) masks of one square each."""
    masks = np.zeros((len(corners), 24, 30), bool)
    for mask, (y, x) in zip(masks, corners, strict=True):
        mask[y : y + size, x : x + size] = True
    return list(masks)


def exclusive(root: Path) -> Dataset:
    """Background, 1 and 2, with 255 for what is ignored; p1 lacks class 2, p3 has nothing."""
    places = {"p0": [(2, 2), (12, 3)], "p1": [(5, 5)], "p2": [(1, 1), (14, 20)], "p3": []}
    for index, (name, corners) in enumerate(places.items()):
        mask = np.zeros((24, 30), np.uint8)
        image = np.zeros((24, 30, 3), np.uint8)
        for label, square in enumerate(squares(*corners), 1):
            mask[square] = label
            image[np.roll(square, index, axis=1), label] = 200
        image[..., 0] = 100  # background is likely where no class is more so
        if index < 2:
            mask[:, 8:10] = IGNORE
            image[3:6, 8:10, 1] = 250  # found where it does not count
        save(root / "images" / f"{name}.png", image)
        save(root / "masks" / f"{name}.png", mask)
    found = find_pairs(root / "images", root / "masks")
    reading = Reading(classes="background=0,cell=1,nucleus=2", ignore="255")
    dataset, problems = load_data(found.pairs, workers=0, reading=reading)
    assert not problems
    assert dataset.labels.channels == 3
    return dataset


def overlapping(root: Path) -> Dataset:
    """Three classes in folders of their own, two of which overlap; rare is in p0 alone."""
    values = dict(zip(NAMES, ((0, 255), (0, 1), (10, 20)), strict=True))
    for index in range(3):
        masks = squares((2, 2), (4, 4), (14, 18), size=8)
        masks[2] &= index == 0
        image = np.stack([np.roll(mask, index, axis=0) for mask in masks], -1) * np.uint8(250)
        image[0, 0, 0] = 127  # just below the threshold
        image[0, 1, 0] = 128
        save(root / "images" / f"p{index}.png", image)
        for (name, (low, high)), mask in zip(values.items(), masks, strict=True):
            folder = root / "masks" / name
            save(folder / f"p{index}.png", np.where(mask, high, low).astype(np.uint8))
    found = find_pairs(root / "images", {name: root / "masks" / name for name in NAMES})
    dataset, problems = load_data(found.pairs, workers=0, reading=Reading(layers=NAMES))
    assert not problems
    assert dataset.labels.multilabel
    return dataset


def read(root: Path, files: list[str]) -> list[Array]:
    return [np.asarray(Image.open(root / file)) for file in files]


def figures(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in (*FIGURES, "tp", "fp", "fn", "tn")]


def expected(one: Any) -> list[Any]:
    counts = one.counts
    pixels = [counts.tp, counts.fp, counts.fn, counts.tn]
    return [pytest.approx(getattr(one, name), abs=1e-12) for name in FIGURES] + pixels


def check_summary(results: dict[str, Any], alone: list[list[Any]], names: tuple[str, ...]) -> None:
    """Figures of the whole and of each class are those of the images' own."""
    whole = summarise([combine(each) for each in alone])
    assert {part: results[part] for part in whole} == whole
    assert results["classes"] == [
        {"name": name} | summarise([each[k] for each in alone]) for k, name in enumerate(names)
    ]


def test_exclusive_classes_are_scored_from_the_files_that_are_written(tmp_path: Path) -> None:
    dataset, out = exclusive(tmp_path), tmp_path / "out"
    results = run(dataset, out)
    assert [row["name"] for row in results["images"]] == ["p0", "p1", "p2", "p3"]
    alone = []
    for row in results["images"]:
        assert row["prediction"] == [f"predictions/{row['name']}.png"]
        (truth,), (drawn,) = read(out, row["truth"]), read(out, row["prediction"])
        assert np.array_equal(truth, np.asarray(Image.open(row["mask"])))
        assert set(np.unique(drawn)) <= {0, 1, 2}
        valid = truth != 255
        alone.append([score(truth == k, drawn == k, valid=valid) for k in (1, 2)])
        assert list(row["classes"]) == ["cell", "nucleus"]
        for one, figure in zip(alone[-1], row["classes"].values(), strict=True):
            assert figures(figure) == expected(one)
        assert figures(row) == expected(combine(alone[-1]))
    check_summary(results, alone, ("cell", "nucleus"))
    p0, p1, p2, p3 = results["images"]
    assert (p0["dice"], p3["dice"], p3["precision"]) == (1.0, 1.0, None)  # ignored, or nothing
    assert (
        p1["dice"] == p1["classes"]["cell"]["dice"] < 1
    )  # the class that is not there is left out
    assert p2["dice"] == pytest.approx(7 / 9)  # both moved by 2 of 9 pixels
    assert results["classes"][1]["empty"]["images"] == 2
    assert results["threshold"] is None  # the largest probability decides
    assert results["labels"]["classes"] == [
        {"name": "cell", "value": 1, "kind": "grey"},
        {"name": "nucleus", "value": 2, "kind": "grey"},
    ]
    assert [row["name"] for row in results["labels"]["table"]][-1] == "ignored"


def test_masks_of_nothing_but_what_training_ignored_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on 0, 1 and borders of 255, scored on masks whose objects are 255."""
    labels = Labels(values=(0, 1), lookup=((0, 0), (1, 1), (255, IGNORE)), note="1 is foreground")
    trained = model_file(tmp_path / "model.safetensors", draw(0, size=64)[0], labels=labels)
    root = pictures(tmp_path / "data", 2, values=(0, 255))
    given = (trained, root / "images", root / "masks")
    api.evaluate(*given, out=tmp_path / "out")
    assert "give --foreground 255" in capsys.readouterr().err
    results = api.evaluate(*given, foreground="255", out=tmp_path / "right")
    assert "give --foreground" not in capsys.readouterr().err
    assert results["labels"]["table"][1]["share"] > 0


def test_an_image_of_ignored_pixels_only_is_left_out_and_listed(
    model: Model, data: Path, tmp_path: Path
) -> None:
    for folder in ("images", "masks"):
        shutil.copytree(data / folder, tmp_path / folder)
    first, *others = sorted((tmp_path / "masks").iterdir())
    save(first, np.full_like(np.asarray(Image.open(first)), 77))
    options = {"ignore": "77", "classes": "background=7,nucleus=200"}
    results = api.evaluate(
        model, tmp_path / "images", tmp_path / "masks", out=tmp_path / "out", **options
    )
    (problem,) = results["problems"]
    assert (problem["path"], problem["what"]) == (str(first), "every pixel is ignored")
    assert len(results["images"]) == len(others)
    for path in others:
        save(path, np.full_like(np.asarray(Image.open(path)), 77))
    with pytest.raises(InputError):
        api.evaluate(model, tmp_path / "images", tmp_path / "masks", out=tmp_path / "no", **options)
    assert not (tmp_path / "no").exists()


def test_pictures_in_other_units_are_no_zero_score(tmp_path: Path) -> None:
    for index in range(3):
        image, mask = draw(index, size=64)
        save(tmp_path / "masks" / f"{index}.png", mask)
        save(tmp_path / "images" / f"{index}.tif", image[..., 0].astype(np.uint16) * 200)
        save(tmp_path / "dim" / f"{index}.tif", image[..., 0].astype(np.uint16) // 4)
    deep = draw(0, size=64)[0][..., :1].astype(np.uint16) * 200
    model = load(model_file(tmp_path / "m.safetensors", deep), device="cpu", precision="32")
    trained = {"range": (0.0, 51000.0), "dimmest": 40000.0}
    preprocessing = model.card.preprocessing.model_copy(update=trained)
    model.card = model.card.model_copy(update={"preprocessing": preprocessing})
    masks = tmp_path / "masks"
    assert api.evaluate(model, tmp_path / "images", masks, out=tmp_path / "out")["images"]
    with pytest.raises(InputError, match="about 0 to 51000, as the model was trained on"):
        api.evaluate(model, tmp_path / "dim", masks, out=tmp_path / "dimmed")


def test_overlapping_classes_have_a_file_each(tmp_path: Path) -> None:
    dataset, out = overlapping(tmp_path), tmp_path / "out"
    results = run(dataset, out)
    alone = []
    for row in results["images"]:
        for part in ("truth", "prediction"):
            assert row[part] == [f"{part}s/{name}/{row['name']}.png" for name in NAMES]
        assert row["mask"] == row["masks"][0]
        truths, drawn = read(out, row["truth"]), read(out, row["prediction"])
        for truth, mask in zip(truths, row["masks"], strict=True):
            assert np.array_equal(truth, np.asarray(Image.open(mask)))
        above = zip(truths, drawn, (255, 1, 20), strict=True)
        alone.append([score(truth == value, found == value) for truth, found, value in above])
        for one, figure in zip(alone[-1], row["classes"].values(), strict=True):
            assert figures(figure) == expected(one)
        assert figures(row) == expected(combine(alone[-1]))
    check_summary(results, alone, NAMES)
    assert results["images"][0]["classes"]["cell"]["fp"] == 1  # 128 of 255 is above 0.5, 127 not
    assert results["threshold"] == 0.5
    assert results["labels"]["multilabel"]
    values = [(one["name"], one["value"]) for one in results["labels"]["classes"]]
    assert values == [("cell", 255), ("nucleus", 1), ("rare", 20)]
    assert results["classes"][2]["empty"]["images"] == 2


@pytest.mark.parametrize("make", [exclusive, overlapping])
def test_the_light_figure_and_the_page_agree(tmp_path: Path, make: Any) -> None:
    dataset = make(tmp_path)
    results = run(dataset, tmp_path / "out")
    rows = {row["name"]: row for row in results["images"]}
    for index, name in enumerate(dataset.names):
        if name == "q":
            continue
        image, truth = dataset.read(index)
        labels = dataset.labels
        maps = Echo().probabilities(image[None])[0]
        bits = labels.combined([one >= 0.5 for one in maps])
        classes = bits if labels.multilabel else maps.argmax(0).astype(np.uint8)
        layers = zip(labels.layers(truth), labels.layers(classes), strict=True)
        assert mean_dice(layers, labels.valid(truth)) == rows[name]["dice"]
        whole, alone = image_score(truth, classes, labels)
        assert whole.dice == rows[name]["dice"]
        assert [one.iou for one in alone] == [c["iou"] for c in rows[name]["classes"].values()]
    page = write_report(tmp_path / "out" / "results.json").read_text()
    assert "cannot be shown" not in page
    assert "not drawn" not in page
    assert page.count('class="line truth"') == len(rows) - (make is exclusive)  # p3 has none


def test_a_picture_that_was_turned_says_so(tmp_path: Path) -> None:
    (mask,) = squares((3, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    (tmp_path / "images").mkdir()
    lying = Image.fromarray(np.rot90(mask).astype(np.uint8) * np.uint8(255))
    lying.save(tmp_path / "images" / "a.jpg", exif=exif, quality=100)
    save(tmp_path / "masks" / "a.png", mask.astype(np.uint8))
    found = find_pairs(tmp_path / "images", tmp_path / "masks")
    dataset, _ = load_data(found.pairs, workers=0)
    (row,) = run(dataset, tmp_path / "out")["images"]
    assert row["turned"] is True
    assert row["dice"] == 1.0
    assert "not drawn" not in write_report(tmp_path / "out" / "results.json").read_text()


def test_truths_are_written_in_the_values_of_the_model(tmp_path: Path) -> None:
    dataset = exclusive(tmp_path)
    trained = Labels(
        values=(0, 0xFF0000, 0x0000FF),
        names=("background", "red", "blue"),
        lookup=((0, 0), (0xFF, 2), (0xFF0000, 1)),
        kind="colour",
    )
    results = run(dataset, tmp_path / "out", labels=trained)
    assert [one["name"] for one in results["classes"]] == ["red", "blue"]
    assert {one["kind"] for one in results["labels"]["classes"]} == {"colour"}
    truth, drawn = (
        np.asarray(Image.open(tmp_path / "out" / part / "p2.png"))
        for part in ("truths", "predictions")
    )
    assert (truth[2, 2].tolist(), truth[15, 22].tolist()) == ([255, 0, 0], [0, 0, 255])
    assert (drawn[2, 4].tolist(), drawn[0, 0].tolist()) == ([255, 0, 0], [0, 0, 0])


def test_pixels_that_only_these_masks_ignore_are_seen_in_the_truths(tmp_path: Path) -> None:
    dataset = exclusive(tmp_path)
    trained = dataset.labels.model_copy(update={"lookup": ((0, 0), (1, 1), (2, 2))})
    run(dataset, tmp_path / "out", labels=trained)
    for name in ("p0", "p2"):
        truth = Image.open(tmp_path / "out" / "truths" / f"{name}.png")
        given = Image.open(tmp_path / "masks" / f"{name}.png")
        assert np.array_equal(np.asarray(truth), np.asarray(given))


def test_classes_that_contradict_the_model_are_refused(tmp_path: Path) -> None:
    trained = exclusive(tmp_path).labels
    pairs = find_pairs(tmp_path / "images", tmp_path / "masks").pairs

    def read_as(classes: str) -> Dataset:
        reading = Reading(classes=classes, ignore="255")
        return load_data(pairs, workers=0, reading=reading, labels=trained)[0]

    swapped = "background=0,nucleus=1,cell=2"
    assert read_as("no=0,one=1,two=2").labels.values == (0, 1, 2)
    assert read_as(swapped).labels.names == ("background", "nucleus", "cell")
    with pytest.raises(InputError, match="in the model's names and order"):
        read_as("background=0,two=2,one=1")


def test_masks_of_other_classes_than_the_model_are_refused(tmp_path: Path) -> None:
    one, several = exclusive(tmp_path / "a"), overlapping(tmp_path / "b")
    with pytest.raises(InputError, match=r"3 classes: background, cell, nucleus .* 3 overlapping"):
        run(one, tmp_path / "out", labels=several.labels)
    other = several.labels.model_copy(update={"names": ("cell", "rare", "nucleus")})
    with pytest.raises(InputError, match="the model has 3 overlapping classes: cell, rare"):
        run(several, tmp_path / "out", labels=other)
    swapped = one.labels.model_copy(update={"names": ("background", "nucleus", "cell")})
    with pytest.raises(InputError, match="another order: background, nucleus, cell"):
        run(one, tmp_path / "out", labels=swapped)
    assert not (tmp_path / "out").exists()


# How far to trust it


def test_calibration_and_doubt_are_those_of_the_engines_probabilities(
    model: Model, data: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copy(model.path, tmp_path / "model.safetensors"))
    save_card(
        path, model.card.model_copy(update={"tuned": Tuned(temperature=2, thresholds=(0.4,))})
    )
    warm = load(path, device="cpu", precision="32", engine="pytorch")
    results = api.evaluate(warm, data / "images", data / "masks", out=tmp_path / "out", workers=0)
    expected = {name: np.zeros((3, 15), np.int64) for name in ("before", "after")}
    for row in results["images"]:
        image = np.asarray(Image.open(row["image"]))
        truth = np.asarray(Image.open(row["mask"])) == 200
        raw = warm.engine.probabilities(image[None])[0]
        found = temper(raw, warm.card)
        near = max(3, int(0.02 * np.hypot(*truth.shape)))
        square = np.ones((2 * near + 1, 2 * near + 1))
        counts = ndimage.binary_dilation(truth | (raw[0] >= 0.5), square)
        for name, p in (("before", raw[0]), ("after", found[0])):
            steps = np.rint(p[counts].astype(np.float64) * 65535).astype(int)
            for k in range(15):
                inside = (steps >= 4369 * k) & ((steps < 4369 * (k + 1)) | (k == 14))
                three = inside.sum(), truth[counts][inside].sum(), steps[inside].sum()
                expected[name][:, k] += three
        mask = found[0] >= np.float32(0.4)
        clear = np.where(found[0] < 0.1, 0, found[0])
        promised = 2 * clear[mask].sum() / (clear.sum() + mask.sum())
        assert row["expected_dice"] == pytest.approx(promised, abs=1e-4)
        assert row["unsure"] == pytest.approx(((found > 0.2) & (found < 0.8)).mean(), abs=1e-5)
        assert row["distance"] is None  # this model does not say what it was trained on
    calibration = results["calibration"]
    assert calibration["temperature"] == 2
    for name, (pixels, positives, steps) in expected.items():
        assert calibration[name]["pixels"] == pixels.tolist()
        assert calibration[name]["positives"] == positives.tolist()
        assert calibration[name]["steps"] == steps.tolist()
        apart = np.abs(steps / 65535 - positives).sum() / pixels.sum()
        assert calibration[name]["ece"] == pytest.approx(apart, abs=1e-6)
    assert calibration["before"]["ece"] != calibration["after"]["ece"]
    ranks = [
        np.argsort(np.argsort([row[key] for row in results["images"]]))
        for key in ("expected_dice", "dice")
    ]
    assert results["doubt"]["rank_correlation"] == pytest.approx(np.corrcoef(ranks)[0, 1])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Logits are divided by 2. A pixel is foreground from a probability of 0.4 on." in page


def test_two_images_have_no_rank_correlation(model: Model, data: Path, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("p0\np1\n")
    results = api.evaluate(
        model,
        data / "images",
        data / "masks",
        files=tmp_path / "two.txt",
        out=tmp_path / "out",
        workers=0,
    )
    assert results["doubt"]["rank_correlation"] is None
    assert "no rank correlation" in (tmp_path / "out" / "report.html").read_text()


def test_averaging_is_named_in_the_results(model: Model, data: Path, tmp_path: Path) -> None:
    results = api.evaluate(
        model, data / "images", data / "masks", out=tmp_path / "out", workers=0, tta=True
    )
    assert "averaged over mirrored and turned pictures" in results["model"]["engine"]


def test_pixels_of_several_classes_are_counted_for_each(tmp_path: Path) -> None:
    """Echo gives a class 0, or more than the background: the lowest bin is what it did not draw."""
    results = run(exclusive(tmp_path), tmp_path / "out")
    counts = results["calibration"]["after"]
    classes = [c for row in results["images"] for c in row["classes"].values()]
    assert counts["positives"][0] == sum(c["fn"] for c in classes) > 0
    assert sum(counts["positives"][1:]) == sum(c["tp"] for c in classes)
    assert sum(counts["pixels"][1:]) == sum(c["tp"] + c["fp"] for c in classes)
