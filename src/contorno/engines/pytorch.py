"""The model run by PyTorch itself: channels_last, bfloat16 where the hardware has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from contorno.hardware import Hardware

Array = NDArray[Any]


class PyTorchEngine:
    """Runs a `Segmenter`.

    Args:
        segmenter: the model; it is moved to the device and set to eval mode for each call.
        hardware: where and in which number format.
    """

    def __init__(self, segmenter: nn.Module, hardware: Hardware) -> None:
        self.name = f"PyTorch on {hardware.reason}"
        self._hardware = hardware
        self._segmenter = segmenter.to(hardware.accelerator).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )

    def probabilities(self, batch: Array) -> Array:
        """Raw pictures (N, H, W, C) in file units to probabilities (N, K, H, W) float32."""
        wide = batch.astype(np.int32) if batch.dtype == np.uint16 else batch
        own = np.require(wide, requirements=("C", "W"))  # torch takes no read-only arrays
        images = torch.from_numpy(own).permute(0, 3, 1, 2)  # channels_last without a copy
        device = self._hardware.accelerator
        self._segmenter.eval()
        with (
            torch.inference_mode(),
            torch.autocast(device, torch.bfloat16, enabled=self._hardware.bf16),
        ):
            result: Array = self._segmenter(images.to(device)).float().cpu().numpy()
        return result
