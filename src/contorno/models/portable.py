"""A model as one graph for other engines: pictures in, probabilities out, any size.

Resizing to a model's own size is left to the engine: libraries smooth in different ways.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from contorno.hush import hushed
from contorno.models import blocks
from contorno.models.reduced import reduced
from contorno.models.segmenter import Segmenter

_OPSET = 18


class Portable(nn.Module):
    """A copy of a model, on the CPU in float32, that takes pictures as they lie in memory.

    Args:
        segmenter: the model.
        dtype: of the pictures: "uint8", "int16", "int32" or "float32".
        channels: of the pictures.
        least: edge from which on the network does not pad.
        aligned: for pictures alone whose edges are multiples of that, without any padding.
        merged: see `reduced`; needs `aligned`.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        dtype: str,
        channels: int,
        least: int,
        *,
        aligned: bool = False,
        merged: bool = False,
    ) -> None:
        super().__init__()
        self.segmenter = copy.deepcopy(segmenter).cpu().float()
        self.segmenter.network = reduced(self.segmenter.network, merged=merged)
        self.aligned = aligned
        self.eval().requires_grad_(False)
        # Different lengths, so that the graph cannot take one for another.
        shape = (2, 2 * least, 3 * least, channels)
        self.example = torch.zeros(shape, dtype=getattr(torch, dtype))

    def forward(self, images: Tensor) -> Tensor:
        """(N, H, W, C) values to (N, K, H, W) float32 probabilities."""
        with blocks.aligned() if self.aligned else nullcontext():
            return self.segmenter.unsized(images.permute(0, 3, 1, 2))


def write_onnx(portable: Portable, path: Path) -> None:
    """Write the graph as ONNX, for pictures "images" of any number and size."""
    with quiet():  # the newer exporter, which it warns about, fixes odd sizes
        torch.onnx.export(
            portable,
            (portable.example,),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=["images"],
            output_names=["probabilities"],
            dynamic_axes={
                "images": {0: "n", 1: "height", 2: "width"},
                "probabilities": {0: "n", 2: "height", 3: "width"},
            },
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without tracing's warnings of sizes that Python compares: `blocks.fit` takes care of them."""
    tracing = hushed(".*TracerWarning|.*Converting a tensor")
    with tracing, hushed(category=DeprecationWarning), torch.no_grad():
        yield
