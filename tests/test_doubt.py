"""Expected Dice, unlike images and the list of doubtful ones: by hand, and beside the masks."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from making import Array, easy, model_file, pictures, read_all, save
from PIL import Image
from test_finish import OVERLAPPING, THREE, card

from contorno import api
from contorno.card import Familiar
from contorno.cli import main
from contorno.data.demo import draw as scene
from contorno.data.facts import sharpness
from contorno.doubt import (
    Doubt,
    as_text,
    doubt,
    expected_dice,
    familiar,
    from_text,
    read_list,
    strangeness,
    write_list,
)
from contorno.errors import InputError
from contorno.finish import finish
from contorno.model import Model, load


def expected(probabilities: Array, like: Any) -> float:
    return expected_dice(probabilities, finish(probabilities, like), like)


# Expected Dice


def test_expected_dice_by_hand() -> None:
    p = np.array([[[0.9, 0.6, 0.4, 0.1]]], np.float32)
    assert expected(p, card()) == pytest.approx(2 * 1.5 / (2.0 + 2))
    assert expected(p, card(thresholds=(0.3,))) == pytest.approx(2 * 1.9 / (2.0 + 3))
    faint = np.array([[[0.9, 0.6, 0.4, 0.1, *[0.09] * 100]]], np.float32)
    assert expected(faint, card()) == expected(p, card())  # however large the background
    sure = np.array([[[1, 1, 0, 0]]], np.float32)
    assert expected(sure, card()) == 1


def test_an_empty_mask_is_as_good_as_its_likeliest_pixel_is_unlikely() -> None:
    p = np.array([[[0.3, 0.1, 0.0]]], np.float32)
    assert expected(p, card()) == pytest.approx(0.7)
    assert expected(np.zeros((1, 2, 2), np.float32), card()) == 1


def test_expected_dice_of_several_classes_is_the_mean_over_those_drawn() -> None:
    p = np.array([[[0.7, 0.1, 0.1]], [[0.2, 0.8, 0.5]], [[0.1, 0.1, 0.4]]], np.float32)
    assert expected(p, card(THREE)) == pytest.approx(2 * 1.3 / (1.5 + 2))
    both = np.array([[[0.9, 0.1]], [[0.6, 0.8]]], np.float32)
    each = (2 * 0.9 / (1.0 + 1), 2 * 1.4 / (1.4 + 2))
    assert expected(both, card(OVERLAPPING)) == pytest.approx(np.mean(each))
    none = np.array([[[0.9]], [[0.06]], [[0.04]]], np.float32)
    assert expected(none, card(THREE)) == pytest.approx(0.94)


def test_expected_dice_is_the_mean_dice_of_truths_drawn_from_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    p = np.clip(rng.normal(0.5, 0.35, (1, 40, 40)), 0.1, 0.99).astype(np.float32)
    mask = finish(p, card()) == 1
    dice = []
    for _ in range(400):
        truth = rng.random((40, 40)) < p[0]
        dice.append(2 * (truth & mask).sum() / (truth.sum() + mask.sum()))
    assert expected(p, card()) == pytest.approx(np.mean(dice), abs=0.003)


def test_unsure_is_the_share_of_pixels_between_20_and_80_percent() -> None:
    image = np.zeros((1, 4, 1), np.uint8)
    p = np.array([[[0.1, 0.3, 0.7, 0.9]]], np.float32)
    assert doubt(image, p, finish(p, card()), card()).unsure == 0.5
    three = np.array([[[0.9, 0.5, 0.1, 0.0]], [[0.1, 0.5, 0.15, 0.9]]], np.float32)
    three = np.concatenate([three, 1 - three.sum(0, keepdims=True)])
    assert doubt(image, three, finish(three, card(THREE)), card(THREE)).unsure == 0.5
    both = np.array([[[0.1, 0.3, 0.9, 0.9]], [[0.1, 0.1, 0.5, 0.9]]], np.float32)
    assert doubt(image, both, finish(both, card(OVERLAPPING)), card(OVERLAPPING)).unsure == 0.5


# Unlike the training images


def test_training_images_are_like_themselves(tmp_path: Path) -> None:
    dataset = read_all(pictures(tmp_path, 5))
    known = familiar(dataset)
    for index in range(5):
        distance, unlike = strangeness(dataset.read(index)[0], known)
        assert distance == pytest.approx(0, abs=1e-9)
        assert unlike == ""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda image: image * 0.3, "darker than any training image"),
        (lambda image: image * 0.2 + 200, "brighter than any training image"),
        (lambda image: image * 0.1 + 60, "of less contrast than any training image"),
        (lambda image: np.where(image > 100, 255, 0), "of more contrast than any training image"),
        (lambda image: np.repeat(np.repeat(image[::4, ::4], 4, 0), 4, 1), "more blurred than"),
        (
            lambda image: image + np.random.default_rng(0).normal(0, 60, image.shape),
            "sharper or noisier than any training image",
        ),
    ],
)
def test_what_is_unlike_is_said(tmp_path: Path, change: Any, words: str) -> None:
    dataset = read_all(easy(tmp_path, 8))
    image = dataset.read(0)[0].astype(np.float64)
    distance, unlike = strangeness(change(image).clip(0, 255).astype(np.uint8), familiar(dataset))
    assert distance is not None
    assert distance > 0.1
    assert words in unlike
    assert "channel" not in unlike


@pytest.mark.parametrize(
    ("low", "high", "value", "distance"),
    [
        (50, 100, 110, 0.2),  # of a range of 50
        (50, 100, 40, 0.2),
        (100, 100, 105, 0.5),  # all alike: of a tenth of 100
        (-200, -190, -180, 0.5),  # of a tenth of 200
        (0, 0, 2, 2.0),  # all black
        (50, 100, 75, 0.0),
    ],
)
def test_the_distance_by_hand(low: float, high: float, value: float, distance: float) -> None:
    image = np.full((8, 8, 1), value, np.float32)
    wide = {"contrast": ((0.0, 1e3),), "sharpness": ((0.0, 10.0),)}
    for images, least in ((9, 0.5), (25, 0.3), (10_000, 0.1)):  # 1.5 / sqrt(images), or a tenth
        known = Familiar(brightness=((low, high),), **wide, images=images)
        found, words = strangeness(image, known)
        assert found == pytest.approx(distance)
        assert bool(words) == (distance > least)


def test_a_mask_s_doubt_says_how_far_off_and_in_what(tmp_path: Path) -> None:
    dataset = read_all(easy(tmp_path, 8))
    known = card().model_copy(update={"familiar": familiar(dataset)})
    image, truth = dataset.read(0)
    bright = (image * 0.2 + 200).astype(np.uint8)
    row = doubt(bright, truth[None].astype(np.float32), truth, known)
    distance, unlike = strangeness(bright, known.familiar)
    assert distance is not None
    assert row.distance == pytest.approx(distance, abs=1e-3)
    assert row.distance > 0.1
    assert row.unlike == unlike != ""
    assert doubt(image, truth[None].astype(np.float32), truth, known) == Doubt(1.0, 0.0, 0.0)


def test_few_training_images_are_a_narrow_range_by_chance(tmp_path: Path) -> None:
    dataset = read_all(easy(tmp_path, 8))
    known = familiar(dataset)
    (low, high), *_ = known.brightness
    image = dataset.read(0)[0].astype(np.float64)
    image += high + 0.3 * max(high - low, 0.1 * high) - image.mean()  # a distance of 0.3

    def words(images: int) -> str:
        return strangeness(image, known.model_copy(update={"images": images}))[1]

    assert known.images == 8
    assert "brighter" not in words(8)
    assert "brighter" in words(100)


def test_the_channel_is_named_where_there_are_several(tmp_path: Path) -> None:
    dataset = read_all(pictures(tmp_path, 4))
    image = dataset.read(0)[0].copy()
    image[..., 1] = 0
    _, unlike = strangeness(image, familiar(dataset))
    assert "darker than any training image (channel 2)" in unlike
    assert strangeness(image, None) == (None, "")


def test_sharpness_does_not_depend_on_the_units() -> None:
    image = scene(0, size=64)[0]
    assert sharpness(image * np.float32(7) + 3) == pytest.approx(sharpness(image), rel=1e-6)
    assert sharpness(np.full((9, 9, 2), 5, np.uint8)) == (0.0, 0.0)
    noise = np.random.default_rng(0).normal(size=(300, 300, 1))
    assert sharpness(noise)[0] == pytest.approx(2 / np.sqrt(np.pi), rel=0.02)


# The list


def table(folder: Path) -> list[dict[str, str]]:
    with open(folder / "doubt.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_rows_are_merged_and_ranked(tmp_path: Path) -> None:
    write_list(tmp_path, {"a": Doubt(0.9, 0.1, 0.0), "b": Doubt(0.5, 0.2, None, 'odd, "so"')})
    write_list(tmp_path, {"c": Doubt(0.7, 0.0, 1.5), "a": Doubt(0.4, 0.1, 0.0)})
    rows = table(tmp_path)
    assert [(row["rank"], row["image"]) for row in rows] == [("1", "a"), ("2", "b"), ("3", "c")]
    assert rows[1]["unlike"] == 'odd, "so"'
    assert rows[1]["distance"] == ""
    assert read_list(tmp_path / "doubt.csv")["a"] == Doubt(0.4, 0.1, 0.0)
    odd = Doubt(0.25, 0.5, 0.125, "darker")
    assert from_text(as_text(odd)) == odd
    assert from_text(None) is None
    assert from_text("{}") is None


def test_any_name_of_a_file_comes_back_from_the_list(tmp_path: Path) -> None:
    odd = ["a\rb", "a\nb", "a\r\nb", "\r", 'a "b", c', " a ", "\udce9", "é"]
    known = {name: Doubt(0.5, 0.1, None, 'odd, "so"') for name in odd}
    path = write_list(tmp_path, known)
    assert read_list(path) == known
    first = path.read_bytes()
    write_list(tmp_path, {"\r": known["\r"]})
    assert path.read_bytes() == first


HEADER = "rank,image,expected_dice,unsure,distance,unlike"


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", f"{HEADER}\n1,a,x,0,0,\n", "\x00"])
def test_other_files_of_this_name_are_left_alone(tmp_path: Path, text: str) -> None:
    (tmp_path / "doubt.csv").write_text(text)
    with pytest.raises(InputError, match="doubt"):
        write_list(tmp_path, {"a": Doubt(0.9, 0.1, 0.0)})
    assert (tmp_path / "doubt.csv").read_text() == text


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = model_file(tmp_path_factory.mktemp("model") / "model.safetensors", scene(0, size=64)[0])
    return load(path, device="cpu", precision="32")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for index, name in enumerate("abcd"):
        save(tmp_path / "photos" / f"{name}.png", scene(index, size=64)[0])
    return tmp_path / "photos"


def test_predict_lists_every_image_of_several_goes(
    model: Model, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    api.predict(model, [photos / "a.png", photos / "b.png"], out=out)
    first = {row["image"]: row for row in table(out)}
    assert set(first) == {"a", "b"}
    for name, row in first.items():
        image = np.asarray(Image.open(photos / f"{name}.png"))
        p = model.probabilities(image)[None]
        assert float(row["expected_dice"]) == pytest.approx(expected(p, model.card), abs=1e-4)
        assert float(row["unsure"]) == pytest.approx(((p > 0.2) & (p < 0.8)).mean(), abs=1e-6)
        assert row["distance"] == row["unlike"] == ""  # the file does not say what it was shown
    outcome = api.predict(model, photos, out=out)
    assert len(outcome.skipped) == 2
    rows = table(out)
    assert {row["image"] for row in rows} == set("abcd")
    dice = [float(row["expected_dice"]) for row in rows]
    assert dice == sorted(dice)
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        if row["image"] in first:
            assert row | {"rank": ""} == first[row["image"]] | {"rank": ""}
    # A list that was lost, or never written because the run was killed, is made from the masks.
    whole = (out / "doubt.csv").read_bytes()
    (out / "doubt.csv").unlink()
    assert len(api.predict(model, photos, out=out).skipped) == 4
    assert (out / "doubt.csv").read_bytes() == whole
    api.predict(model, photos / "c.png", out=out)
    assert (out / "doubt.csv").read_bytes() == whole


def test_a_strange_list_is_a_problem_and_the_masks_are_written(
    model: Model, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "doubt.csv").write_text("mine")
    assert main(["predict", str(model.path), str(photos), "--out", str(tmp_path / "out")]) == 1
    assert "no list of contorno's" in capsys.readouterr().err
    assert (tmp_path / "out" / "doubt.csv").read_text() == "mine"
    assert len(list((tmp_path / "out").glob("?.png"))) == 4
