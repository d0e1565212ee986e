"""Several and overlapping classes, ignored pixels, unusual pictures: from files to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from making import EXACT, Array, save, save_palette
from PIL import Image

from contorno import api
from contorno.config import read_config
from contorno.errors import InputError
from contorno.images import read_raw_mask
from contorno.model import load
from contorno.normalise import normaliser

SIZE = 48
FAST: dict[str, Any] = {"learning_rate": 2e-3, "epochs": 30}
QUICK: dict[str, Any] = {"widths": (8, 16), "batch_size": 4, **FAST, **EXACT}


def scene(seed: int) -> tuple[Array, Array]:
    """A bright disc in a grey ring on dark noise (H, W), and its classes: 0, ring 1, disc 2."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    cy, cx = rng.uniform(SIZE * 0.35, SIZE * 0.65, 2)
    away = np.hypot(y - cy, x - cx)
    classes = (away < rng.uniform(14, 17)).astype(np.uint8) + (away < rng.uniform(6, 8))
    return (rng.integers(0, 30, (SIZE, SIZE)) + 90 * classes).astype(np.uint8), classes


def folders(root: Path, values: tuple[int, ...], count: int = 8) -> Path:
    for index in range(count):
        image, classes = scene(index)
        save(root / "images" / f"p{index}.png", image)
        save(root / "masks" / f"p{index}.png", np.array(values, np.uint8)[classes])
    return root


def mean_dice(found: list[Array], truth: list[Array]) -> float:
    both = sum(np.count_nonzero(a & b) for a, b in zip(found, truth, strict=True))
    return float(
        2
        * both
        / sum(np.count_nonzero(a) + np.count_nonzero(b) for a, b in zip(found, truth, strict=True))
    )


def test_three_classes(tmp_path: Path) -> None:
    values = (0, 128, 255)
    folders(tmp_path, values)
    model = api.train(tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", **QUICK)
    assert model.card.labels.values == values
    assert model.card.network.out_channels == 3
    assert model.card.preprocessing.output == "softmax"
    assert read_config(tmp_path / "run" / "config.toml").training.loss == "ce+dice"
    api.predict(model, tmp_path / "images", out=tmp_path / "drawn", overlay=True)
    found = [np.asarray(Image.open(tmp_path / "drawn" / f"p{i}.png")) for i in range(8)]
    assert set(np.unique(found)) <= set(values)
    for index, value in enumerate(values):
        truth = [scene(i)[1] == index for i in range(8)]
        assert mean_dice([picture == value for picture in found], truth) > 0.7
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["name"] for one in results["classes"]] == ["class 128", "class 255"]
    scores = api.evaluate(model, tmp_path / "images", tmp_path / "masks", out=tmp_path / "test")
    assert scores["per_image"]["dice"]["mean"] > 0.7


def test_a_run_of_three_classes_resumes_to_the_same_bits(tmp_path: Path) -> None:
    folders(tmp_path, (0, 1, 2))
    pair = (tmp_path / "images", tmp_path / "masks")
    short = QUICK | {"epochs": 2}
    whole = api.train(*pair, out=tmp_path / "whole", **short)
    api.train(*pair, out=tmp_path / "again", **short)
    states = sorted((tmp_path / "again" / "state").iterdir())
    states[-1].unlink()  # back to the state before the last
    (tmp_path / "again" / "model.safetensors").unlink()
    again = api.train(resume=tmp_path / "again", workers=0)
    assert again.sha256 == whole.sha256


def test_named_classes_in_palette_masks(tmp_path: Path) -> None:
    palette = (0, 0, 0, 0, 255, 0, 255, 0, 0)
    folders(tmp_path, (0, 1, 2))
    for path in (tmp_path / "masks").iterdir():
        save_palette(path, read_raw_mask(path).values, palette)
    model = api.train(
        tmp_path / "images",
        tmp_path / "masks",
        out=tmp_path / "run",
        classes="ground=0,disc=2,ring=1",
        **(QUICK | {"epochs": 1}),
    )
    assert model.card.labels.names == ("ground", "disc", "ring")
    assert model.card.labels.values == (0, 2, 1)
    api.predict(model, tmp_path / "images" / "p0.png", out=tmp_path / "drawn")
    drawn = read_raw_mask(tmp_path / "drawn" / "p0.png")
    assert drawn.kind == "palette"
    assert drawn.palette[:9] == palette


