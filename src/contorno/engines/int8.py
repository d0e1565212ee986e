"""A model in 8 bits, by post-training quantisation (nncf)."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contorno.card import ModelCard
from contorno.engines.openvino import library
from contorno.engines.picture import around

_MOST = 300  # pictures, nncf's own default


def quantised(graph: Path, folder: Path, card: ModelCard, pictures: Iterable[NDArray[Any]]) -> None:
    """Write an 8-bit form of OpenVINO's XML file `graph` to `folder`.

    Args:
        graph: the model in float32.
        folder: to write model.xml and model.bin to.
        card: the model's.
        pictures: (H, W, C) in file units, for the ranges of the values in the network.
    """
    openvino = library()
    import nncf

    logging.getLogger("nncf").setLevel(logging.WARNING)
    inputs: list[NDArray[Any]] = []
    for picture in pictures:  # as the graph would get them
        around(lambda values: _noted(values, inputs), card, picture[None])
    model = openvino.Core().read_model(graph)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        result = nncf.quantize(model, nncf.Dataset(inputs), subset_size=min(len(inputs), _MOST))
    openvino.save_model(result, folder / "model.xml", compress_to_fp16=False)


def _noted(values: NDArray[Any], inputs: list[NDArray[Any]]) -> NDArray[Any]:
    inputs.append(values)
    return np.zeros((1, 1, *values.shape[1:3]), np.float32)
