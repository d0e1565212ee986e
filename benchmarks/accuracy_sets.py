"""The sets of accuracy.py as every method gets them: lossless PNG and masks of exact values.

Needs NumPy and Pillow alone, so that the interpreter of contorno and that of the peers read pixels
with the same lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TWO = {"background": 0, "foreground": 255}
SETS: dict[str, dict[str, int]] = {  # name: classes and their mask values, background first
    "isbi2012_em": TWO,  # foreground is the inside of cells, 78% of the pixels
    "dsb2018_stage1": TWO,
    "epfl_roads": TWO,  # about 237 greys: nearest of 0 and 255
    "crackforest": TWO,
    "wbc_dataset2": {"background": 0, "cytoplasm": 128, "nucleus": 255},
}


def prepare(data: Path, target: Path, values: list[int]) -> None:
    """Write TARGET/images and TARGET/masks of one set, and its two lists; nothing is resized.

    Alpha (constant in these sets) is dropped, and a mask value becomes the nearest of `values`, so
    that stray and anti-aliased values are the same for every method.
    """
    lists = {part: stems(data / f"split_{part}.txt") for part in ("train", "test")}
    if both := set(lists["train"]) & set(lists["test"]):
        raise ValueError(f"{data} has {len(both)} stems in both lists, such as {min(both)}")
    for part in ("images", "masks"):
        (target / part).mkdir(parents=True, exist_ok=True)
        found = {path.stem: path for path in (data / part).iterdir()}
        for stem in (*lists["train"], *lists["test"]):
            with Image.open(found[stem]) as file:
                grey = part == "masks" or file.mode in ("L", "1", "I;16")
                pixels = np.asarray(file.convert("L" if grey else "RGB"))
            if part == "masks":
                pixels = np.asarray(values, np.uint8)[nearest(pixels, values)]
            Image.fromarray(pixels).save(target / part / f"{stem}.png")
    for part, names in lists.items():
        (target / f"split_{part}.txt").write_text("".join(f"{name}\n" for name in names))


def stems(file: Path) -> list[str]:
    return file.read_text().split()


def nearest(mask: Any, values: list[int]) -> Any:
    """Index of the nearest value, (H, W); the lower one where two are equally near."""
    distances = [np.abs(mask.astype(np.int16) - value) for value in values]
    return np.argmin(distances, axis=0).astype(np.uint8)


def read_image(path: Path) -> Any:
    """uint8 (H, W, C), C is 1 or 3."""
    with Image.open(path) as file:
        pixels = np.asarray(file)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def read_classes(path: Path, values: list[int]) -> Any:
    """Class of every pixel, (H, W), from a mask of values."""
    with Image.open(path) as file:
        return nearest(np.asarray(file.convert("L")), values)