def test_what_is_ignored_is_not_learnt(tmp_path: Path) -> None:
    folders(tmp_path, (0, 1, 1))
    for path in (tmp_path / "masks").iterdir():
        mask = np.asarray(Image.open(path)).copy()
        mask[:, :10] = 255  # nobody looked there
        save(path, mask)
    model = api.train(
        tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", **(QUICK | {"epochs": 2})
    )
    assert model.card.labels.ignored == (255,)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    row = results["images"][0]
    assert row["tp"] + row["fp"] + row["fn"] + row["tn"] == SIZE * (SIZE - 10)


def test_overlapping_classes(tmp_path: Path) -> None:
    folders(tmp_path, (0, 1, 1))
    for index in range(8):  # the disc lies inside the whole
        save(tmp_path / "discs" / f"p{index}.png", (scene(index)[1] == 2) * np.uint8(255))
    masks = {"whole": tmp_path / "masks", "disc": tmp_path / "discs"}
    model = api.train(tmp_path / "images", masks, out=tmp_path / "run", **QUICK)
    assert model.card.labels.multilabel
    assert model.card.preprocessing.output == "sigmoid"
    api.predict(model, tmp_path / "images", out=tmp_path / "drawn", probabilities="png")
    for name, value, least in (("whole", 1, 1), ("disc", 255, 2)):
        found = [read_raw_mask(tmp_path / "drawn" / name / f"p{i}.png").values for i in range(8)]
        assert set(np.unique(found)) <= {0, value}
        truth = [scene(i)[1] >= least for i in range(8)]
        assert mean_dice([one == value for one in found], truth) > 0.85
        assert (tmp_path / "drawn" / f"p0_probability_{name}.png").exists()
    again = api.predict(model, tmp_path / "images", out=tmp_path / "drawn", probabilities="png")
    assert len(again.skipped) == 8
    both = model.predict(tmp_path / "images" / "p0.png")
    assert both.shape == (SIZE, SIZE, 2)
    scores = api.evaluate(model, tmp_path / "images", masks, out=tmp_path / "test")
    assert [one["name"] for one in scores["classes"]] == ["whole", "disc"]
    with pytest.raises(InputError, match="the model has whole, disc"):
        api.evaluate(model, tmp_path / "images", tmp_path / "masks", out=tmp_path / "other")


# Unusual pictures

TINY: dict[str, Any] = QUICK | {"epochs": 1}


def test_channels_in_files_of_their_own(tmp_path: Path) -> None:
    folders(tmp_path, (0, 255, 255))
    split = tmp_path / "split"
    for index in range(8):
        image, _ = scene(index)
        save(split / f"p{index}_dapi.tif", image.astype(np.uint16) * 16)
        save(split / f"p{index}_gfp.tif", (255 - image).astype(np.uint16))
    endings = ("_dapi", "_gfp")
    validating = tmp_path / "validating.txt"
    validating.write_text("".join(f"{path}\n" for path in sorted(split.iterdir())[:2]))
    options = TINY | {"channels": endings, "validation_files": validating}
    model = api.train(split, tmp_path / "masks", out=tmp_path / "run", **options)
    assert model.card.network.in_channels == 2
    assert model.card.preprocessing.channels == endings
    outcome = api.predict(model, split, out=tmp_path / "drawn")
    assert sorted(path.name for path in outcome.written) == [f"p{i}.png" for i in range(8)]
    assert not outcome.problems
    scores = api.evaluate(model, split, tmp_path / "masks", out=tmp_path / "test")
    assert len(scores["images"]) == 8


