"""The whole model: preprocessing, network and probabilities in one module.

Mean and standard deviation are buffers and resizing is part of `forward`, so that no backend can
disagree about them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from contorno.config import Preprocessing
from contorno.models.blocks import activate
from contorno.resample import resize


class Segmenter(nn.Module):
    """From picture values to probabilities: raw ones, or what `normaliser` makes of them.

    Args:
        network: from normalised pictures to values, same height and width.
        preprocessing: what is done before and after.
    """

    mean: Tensor
    std: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing
        self.size = preprocessing.size
        self.output = preprocessing.output
        self.clip = preprocessing.low is not None
        if preprocessing.low is not None and preprocessing.high is not None:
            self.register_buffer("low", torch.tensor(preprocessing.low).view(1, -1, 1, 1))
            self.register_buffer("high", torch.tensor(preprocessing.high).view(1, -1, 1, 1))
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """(N, C, H, W) values to what the network wants."""
        images = images.float()
        if self.preprocessing.normalise == "image":
            return images  # it was done, to the whole picture
        if self.clip:
            images = images.clamp(self.low, self.high)
        return (images - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) values to (N, K, H, W) float32 probabilities."""
        if self.size is None:
            return self.unsized(images)
        height, width = images.shape[-2:]
        return resize(self.unsized(resize(images.float(), *self.size)), height, width)

    def unsized(self, images: Tensor) -> Tensor:
        """(N, C, H, W) values, of the model's own size if it has one, to probabilities."""
        return activate(self.network(self.normalise(images)), self.output).float()
