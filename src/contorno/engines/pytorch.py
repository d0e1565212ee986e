"""The model run by PyTorch itself: channels_last, bfloat16 where the hardware has it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from contorno.errors import OutOfMemory
from contorno.hardware import Hardware, use
from contorno.models import Segmenter
from contorno.models.reduced import fold

Array = NDArray[Any]


class PyTorchEngine:
    """Runs a `Segmenter`.

    Args:
        segmenter: the model; it is moved to the device and set to eval mode for each call.
        hardware: where and in which number format.
        frozen: run a copy with batch normalisation folded into the convolutions; for a model that
            is not being trained.
    """

    def __init__(self, segmenter: Segmenter, hardware: Hardware, *, frozen: bool = False) -> None:
        self.name = f"PyTorch on {hardware.reason}"
        self.precision = "bf16" if hardware.bf16 else "32"
        self.tileable, self.preprocessing = segmenter.size is None, segmenter.preprocessing
        self._hardware = hardware
        if frozen:
            segmenter = copy.deepcopy(segmenter)
            fold(segmenter.network)
        self._segmenter = segmenter.to(hardware.accelerator).to(
            memory_format=torch.channels_last  # type: ignore[call-overload]
        )

    def probabilities(self, batch: Array) -> Array:
        """Pictures (N, H, W, C) to probabilities (N, K, H, W) float32; see `Engine`."""
        # A copy: torch takes no uint16, no read-only arrays and none that is mirrored, as also one
        # row may be, which NumPy calls contiguous.
        own = batch.astype(np.int32 if batch.dtype == np.uint16 else batch.dtype, order="C")
        images = torch.from_numpy(own).permute(0, 3, 1, 2)  # channels_last without a copy
        device = self._hardware.accelerator
        self._segmenter.eval()
        use(self._hardware)  # each time: a model of another number format may have run meanwhile
        try:
            with (
                torch.inference_mode(),
                torch.autocast(device, torch.bfloat16, enabled=self._hardware.bf16),
            ):
                result: Array = self._segmenter(images.to(device)).float().cpu().numpy()
        except RuntimeError as error:
            if out_of_memory(error):
                height, width = batch.shape[1:3]
                raise OutOfMemory(f"{width} x {height} pixels do not fit in memory") from None
            raise
        return result


def out_of_memory(error: BaseException) -> bool:
    """Whether PyTorch means that memory, of the device or the machine, did not suffice."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
