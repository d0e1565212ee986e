"""Tiny data, models and trainers that several test files share; all of it is generated."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image

from contorno.card import ModelCard
from contorno.checkpoint import save_model
from contorno.config import DataConfig, NetworkConfig, Preprocessing
from contorno.data.dataset import Dataset, load
from contorno.data.demo import draw
from contorno.data.groups import split
from contorno.data.labels import Labels
from contorno.data.pairs import find_pairs
from contorno.fingerprint import fingerprint
from contorno.hardware import choose
from contorno.models import Segmenter, build_network
from contorno.recipes import resolve
from contorno.trainer import Trainer

Array = NDArray[Any]
TINY = {"widths": (4, 8), "batch_size": 4, "epochs": 2}
EXACT = {"device": "cpu", "precision": "32", "workers": 0}
WORDS = ["--widths", "4,8", "--batch-size", "4", "--device", "cpu", "--precision", "32"]


def save(path: Path, array: Array) -> Path:
    """Write an array in the format that the extension names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() in (".tif", ".tiff"):
        colour = array.ndim == 3 and array.shape[2] == 3
        layout = {"planarconfig": "contig"} if array.ndim == 3 else {}
        tifffile.imwrite(path, array, photometric="rgb" if colour else "minisblack", **layout)
    else:
        Image.fromarray(array).save(path)
    return path


def save_palette(path: Path, indices: Array, palette: tuple[int, ...]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(indices.astype(np.uint8)).convert("L")
    palettised = Image.new("P", picture.size)
    palettised.putdata(list(indices.ravel().tolist()))
    palettised.putpalette(list(palette))
    palettised.save(path)
    return path


def pictures(
    root: Path, count: int = 6, *, size: int = 64, values: tuple[int, int] = (0, 255)
) -> Path:
    """Synthetic cells in `root`/images and `root`/masks, named p0, p1 ..."""
    for index in range(count):
        image, mask = draw(index, size=size)
        save(root / "images" / f"p{index}.png", image)
        save(
            root / "masks" / f"p{index}.png",
            np.where(mask > 0, values[1], values[0]).astype(np.uint8),
        )
    return root


def easy(root: Path, count: int = 6, *, size: int = 32) -> Path:
    """Bright discs on dark noise: what any sound training must learn within seconds."""
    y, x = np.mgrid[:size, :size]
    for index in range(count):
        rng = np.random.default_rng(index)
        cy, cx = rng.uniform(size * 0.3, size * 0.7, 2)
        disc = (y - cy) ** 2 + (x - cx) ** 2 < (size * rng.uniform(0.2, 0.3)) ** 2
        noise = rng.integers(0, 60, (size, size))
        save(root / "images" / f"p{index}.png", (noise + 150 * disc).astype(np.uint8))
        save(root / "masks" / f"p{index}.png", (disc * 255).astype(np.uint8))
    return root


def read_all(root: Path, **options: Any) -> Dataset:
    """All pairs of `root`; fails when one has a problem."""
    found = find_pairs(root / "images", root / "masks")
    dataset, problems = load(found.pairs, workers=0, **({"cache_limit": 10**9} | options))
    assert not found.problems
    assert not problems
    return dataset


def trainer(
    root: Path, run: Path, *, recipe: str = "auto", precision: str = "32", **wishes: Any
) -> Trainer:
    """A trainer of a tiny network, as `api.train` would make it."""
    whole = read_all(root)
    parts = split(whole.names, share=0.2, seed=0)
    training, validation = (whole.subset(names) for names in parts)
    hardware = choose(device="cpu", precision=precision)
    fits = {"size": (32, 32)} if recipe == "classic" else {"crop": 32}
    config = resolve(
        recipe,
        DataConfig(images=str(root / "images"), masks=str(root / "masks")),
        fingerprint(training),
        hardware,
        TINY | fits | wishes,
    )
    run.mkdir(parents=True, exist_ok=True)
    return Trainer(config, training, validation, hardware, run)


def model_file(
    path: Path, sample: Array, *, labels: Labels | None = None, seed: int = 0, classes: int = 1
) -> Path:
    """A model of random weights for pictures like `sample` (H, W, C), half of which it calls 1."""
    torch.manual_seed(seed)
    channels, values = sample.shape[2], sample.astype(np.float64)
    network = NetworkConfig(in_channels=channels, out_channels=classes, widths=(4, 8))
    preprocessing = Preprocessing(
        mean=tuple(values.mean((0, 1)).tolist()),
        std=tuple(values.std((0, 1)).tolist()),
        dtype=str(sample.dtype),
        output="sigmoid" if classes == 1 else "softmax",
    )
    segmenter = Segmenter(build_network(network), preprocessing).eval()
    images = torch.from_numpy(values).permute(2, 0, 1)[None].float()
    with torch.no_grad():
        output = segmenter.network(segmenter.normalise(images))
        scale = 3 / output.std()  # probabilities from near 0 to near 1
        segmenter.network.out.weight *= scale
        segmenter.network.out.bias.copy_(scale * (segmenter.network.out.bias - output.median()))
    save_model(
        path,
        segmenter,
        ModelCard(network=network, preprocessing=preprocessing, labels=labels or Labels()),
    )
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