def test_pages_as_channels(tmp_path: Path) -> None:
    folders(tmp_path, (0, 255, 255))
    stacks = tmp_path / "stacks"
    stacks.mkdir()
    for index in range(8):
        image, _ = scene(index)
        with tifffile.TiffWriter(stacks / f"p{index}.tif") as file:
            for page in (image, 255 - image, image // 2):
                file.write(page, metadata=None)
    with pytest.raises(InputError, match="--pages"):
        api.train(stacks, tmp_path / "masks", out=tmp_path / "none", **TINY)
    model = api.train(stacks, tmp_path / "masks", out=tmp_path / "run", pages=True, **TINY)
    assert model.card.network.in_channels == 3
    assert len(api.predict(model, stacks, out=tmp_path / "drawn").written) == 8


def test_outliers_of_deep_pictures_are_cut_off(tmp_path: Path) -> None:
    folders(tmp_path, (0, 255, 255))
    for index in range(8):
        image = scene(index)[0].astype(np.uint16) * 4
        image[0, index] = 65535  # a hot pixel
        (tmp_path / "images" / f"p{index}.png").unlink()
        save(tmp_path / "images" / f"p{index}.tif", image)
    model = api.train(tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", **TINY)
    high = model.card.preprocessing.high
    assert high is not None
    assert 1000 < high[0] < 6000
    assert model.card.preprocessing.std[0] < 500
    clean = scene(9)[0].astype(np.uint16) * 4
    lighter = clean * 2 + 500  # as dark pictures as those of the training are no other units
    found, again = (normaliser(one, model.card.preprocessing)(one) for one in (clean, lighter))
    assert np.allclose(found, again, atol=1e-3)
    again = load(tmp_path / "run", device="cpu", precision="32")
    assert again.card.preprocessing.high == high
    assert "outliers" in read_config(tmp_path / "run" / "config.toml").reasons["preprocessing.high"]


@pytest.mark.parametrize(
    ("factor", "shown"), [(1 / 255, "values from 0"), (300.0, "values from 0")]
)
def test_pictures_in_other_units_are_refused(tmp_path: Path, factor: float, shown: str) -> None:
    folders(tmp_path, (0, 255, 255))
    for index in range(8):
        (tmp_path / "images" / f"p{index}.png").unlink()
        save(tmp_path / "images" / f"p{index}.tif", scene(index)[0].astype(np.float32))
    model = api.train(tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", **TINY)
    other = save(tmp_path / "o.tif", scene(0)[0].astype(np.float32) * np.float32(factor))
    outcome = api.predict(model, other, out=tmp_path / "drawn")
    (problem,) = outcome.problems
    assert shown in problem.what
    assert "as the model was trained on" in problem.expected


def test_pictures_that_exif_turns(tmp_path: Path) -> None:
    for index in range(6):
        rng = np.random.default_rng(index)
        upright = rng.integers(0, 255, (32, 48), np.uint8)
        mask = np.zeros((32, 48), np.uint8)
        mask[8:20, 5:30] = 255
        upright[mask > 0] |= 128
        stored = Image.fromarray(np.rot90(upright))  # orientation 6 says: turn clockwise
        exif = Image.Exif()
        exif[0x0112] = 6
        (tmp_path / "images").mkdir(exist_ok=True)
        stored.save(tmp_path / "images" / f"p{index}.jpg", exif=exif, quality=95)
        save(tmp_path / "masks" / f"p{index}.png", mask)
    model = api.train(tmp_path / "images", tmp_path / "masks", out=tmp_path / "run", **TINY)
    assert model.card.preprocessing.upright
    api.predict(model, tmp_path / "images", out=tmp_path / "drawn")
    assert read_raw_mask(tmp_path / "drawn" / "p0.png").values.shape == (32, 48)


def test_the_same_pictures_in_another_type_train_the_same_weights(tmp_path: Path) -> None:
    """In bfloat16, which is too coarse for the rounding of another unit to show."""
    weights = []
    for name, change in {
        "eight.png": lambda image: image,
        "sixteen.tif": lambda image: image.astype(np.uint16) * 257,
        "float.tif": lambda image: image.astype(np.float32) / 255,
    }.items():
        stem, _, extension = name.partition(".")
        root = folders(tmp_path / stem, (0, 255, 255))
        for index in range(8):
            (root / "images" / f"p{index}.png").unlink()
            save(root / "images" / f"p{index}.{extension}", change(scene(index)[0]))
        options = TINY | {"precision": "bf16", "epochs": 3}
        model = api.train(root / "images", root / "masks", out=root / "run", **options)
        weights.append([p.detach().numpy().tobytes() for p in model.segmenter.network.parameters()])
    assert weights[0] == weights[1] == weights[2]
