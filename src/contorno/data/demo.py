"""The built-in synthetic set: pairs of pictures and masks in folders, for trying contorno out.

The pictures are drawn by `microscopy`; `otsu_dice` measures that no threshold solves them. Pairing
the files and reading them as training data is left to the rest of `contorno.data`.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from contorno.data.microscopy import check_arguments, draw
from contorno.errors import InputError, Problem
from contorno.files import write_bytes
from contorno.images import ImageError, encode_png, read_image

__all__ = ["draw", "otsu_dice", "write"]

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]

PNG_END = b"IEND\xaeB`\x82"  # name and checksum of the empty last chunk
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601, what Pillow's convert("L") uses


def otsu_dice(image: Bytes, mask: Bytes) -> float:
    """Score the best that one global threshold chosen by Otsu's method does on a picture.

    Otsu (1979), "A threshold selection method from gray-level histograms". The method does not say
    which side is the object, so the better of the two sides counts.

    Args:
        image: (H, W, 3) in 0..255; its luminance is thresholded.
        mask: (H, W), nonzero on objects.

    Returns:
        Dice in 0..1; 1 when both the mask and the thresholded side are empty.
    """
    grey = np.rint(image @ np.array(LUMINANCE)).astype(np.intp)
    count = np.bincount(grey.ravel(), minlength=256)
    below = np.cumsum(count)  # pixels <= t
    total = np.cumsum(count * np.arange(256))
    above = below[-1] - below
    # Between-class variance n0 n1 (mean0 - mean1)^2, multiplied out so that an empty side gives 0.
    spread = (total * below[-1] - total[-1] * below).astype(float) ** 2
    variance = spread / np.maximum(below * above.astype(float), 1)
    bright = grey > np.argmax(variance)
    truth = mask > 0
    return max(_dice(bright, truth), _dice(~bright, truth))


def write(
    folder: str | Path, *, train: int = 40, test: int = 12, seed: int = 0, size: int = 512
) -> None:
    """Write the set as PNG files, in ``train`` and ``test``, each with ``images`` and ``masks``.

    Numbers go on from train to test: ``train/images/cells_000.png`` ..., then
    ``test/images/cells_040.png`` .... Files that already hold the right picture are left alone, so
    a run that was interrupted can be repeated.

    Args:
        folder: where to write; made if missing.
        train: pictures in ``train``, 0 or more.
        test: pictures in ``test``, 0 or more.
        seed: as in `draw`.
        size: as in `draw`.

    Raises:
        InputError: an argument is out of range, or the folder holds anything else. Nothing has
            been written then.
    """
    check_arguments(seed=seed, size=size, train=train, test=test)
    root = Path(folder)
    pairs = [_Pair(root, i, "train" if i < train else "test") for i in range(train + test)]
    _check_folder(root, pairs, seed, size)
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda pair: pair.write_missing(seed, size), pairs):
            pass  # draining the iterator raises what a thread raised


# ---------------------------------------------------------------------------- the picture's parts


def _dice(a: Bools, b: Bools) -> float:
    both, total = np.count_nonzero(a & b), np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * both / total if total else 1.0


# ----------------------------------------------------------------------------------- the files


@dataclass(frozen=True)
class _Pair:
    """The two files of one picture."""

    root: Path
    index: int
    part: str

    @property
    def paths(self) -> tuple[Path, Path]:
        name = f"cells_{self.index:03d}.png"
        return self.root / self.part / "images" / name, self.root / self.part / "masks" / name

    def write_missing(self, seed: int, size: int) -> None:
        if all(path.exists() for path in self.paths):
            return
        for path, pixels in zip(self.paths, draw(self.index, seed=seed, size=size), strict=True):
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, encode_png(Image.fromarray(pixels)))

    def differing(self, seed: int, size: int) -> list[Path]:
        """Files that exist and do not hold this picture."""
        present = [path.exists() for path in self.paths]
        if not any(present):
            return []
        pictures = draw(self.index, seed=seed, size=size)
        triples = zip(self.paths, present, pictures, strict=True)
        return [path for path, there, pixels in triples if there and not _holds(path, pixels)]


def _holds(path: Path, pixels: Bytes) -> bool:
    """Compare pixels, not bytes: another version of Pillow may compress them otherwise."""
    try:
        stored = read_image(path)
    except ImageError:  # not a picture, or damaged
        return False
    whole = path.read_bytes().endswith(PNG_END)  # readers forgive a few missing bytes
    return whole and np.array_equal(stored, pixels.reshape(*pixels.shape[:2], -1))


def _check_folder(root: Path, pairs: list[_Pair], seed: int, size: int) -> None:
    """Refuse a folder that holds anything but files of this very set; hidden files are ignored."""
    if not root.exists():
        return
    if not root.is_dir():
        raise InputError(f"{root} is a file; the demo set needs a folder: name another one")
    ours = {path for pair in pairs for path in pair.paths}
    problems = [
        _problem(path, "not a file of the demo set")
        for path in sorted(root.rglob("*"))
        if path not in ours and not path.is_dir() and not _hidden(path.relative_to(root))
    ]
    for pair in pairs:
        problems += [
            _problem(path, "another picture than the demo set has here")
            for path in pair.differing(seed, size)
        ]
    if problems:
        raise InputError(
            f"{root} already holds something else, so the demo set was not written there; "
            "give an empty folder or a new name",
            problems,
        )


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _problem(path: Path, what: str) -> Problem:
    return Problem(str(path), what, "an empty or missing folder", "move it, or write elsewhere")
