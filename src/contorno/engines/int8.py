"""A model in 8 bits, by post-training quantisation (nncf).

It is done by `python -m contorno.engines.int8 GRAPH FOLDER` in a process of its own, since what
nncf loads is large.
"""

from __future__ import annotations

import contextlib
import io
import logging
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.engines.openvino import library
from contorno.engines.picture import around
from contorno.errors import ContornoError
from contorno.normalise import normaliser
from contorno.tiles import TILE, WHOLE, plan

_MOST = 300  # pictures, nncf's own default
_TILES = 64  # of all large pictures: 800 MB, of three channels
_PICTURES = "pictures.npz"


def quantised(graph: Path, folder: Path, card: ModelCard, pictures: Sequence[NDArray[Any]]) -> None:
    """Write an 8-bit form of OpenVINO's XML file `graph` to `folder`.

    Args:
        graph: the model in float32, for aligned pictures.
        folder: to write model.xml and model.bin to.
        card: the model's.
        pictures: (H, W, C) in file units, for the ranges of the values in the network. Of those
            that are drawn in tiles, some tiles are taken.

    Raises:
        ContornoError: nncf could not do it.
    """
    inputs: list[NDArray[Any]] = []
    random = np.random.default_rng(0)
    for picture in pictures:  # as the graph would get them
        prepare = normaliser(picture, card.preprocessing)
        for piece in _pieces(picture, card, max(1, _TILES // len(pictures)), random):
            values = prepare(piece[None])
            around(lambda values: _noted(values, inputs), card, values, align=True)
    np.savez(folder / _PICTURES, *inputs[:_MOST])
    command = [sys.executable, "-m", "contorno.engines.int8", str(graph), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (folder / _PICTURES).unlink()
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
        raise ContornoError(f"{graph}: nncf could not make an 8-bit form of it: {last}")


def _pieces(
    picture: NDArray[Any], card: ModelCard, most: int, random: np.random.Generator
) -> list[NDArray[Any]]:
    """The picture itself, or of one that `tiles.stitch` would cut, up to `most` tiles anywhere."""
    height, width = picture.shape[:2]
    if height * width <= WHOLE or card.preprocessing.size is not None:
        return [picture]
    corners = list(product(plan(height, TILE, TILE // 2), plan(width, TILE, TILE // 2)))
    chosen = random.permutation(len(corners))[:most]
    return [picture[y : y + TILE, x : x + TILE] for y, x in (corners[i] for i in chosen)]


def main(graph: Path, folder: Path) -> None:
    """Quantise `graph` with the pictures in `folder`, into `folder`."""
    openvino = library()
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    with np.load(folder / _PICTURES) as file:
        inputs = list(file.values())
    model = openvino.Core().read_model(graph)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        result = nncf.quantize(model, nncf.Dataset(inputs), subset_size=len(inputs))
    openvino.save_model(result, folder / "model.xml", compress_to_fp16=False)


def _noted(values: NDArray[Any], inputs: list[NDArray[Any]]) -> NDArray[Any]:
    inputs.append(values)
    return np.zeros((1, 1, *values.shape[1:3]), np.float32)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
