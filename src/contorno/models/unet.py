"""U-Net (Ronneberger et al. 2015) with a transposed or a bilinear decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from contorno.models.blocks import DoubleConv, activate, check_arguments, fit
from contorno.models.lean import max_pool, upsample


class UNet(nn.Module):
    """U-Net for pictures of any size; the output has the input's size.

    Args:
        in_channels: channels of the picture.
        out_channels: 1 for one foreground class, else the number of classes.
        widths: channels of each encoder level, the last being the bottleneck.
        up: "transposed" doubles the size by a transposed convolution that halves the channels;
            "bilinear" interpolates to the skip's own size with `align_corners=True`.
        activation: "sigmoid" or "softmax" to give probabilities, None to give the plain values.
        patch: edge of the squares of pixels that are taken together: their values become channels
            before the first level, and are parted again after the last (Shi et al. 2016). All
            convolutions then have a patch-squared-th of the places to visit.

    Sub-modules are `down1` ... `downN`, `bottom`, `upN` ... `up1` (and `upsampleN` ... when
    transposed) and `out`.

    Raises:
        ValueError: an unknown `up` or `activation`, or widths that are not positive.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        up: str = "transposed",
        activation: str | None = None,
        patch: int = 1,
    ) -> None:
        super().__init__()
        check_arguments(in_channels, out_channels, widths, up=up, activation=activation)
        if patch < 1:
            raise ValueError(f"patch ({patch}) must be at least 1 pixel")
        self.patch = patch
        self.levels = len(widths) - 1
        self.bilinear = up == "bilinear"
        self.blocks_grow = self.bilinear  # those of the decoder, what comes from below, themselves
        self.activation = activation
        inputs = (in_channels * patch**2, *widths)
        for level in range(1, self.levels + 1):
            self.add_module(f"down{level}", DoubleConv(inputs[level - 1], inputs[level]))
        self.bottom = DoubleConv(inputs[-2], inputs[-1])
        for level in range(self.levels, 0, -1):
            skip, below = inputs[level], inputs[level + 1]
            if not self.bilinear:
                self.add_module(f"upsample{level}", nn.ConvTranspose2d(below, skip, 2, stride=2))
            merged = below + skip if self.bilinear else 2 * skip
            self.add_module(f"up{level}", DoubleConv(merged, skip))
        self.out = nn.Conv2d(widths[0], out_channels * patch**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W), any H, W of at least 1."""
        height, width = x.shape[-2:]
        least = self.patch * 2**self.levels  # every level must keep at least one pixel
        x = fit(x, *(max(edge + -edge % self.patch, least) for edge in (height, width)))
        x = F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x
        skips = []
        for level in range(1, self.levels + 1):
            x = self.get_submodule(f"down{level}")(x)
            skips.append(x)
            x = max_pool(x)
        x = self.bottom(x)
        for level in range(self.levels, 0, -1):
            skip = skips.pop()
            if not self.blocks_grow:
                x = fit(upsample(self.get_submodule(f"upsample{level}"), x), *skip.shape[-2:])
            x = self.get_submodule(f"up{level}")(x, skip)
        x = F.pixel_shuffle(self.out(x), self.patch) if self.patch > 1 else self.out(x)
        return activate(x, self.activation)[..., :height, :width]
