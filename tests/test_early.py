"""Early words: said where something is wrong, and not where nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from making import EXACT, easy, read_all, save

from contorno import api
from contorno.data.dataset import Dataset
from contorno.early import FirstSteps, about_parts, about_time, flat


def pairs(root: Path, lights: list[float], size: list[int] | None = None) -> Dataset:
    """Noise of these brightnesses, each with a square of foreground of these edges."""
    rng = np.random.default_rng(0)
    for index, light in enumerate(lights):
        mask = np.zeros((32, 32), np.uint8)
        edge = size[index] if size else int(rng.integers(4, 20))
        noise = rng.normal(light, 20, (32, 32))
        mask[4 : 4 + edge, 4 : 4 + edge] = 255
        save(root / "images" / f"p{index:02}.png", noise.clip(0, 255).astype(np.uint8))
        save(root / "masks" / f"p{index:02}.png", mask)
    return read_all(root)


def parts(whole: Dataset, validation: int) -> tuple[Dataset, Dataset]:
    names = whole.names
    return whole.subset(names[:-validation]), whole.subset(names[-validation:])


def test_nothing_to_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    whole = pairs(tmp_path, list(rng.uniform(60, 180, 30)))
    assert about_parts(*parts(whole, 8)) == []


def test_a_time_for_hardly_a_step() -> None:
    assert about_time(200) == []
    (words,) = about_time(1)
    assert "1 step(s)" in words
    assert "--time" in words


def test_few_validation_images(tmp_path: Path) -> None:
    (words,) = about_parts(*parts(pairs(tmp_path, [100.0] * 12), 3))
    assert "3 image(s)" in words
    assert "(--validation 0.5)" in words


def test_few_validation_images_that_no_share_makes_enough(tmp_path: Path) -> None:
    few = parts(pairs(tmp_path, [100.0] * 8), 2)
    (words,) = about_parts(*few)
    assert "--validation" not in words
    assert "(--folds 5)" in words
    (words,) = about_parts(*few, fold=True)  # which take no --validation
    assert "--" not in words
    assert "the score of all folds" in words
    (words,) = about_parts(*few, listed=True)  # beside which --validation is refused
    assert "name 6 or more in the list of --validation-files" in words


def test_a_validation_part_of_other_light(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    lights = [*rng.uniform(60, 120, 20), *rng.uniform(150, 200, 8)]
    (words,) = about_parts(*parts(pairs(tmp_path, lights), 8))
    assert "brightness more" in words
    assert "foreground" not in words


def test_a_validation_part_of_smaller_objects(tmp_path: Path) -> None:
    whole = pairs(
        tmp_path, [100.0] * 28, [20 + i % 5 for i in range(20)] + [3 + i for i in range(8)]
    )
    (words,) = about_parts(*parts(whole, 8))
    assert "foreground less" in words


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_flat_losses(noise: float) -> None:
    rng = np.random.default_rng(0)
    still = 1.2 + noise * rng.standard_normal(40)
    assert flat(list(still))
    assert not flat(list(still * np.linspace(1, 0.8, 40)))
    assert flat(list(still * np.linspace(1, 1.3, 40)))  # it rises


def heard(drawn: float, true: float, *, steps: int = 50, total: int = 1000) -> list[str]:
    """What is said of a falling loss, and of masks with this much foreground."""
    said: list[str] = []
    first = FirstSteps(said.append)
    for step in range(steps):
        first.step(1.5 - 0.01 * step, total=total, seconds=1.0)
    for _ in range(3):
        first.validated(drawn, true, total=total, seconds=1.0)
    return said


def test_masks_that_come_out_empty_or_full() -> None:
    (empty,) = heard(0.0, 0.02)  # once, and not after each validation
    assert "empty" in empty
    assert "2.00%" in empty
    (later,) = heard(0.0, 0.02, steps=80)  # the loss is not watched any more
    assert "After 80 steps" in later
    (full,) = heard(1.0, 0.02)
    assert "full" in full
    assert heard(0.01, 0.02) == []
    assert heard(0.0, 0.0) == []  # as they should be
    assert heard(0.0, 0.02, steps=40) == []  # too early to tell


def test_a_minute_is_long_enough() -> None:
    said: list[str] = []
    first = FirstSteps(said.append)
    for _ in range(30):
        first.step(1.0, total=100_000, seconds=61.0)
    assert len(said) == 1
    assert "20 steps" in said[0]


def test_a_resumed_run_is_not_watched_from_its_middle() -> None:
    said: list[str] = []
    first = FirstSteps(said.append, done=500)
    for _ in range(100):
        first.step(1.0, total=1000, seconds=1.0)
    first.validated(0.0, 0.5, total=1000, seconds=1.0)
    assert said == []


def test_a_run_that_does_not_learn_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = easy(tmp_path / "discs", 10)
    wishes = {"widths": (4, 8), "crop": 32, "batch_size": 4, "epochs": 15}
    for name, rate in (("good", 0.02), ("stuck", 1e-9)):
        out = tmp_path / name
        api.train(root / "images", root / "masks", out=out, learning_rate=rate, **wishes, **EXACT)
        words = capsys.readouterr().err
        assert ("hardly moved" in words) == (name == "stuck")
        assert "too few to tell" in words  # two images validate
