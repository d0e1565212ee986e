"""Pictures normalised by their own mean and spread: once for a picture, the same for its pieces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from making import Array, pictures, read_all
from notebooks import shaken

from contorno import normalise
from contorno.card import ModelCard
from contorno.config import NetworkConfig, Preprocessing
from contorno.data.batches import Sampler
from contorno.engines import whole_image
from contorno.engines.pytorch import PyTorchEngine
from contorno.hardware import Hardware
from contorno.models import Segmenter, build_network
from contorno.normalise import normaliser

OWN = Preprocessing(mean=(100.0,) * 3, std=(40.0,) * 3, normalise="image")


def picture(height: int = 40, width: int = 56, *, spread: float = 30.0) -> Array:
    values = np.random.default_rng(0).normal((60, 120, 200), spread, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


def engine() -> PyTorchEngine:
    torch.manual_seed(0)
    network = shaken(build_network(NetworkConfig(widths=(4, 8))))
    card = ModelCard(network=NetworkConfig(widths=(4, 8)), preprocessing=OWN)
    return PyTorchEngine(
        Segmenter(network, card.preprocessing).eval(), Hardware("cpu", "32-true", "test")
    )


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int16", "float32"])
def test_every_channel_has_mean_0_and_spread_1(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(normalise, "_BAND", 56 * 7)  # bands of 7 rows: 40 rows are no multiple
    image = picture().astype(kind)
    found = normaliser(image, OWN)(image)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(found.std((0, 1)), 1, atol=1e-5)
    values = image.astype(float)
    expected = (values - values.mean((0, 1))) / values.std((0, 1))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_8_and_16_bits_are_the_same_to_bfloat16() -> None:
    eight = picture()
    sixteen = eight.astype(np.uint16) * 257
    wide = OWN.model_copy(update={"mean": (25_700.0,) * 3, "std": (10_280.0,) * 3})
    one, other = normaliser(eight, OWN)(eight), normaliser(sixteen, wide)(sixteen)
    assert torch.equal(torch.from_numpy(one).bfloat16(), torch.from_numpy(other).bfloat16())


def test_pieces_are_those_of_the_whole_picture() -> None:
    image = picture()
    prepare = normaliser(image, OWN)
    np.testing.assert_array_equal(prepare(image[None, 5:20, 7:9]), prepare(image)[None, 5:20, 7:9])


def test_an_empty_picture_stays_quiet() -> None:
    flat = np.full((8, 8, 3), 7, np.uint8)
    assert (normaliser(flat, OWN)(flat) == 0).all()
    noisy = picture(spread=0.6)
    assert normaliser(noisy, OWN)(noisy).std() < 0.6  # a spread of 40 / 32 is taken for it


def test_outliers_are_cut_off_first() -> None:
    cut = OWN.model_copy(update={"low": (50.0,) * 3, "high": (150.0,) * 3})
    image = picture()
    expected = image.clip(50, 150).astype(float)
    expected = (expected - expected.mean((0, 1))) / expected.std((0, 1))
    for kind in ("uint8", "float32"):
        found = normaliser(image.astype(kind), cut)(image.astype(kind))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    image = image.astype(np.uint16)
    hot = image.copy()
    hot[3, 3] = 60_000
    cut = OWN.model_copy(update={"low": (0.0,) * 3, "high": (255.0,) * 3})
    whole, beside = normaliser(image, cut)(image), normaliser(hot, cut)(hot)
    away = np.ones(image.shape[:2], bool)
    away[3, 3] = False
    assert np.abs(whole - beside)[away].max() < 0.05
    assert np.abs(normaliser(hot, OWN)(hot) - whole)[away].max() > 0.5


def test_a_model_of_the_set_gets_pictures_as_they_are() -> None:
    image = picture()
    assert normaliser(image, Preprocessing())(image) is image


def test_brightness_and_contrast_do_not_matter() -> None:
    image = picture().astype(np.float32)
    one = whole_image(engine(), image)
    other = whole_image(engine(), image * 0.3 + 500)
    assert one.std() > 0.05
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_tiles_see_the_whole_picture_s_light(monkeypatch: pytest.MonkeyPatch) -> None:
    """One half dark, one half bright: tiles of their own mean would not agree with the whole."""
    image = picture(128, 256).astype(np.float32)
    image[:, 128:] += 300
    whole = whole_image(engine(), image)
    monkeypatch.setattr("contorno.tiles.stitch.__kwdefaults__", {"tile": 64, "whole": 0})
    tiled = whole_image(engine(), image)
    assert not np.array_equal(whole, tiled)  # the borders of tiles are blended
    assert np.abs(whole - tiled).mean() < 0.02


def test_training_crops_are_pieces_of_normalised_pictures(tmp_path: Path) -> None:
    dataset = read_all(pictures(tmp_path, 3, size=48))
    sampler = Sampler(dataset, 2, 32, 3, OWN, seed=0)
    plain = Sampler(dataset, 2, 32, 3, Preprocessing(), seed=0)
    again = list(sampler.batches(0, start=0, workers=2))  # what was kept of a picture is used
    where = {pair.name: index for index, pair in enumerate(dataset.pairs)}
    for epoch in (0, 1):
        own = list(sampler.batches(epoch, start=0, workers=2))
        raw = list(plain.batches(epoch, start=0, workers=1))
        for mine, theirs in zip(own, raw, strict=True):
            assert mine.images.dtype == torch.float32
            assert mine.names == theirs.names
            for name, crop, values in zip(mine.names, mine.images, theirs.images, strict=True):
                prepare = normaliser(dataset.read(where[name])[0], OWN)
                expected = prepare(values.permute(1, 2, 0).numpy())
                np.testing.assert_array_equal(crop.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(again[1].images, next(sampler.batches(0, start=1, workers=1)).images)
