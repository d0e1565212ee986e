"""Choices on validation images: those of a brute-force search, and none that do not help."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from making import WORDS, Array, digest, easy, read_all, save
from PIL import Image
from scipy import ndimage

from contorno import api
from contorno import tune as module
from contorno.card import Gain, ModelCard, Tuned, read_card
from contorno.checkpoint import load_model
from contorno.cli import main
from contorno.config import NetworkConfig, Preprocessing, read_config
from contorno.data.agreement import Reading
from contorno.data.dataset import Dataset
from contorno.data.dataset import load as load_data
from contorno.data.labels import Labels, classify
from contorno.data.pairs import find_pairs
from contorno.engines import whole_image
from contorno.finish import draw, finish, temper, tempered
from contorno.metrics import mean_dice
from contorno.model import load
from contorno.tune import AVERAGING, LEAST, MARGIN, RULE, THRESHOLDS, tune, words

SIZE = 48


class Given:
    """An engine that gives arrays that were made for the pictures, which their first pixel names.

    Args:
        maps: probabilities (K, H, W) by that pixel's value.
    """

    name = "given"
    precision = "32"
    tileable = True
    preprocessing = Preprocessing()

    def __init__(self, maps: dict[int, Array]) -> None:
        self.maps = maps
        self.asked = 0

    def probabilities(self, batch: Array) -> Array:
        self.asked += len(batch)
        return np.stack([self.maps[int(picture[0, 0, 0])] for picture in batch])


def truth_of(index: int) -> Array:
    """Two discs, one with a hole of 9 pixels in it."""
    rng = np.random.default_rng(index)
    y, x = np.mgrid[:SIZE, :SIZE]
    mask = np.zeros((SIZE, SIZE), bool)
    for cy, cx in ((14, 14), (33, 33)):
        mask |= (y - cy) ** 2 + (x - cx) ** 2 < rng.uniform(7, 11) ** 2
    mask[13:16, 13:16] = False
    return mask


def made(
    tmp_path: Path, found: Callable[[int, Array], Array], count: int = 10, **given: Any
) -> tuple[Given, ModelCard, Dataset]:
    """Pictures whose masks are `truth_of`, and an engine that gives `found` of number and mask."""
    maps = {}
    for index in range(count):
        truth = truth_of(index)
        maps[index] = np.asarray(found(index, truth), np.float32)[None]
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        save(tmp_path / "masks" / f"p{index:02}.png", (truth * 255).astype(np.uint8))
    dataset = read_all(tmp_path)
    card = ModelCard(
        network=NetworkConfig(in_channels=1, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=dataset.labels,
        **given,
    )
    return Given(maps), card, dataset


def smooth(index: int, truth: Array, *, middle: float = 0.5, noise: float = 0.05) -> Array:
    """A soft edge that crosses `middle` at the outline, with some noise."""
    rng = np.random.default_rng(1000 + index)
    away = ndimage.distance_transform_edt(truth) - ndimage.distance_transform_edt(~truth)
    slope = away / 4 + np.log(middle / (1 - middle)) + rng.normal(0, noise, truth.shape)
    return 1 / (1 + np.exp(-2 * slope))


def dice(engine: Given, card: ModelCard, dataset: Dataset) -> Array:
    """Dice of each image, from the very function that draws masks."""
    each = []
    for index in range(len(dataset)):
        image, truth = dataset.read(index)
        classes = finish(engine.probabilities(image[None])[0], card)
        layers = zip(card.labels.layers(truth), card.labels.layers(classes), strict=True)
        each.append(mean_dice(layers, dataset.labels.valid(truth)))
    return np.array(each)


def using(card: ModelCard, **values: Any) -> ModelCard:
    return card.model_copy(update={"tuned": card.tuned.model_copy(update=values)})


def gain_of(tuned: Tuned, words: str) -> Gain:
    (found,) = [gain for gain in tuned.gains if gain.choice.startswith(words)]
    return found


# Threshold


def test_the_threshold_is_the_one_of_a_brute_force_search(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: smooth(i, truth, middle=0.3))
    tuned = tune(engine, card, dataset)
    (chosen,) = tuned.thresholds
    warm = using(card, temperature=tuned.temperature)
    means = [dice(engine, using(warm, thresholds=(t,)), dataset).mean() for t in THRESHOLDS]
    assert means[THRESHOLDS.index(chosen)] == max(means)
    assert chosen < 0.45
    gain = gain_of(tuned, "threshold")
    assert gain.kept
    assert gain.value == chosen
    assert gain.default == 0.5
    assert gain.images == 10
    assert gain.before == pytest.approx(means[THRESHOLDS.index(0.5)])
    assert gain.after == pytest.approx(max(means))
    assert min(gain.confirmed) >= MARGIN


def test_each_half_confirms_what_the_other_chose(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: smooth(i, truth, middle=0.35))
    tuned = tune(engine, card, dataset, seed=3)
    order = np.random.default_rng(3).permutation(10)
    halves = order[::2], order[1::2]
    warm = using(card, temperature=tuned.temperature)
    table = np.array([dice(engine, using(warm, thresholds=(t,)), dataset) for t in THRESHOLDS])
    expected = []
    for mine, other in (halves, halves[::-1]):
        means = table[:, other].mean(axis=1)
        equal = np.flatnonzero(means > means.max() - 1e-12)
        best = equal[np.abs(equal - THRESHOLDS.index(0.5)).argmin()]
        expected.append((table[best] - table[THRESHOLDS.index(0.5)])[mine].mean())
    assert gain_of(tuned, "threshold").confirmed == pytest.approx(expected)


def test_what_helps_only_one_half_is_not_kept(tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(10).tolist()
    engine, card, dataset = made(
        tmp_path,
        lambda i, truth: smooth(i, truth, middle=0.3 if order.index(i) % 2 else 0.5, noise=0),
    )
    tuned = tune(engine, card, dataset)
    gain = gain_of(tuned, "threshold")
    assert gain.after > gain.before + 10 * MARGIN  # chosen on all it would look like a gain
    assert not gain.kept
    assert tuned.thresholds == (0.5,)


def test_a_perfect_model_is_left_alone(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: np.where(truth, 1.0, 0.0))
    tuned = tune(engine, card, dataset)
    assert tuned.model_copy(update={"gains": (), "rule": ""}) == Tuned()
    assert tuned.gains
    assert not any(gain.kept for gain in tuned.gains)
    assert words(tuned) == ["Nothing tuned: no choice helps enough"]


def test_noise_is_rarely_taken_for_a_gain(tmp_path: Path) -> None:
    """Edges wrong at random, as often one way as the other: nothing that could be chosen."""
    kept = 0
    for trial in range(10):
        engine, card, dataset = made(
            tmp_path / str(trial),
            lambda i, truth, trial=trial: smooth(i + 100 * trial, truth, noise=0.7),
            count=8,
        )
        tuned = tune(engine, card, dataset)
        gained = dice(engine, using(card, **tuned.model_dump()), dataset).mean()
        assert gained >= dice(engine, card, dataset).mean()
        kept += gain_of(tuned, "threshold").kept
    assert kept <= 5


def test_nothing_is_chosen_from_a_handful(tmp_path: Path) -> None:
    engine, card, dataset = made(
        tmp_path, lambda i, truth: smooth(i, truth, middle=0.2), count=LEAST - 1
    )
    tuned = tune(engine, card, dataset)
    assert tuned.model_copy(update={"rule": ""}) == Tuned()
    assert f"fewer than {LEAST} usable" in tuned.rule
    assert f"{LEAST - 1} in all" in tuned.rule
    assert words(tuned) == [tuned.rule]
    assert engine.asked == 0


def test_a_large_set_is_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: smooth(i, truth, middle=0.3))
    monkeypatch.setattr(module, "MOST", 7)
    assert gain_of(tune(engine, card, dataset), "threshold").images == 7
    monkeypatch.setattr(module, "MOST", 64)
    monkeypatch.setattr(module, "VALUES", 8 * SIZE * SIZE + 5)
    engine.asked = 0
    assert gain_of(tune(engine, card, dataset), "threshold").images == 8
    assert engine.asked == 8


def test_the_same_set_gives_the_same_and_what_was_tuned_before_does_not_matter(
    tmp_path: Path,
) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: smooth(i, truth, middle=0.3))
    tuned = tune(engine, card, dataset)
    again = tune(engine, using(card, **{"thresholds": (0.9,), "smallest": (50,)}), dataset)
    assert again == tuned


# Objects and holes


def speckled(index: int, truth: Array) -> Array:
    """The truth, with wrong specks of 1 to 5 pixels beside it, and pinholes of 1 and 2 in it."""
    found = np.where(truth, 0.9, 0.1)
    for size, column in ((1, 2), (2, 5), (3, 9), (5, 14)):
        found[46 - index % 2, column : column + size] = 0.9
    found[33, 33], found[30, 33:35] = 0.1, 0.1
    return found


def test_specks_and_pinholes_are_cleaned_as_brute_force_would(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, speckled)
    tuned = tune(engine, card, dataset)
    plain = using(card, temperature=tuned.temperature, thresholds=tuned.thresholds)
    sizes = (0, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128, 181, 256, 362)
    means = [dice(engine, using(plain, smallest=(s,)), dataset).mean() for s in sizes]
    assert tuned.smallest == (sizes[int(np.argmax(means))],)
    assert 5 < tuned.smallest[0] <= 8
    cleaned = using(plain, smallest=tuned.smallest)
    filled = {
        s: dice(engine, using(cleaned, holes=(s,)), dataset).mean() for s in (0, *range(1, 20))
    }
    assert filled[tuned.holes[0]] == max(filled.values())
    assert 2 <= tuned.holes[0] < 9  # the true hole has nine pixels
    gain = gain_of(tuned, "smallest object")
    assert gain.kept
    assert (gain.before, gain.after) == pytest.approx((means[0], max(means)))
    assert gain_of(tuned, "largest filled hole").before == pytest.approx(gain.after)
    assert gain_of(tuned, "largest filled hole").after == pytest.approx(
        dice(engine, using(card, **tuned.model_dump()), dataset).mean()
    )
    said = words(tuned)
    assert any(
        line.startswith("smallest object in pixels 6 instead of 0: Dice +0.0") for line in said
    )
    assert all("on 10 validation images" in line for line in said)


def test_the_largest_hole_is_filled_whatever_its_size(tmp_path: Path) -> None:
    """Five pixels lie between the candidates 4 and 6."""

    def pierced(index: int, truth: Array) -> Array:
        found = np.where(truth, 0.9, 0.1)
        found[13:16, 13:16], found[33, 31:36] = 0.9, 0.1
        return found

    assert tune(*made(tmp_path, pierced)).holes == (6,)


def test_true_small_objects_are_kept(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: np.where(truth, 0.9, 0.1))
    tuned = tune(engine, card, dataset)
    assert tuned.smallest == (0,)
    assert tuned.holes == (0,)


def test_ignored_pixels_decide_nothing(tmp_path: Path) -> None:
    """Specks and pinholes in an ignored corner only: to be rid of them would gain nothing."""
    for index in range(8):
        truth = truth_of(index)
        mask = (truth * 255).astype(np.uint8)
        mask[40:, :] = 128
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        save(tmp_path / "masks" / f"p{index:02}.png", mask)
    dataset = read_all(tmp_path, reading=Reading(foreground="255", ignore="128"))
    card = ModelCard(
        network=NetworkConfig(in_channels=1, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=dataset.labels,
    )
    maps = {}
    for index in range(8):
        found = np.where(truth_of(index), 0.9, 0.1)
        found[42::3, ::3] = 0.9
        found[41:46, 41:46], found[43, 43] = 0.9, 0.1
        maps[index] = found.astype(np.float32)[None]
    tuned = tune(Given(maps), card, dataset, tta_pixels=8 * SIZE * SIZE)
    gains = [gain for gain in tuned.gains if gain.measure == "Dice" and gain.choice != AVERAGING]
    assert len(gains) == 3
    assert all(gain.before == gain.after == 1 for gain in gains)
    assert (tuned.thresholds, tuned.smallest, tuned.holes) == ((0.5,), (0,), (0,))
    assert gain_of(tuned, AVERAGING).before == 1


# Temperature


@pytest.mark.parametrize("wrong", [0.5, 2.0])
def test_the_temperature_is_found_and_lowers_the_likelihood(tmp_path: Path, wrong: float) -> None:
    """Masks drawn at random from known probabilities, which the engine over- or understates."""
    masks = {}
    for index in range(12):
        rng = np.random.default_rng(index)
        chance = smooth(index, truth_of(index), noise=0)
        masks[index] = (rng.random(chance.shape) < chance, chance)
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        save(tmp_path / "masks" / f"p{index:02}.png", (masks[index][0] * 255).astype(np.uint8))
    dataset = read_all(tmp_path)
    card = ModelCard(
        network=NetworkConfig(in_channels=1, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=dataset.labels,
    )
    engine = Given(
        {
            index: tempered(chance[None].astype(np.float32), wrong, exclusive=False)
            for index, (_, chance) in masks.items()
        }
    )
    tuned = tune(engine, card, dataset)
    assert tuned.temperature == pytest.approx(1 / wrong, rel=0.1)
    gain = gain_of(tuned, "temperature")
    assert gain.kept
    assert gain.measure == "NLL"
    assert gain.after < 0.99 * gain.before
    raw = engine.maps[0]
    warm = temper(raw, using(card, temperature=tuned.temperature))
    assert not np.array_equal(warm, raw)
    assert np.array_equal(warm >= 0.5, raw >= 0.5)


# Several classes


def exclusive(tmp_path: Path, found: Callable[[Array], Array]) -> tuple[Given, ModelCard, Dataset]:
    maps = {}
    for index in range(8):
        classes = truth_of(index).astype(np.uint8)
        classes[30:] *= 2
        maps[index] = found(classes)
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        save(tmp_path / "masks" / f"p{index:02}.png", classes)
    dataset = read_all(tmp_path, reading=Reading(classes="none=0,a=1,b=2"))
    card = ModelCard(
        network=NetworkConfig(in_channels=1, out_channels=3, widths=(4,)),
        preprocessing=Preprocessing(output="softmax"),
        labels=dataset.labels,
    )
    return Given(maps), card, dataset


def test_exclusive_classes_are_cleaned_each_for_itself(tmp_path: Path) -> None:
    def found(classes: Array) -> Array:
        drawn = classes.copy()
        drawn[2, 2:5] = 2  # specks of one class only
        drawn[44, 2:4] = 2
        drawn[2:6, 40:44] = 0
        return np.stack([np.where(drawn == k, 0.8, 0.1) for k in range(3)]).astype(np.float32)

    engine, card, dataset = exclusive(tmp_path, found)
    tuned = tune(engine, card, dataset)
    assert tuned.thresholds == (0.5,)
    assert not [gain for gain in tuned.gains if gain.choice.startswith("threshold")]
    assert tuned.smallest[0] == 0
    assert 3 < tuned.smallest[1] <= 6
    gain = gain_of(tuned, "smallest object in pixels of b")
    assert gain.before == pytest.approx(
        dice(engine, using(card, temperature=tuned.temperature), dataset).mean()
    )
    assert gain.after == pytest.approx(
        dice(engine, using(card, **tuned.model_dump()), dataset).mean()
    )


def test_the_temperature_of_exclusive_classes_is_found(tmp_path: Path) -> None:
    """Classes drawn from known probabilities, overstated; all wrong where nothing counts."""
    maps = {}
    for index in range(8):
        each = [smooth(index + 50 * k, truth_of(index + 50 * k)) - 0.5 for k in (0, 1)]
        odds = np.exp(4 * np.stack([np.zeros_like(each[0]), *each]))
        chances = (odds / odds.sum(axis=0)).astype(np.float32)
        drawn = np.random.default_rng(index).random((SIZE, SIZE)) > chances.cumsum(axis=0)[:2]
        classes = drawn.sum(axis=0).astype(np.uint8)
        classes[:12] = 9
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        save(tmp_path / "masks" / f"p{index:02}.png", classes)
        maps[index] = tempered(chances, 0.5, exclusive=True)
        maps[index][:, :12] = maps[index][::-1, :12]
    dataset = read_all(tmp_path, reading=Reading(classes="none=0,a=1,b=2", ignore="9"))
    card = ModelCard(
        network=NetworkConfig(in_channels=1, out_channels=3, widths=(4,)),
        preprocessing=Preprocessing(output="softmax"),
        labels=dataset.labels,
    )
    tuned = tune(Given(maps), card, dataset)
    assert tuned.temperature == pytest.approx(2, rel=0.1)
    assert gain_of(tuned, "temperature").images == 8


def layered(tmp_path: Path, masks: Callable[[int], tuple[Array, Array]]) -> Dataset:
    """Pictures of two overlapping classes, first and second."""
    for index in range(8):
        save(tmp_path / "images" / f"p{index:02}.png", np.full((SIZE, SIZE), index, np.uint8))
        for name, mask in zip(("first", "second"), masks(index), strict=True):
            save(tmp_path / name / f"p{index:02}.png", (mask * 255).astype(np.uint8))
    folders = {name: tmp_path / name for name in ("first", "second")}
    pairs = find_pairs(tmp_path / "images", folders).pairs
    return load_data(pairs, workers=0, reading=Reading(layers=("first", "second")))[0]


def test_the_temperature_of_overlapping_classes_is_found(tmp_path: Path) -> None:
    """Each drawn from probabilities of its own, both overstated."""
    chances = {
        i: np.stack([smooth(i + 50 * k, truth_of(i + 50 * k), noise=0) for k in (0, 1)])
        for i in range(8)
    }

    def masks(index: int) -> tuple[Array, Array]:
        first, second = np.random.default_rng(index).random((2, SIZE, SIZE)) < chances[index]
        return first, second

    dataset = layered(tmp_path, masks)
    card = ModelCard(
        network=NetworkConfig(in_channels=1, out_channels=2, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=dataset.labels,
    )
    engine = Given(
        {i: tempered(one.astype(np.float32), 0.5, exclusive=False) for i, one in chances.items()}
    )
    assert tune(engine, card, dataset).temperature == pytest.approx(2, rel=0.1)


def test_overlapping_classes_have_thresholds_of_their_own(tmp_path: Path) -> None:
    truths = {index: (truth_of(index), truth_of(index + 50)) for index in range(8)}
    maps = {
        index: np.stack(
            [smooth(index, first, middle=0.3, noise=0), smooth(index, second, middle=0.7, noise=0)]
        ).astype(np.float32)
        for index, (first, second) in truths.items()
    }
    dataset = layered(tmp_path, truths.__getitem__)
    card = ModelCard(
        network=NetworkConfig(in_channels=1, out_channels=2, widths=(4,)),
        preprocessing=Preprocessing(),
        labels=dataset.labels,
    )
    engine = Given(maps)
    tuned = tune(engine, card, dataset)
    low, high = tuned.thresholds
    assert low < 0.45
    assert high > 0.55
    assert gain_of(tuned, "threshold of second").after == pytest.approx(
        dice(engine, using(card, **tuned.model_dump()), dataset).mean()
    )
    for value in (round(low - 0.01, 2), round(low + 0.01, 2)):
        moved = using(card, **(tuned.model_dump() | {"thresholds": (value, high)}))
        best = using(card, **tuned.model_dump())
        assert dice(engine, moved, dataset).mean() <= dice(engine, best, dataset).mean()


# Averaging


def test_averaging_is_measured_where_it_is_cheap_and_never_kept(tmp_path: Path) -> None:
    engine, card, dataset = made(tmp_path, lambda i, truth: smooth(i, truth))
    pixels = SIZE * SIZE
    assert not [g for g in tune(engine, card, dataset).gains if g.choice == AVERAGING]
    few = tune(engine, card, dataset, tta_pixels=LEAST * pixels - 1)
    assert not [g for g in few.gains if g.choice == AVERAGING]
    engine.asked = 0
    tuned = tune(engine, card, dataset, tta_pixels=7 * pixels)
    assert engine.asked == 10 + 7 * 8
    gain = gain_of(tuned, AVERAGING)
    assert gain.images == 7
    assert not gain.kept
    assert not tuned.tta
    # The engine answers the same whichever way a picture lies: their mean is a symmetric blur.
    order = np.random.default_rng(0).permutation(10)[:7]
    final = using(card, **tuned.model_dump())
    expected = []
    for index in order.tolist():
        raw = engine.maps[index].astype(np.float64)
        ways = [np.rot90(way, k, (1, 2)) for k in range(4) for way in (raw, raw[:, :, ::-1])]
        classes = draw(temper(np.mean(ways, axis=0).astype(np.float32), final), final)
        expected.append(mean_dice([(truth_of(index), classes == 1)]))
    assert gain.after == pytest.approx(np.mean(expected), abs=1e-6)
    assert gain.before == pytest.approx(dice(engine, final, dataset)[order].mean())
    assert gain.after < gain.before
    assert any(line.startswith("--tta would not help") for line in words(tuned))


def test_thresholds_stand_in_order_and_hold_the_default() -> None:
    assert all(a < b for a, b in pairwise(THRESHOLDS))
    assert 0.5 in THRESHOLDS
    assert np.array_equal(classify(np.full((1, 1, 1), 0.3, np.float32), Labels(), 0.3), [[1]])


# In a training


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return easy(tmp_path_factory.mktemp("data"), 16)


def command(data: Path, run: Path, *more: str) -> list[str]:
    folders = [str(data / "images"), str(data / "masks")]
    length = ["--epochs", "3", "--crop", "32", "--validation", "0.5", "--workers", "0"]
    return ["train", *folders, "--out", str(run), *length, *WORDS, *more]


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    assert main(command(data, folder)) == 0
    return folder


def test_a_training_ends_with_what_was_chosen(
    data: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = read_card(run / "model.safetensors")
    assert card.tuned.rule == RULE
    assert card.tuned.thresholds != (0.5,)  # after three epochs the probabilities are far off
    plain = tmp_path / "plain"
    assert main(command(data, plain, "--no-tune")) == 0
    assert read_card(plain / "model.safetensors").tuned == Tuned()
    assert "tune = false" in (plain / "config.toml").read_text()
    weights = [load_model(folder)[0].state_dict() for folder in (run, plain)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])
    scores = [json.loads((folder / "results.json").read_text()) for folder in (run, plain)]
    tuned, untuned = (one["per_image"]["dice"]["mean"] for one in scores)
    kept = [gain for gain in card.tuned.gains if gain.kept and gain.measure == "Dice"]
    assert kept[0].before == pytest.approx(untuned)
    assert kept[-1].after == pytest.approx(tuned)
    assert tuned > untuned + MARGIN
    assert scores[0]["tuned"]["thresholds"] == list(card.tuned.thresholds)
    capsys.readouterr()
    again = tmp_path / "again"
    assert main(command(data, again)) == 0
    assert digest(again / "model.safetensors") == digest(run / "model.safetensors")
    said = capsys.readouterr().out
    for line in words(card.tuned):
        assert line in said
    assert f"threshold {card.tuned.thresholds[0]:g} instead of 0.5: Dice +0." in said


def test_a_run_that_is_killed_while_tuning_is_resumed_to_the_same_file(
    data: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = tmp_path / "killed"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "whole_image", stop)
        assert main(command(data, killed)) == 130
    assert read_card(killed / "model.safetensors").tuned == Tuned()
    assert not (killed / "results.json").exists()
    for _ in range(2):  # a run that is done may be resumed too
        assert main(["train", "--resume", str(killed), "--workers", "0"]) == 0
        assert digest(killed / "model.safetensors") == digest(run / "model.safetensors")
    scores = [json.loads((folder / "results.json").read_text()) for folder in (run, killed)]
    assert scores[0]["images"] == scores[1]["images"]


def test_everything_draws_the_same_mask(data: Path, run: Path, tmp_path: Path) -> None:
    """predict, evaluate, Model.predict and the probabilities that are written agree."""
    card = read_card(run / "model.safetensors")
    model = load(run, device="cpu", precision="32")
    api.predict(model, data / "images", out=tmp_path / "drawn", probabilities="tif")
    api.evaluate(model, data / "images", data / "masks", out=tmp_path / "scored", workers=0)
    for path in sorted((data / "images").iterdir()):
        picture = np.asarray(Image.open(path))
        mask = np.asarray(Image.open(tmp_path / "drawn" / path.name))
        assert np.array_equal(mask, model.predict(picture))
        scored = np.asarray(Image.open(tmp_path / "scored" / "predictions" / path.name))
        assert np.array_equal(mask, scored)
        raw = whole_image(model.engine, picture[..., None])
        assert np.array_equal(mask > 0, finish(raw, card) > 0)
        written = tifffile.imread(tmp_path / "drawn" / f"{path.stem}_probability.tif")
        assert np.array_equal(written, temper(raw, card)[0])
        assert np.array_equal(written, model.probabilities(picture))


def test_tuning_that_is_called_off_is_taken_back(run: Path, tmp_path: Path) -> None:
    again = shutil.copytree(run, tmp_path / "run")
    written = (again / "config.toml").read_text()
    (again / "config.toml").write_text(written.replace("tune = true", "tune = false"))
    assert main(["train", "--resume", str(again), "--workers", "0"]) == 0
    assert read_card(again / "model.safetensors").tuned == Tuned()
    assert json.loads((again / "results.json").read_text())["tuned"] == json.loads(
        Tuned().model_dump_json()
    )


def test_the_classic_recipe_is_not_tuned(data: Path, tmp_path: Path) -> None:
    whole = command(data, tmp_path / "run", "--recipe", "classic", "--size", "32")
    crop = whole.index("--crop")
    assert main(whole[:crop] + whole[crop + 2 :]) == 0
    assert read_card(tmp_path / "run" / "model.safetensors").tuned == Tuned()
    config = read_config(tmp_path / "run" / "config.toml")
    assert config.training.tune is False
    assert "reference" in config.reasons["training.tune"]
