"""The U-Net of the popular repository milesial/Pytorch-UNet, to use weights trained with it.

Written for its checkpoint layout: same parameter names, shapes and arithmetic. It differs from
`UNet` in that the skip comes first in the concatenation, the up-sampled map is doubled and then
padded with zeros on all sides to the skip's size, and the bilinear form halves the bottleneck and
narrows inside the decoder's blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from contorno.models.blocks import activate, check_arguments, fit
from contorno.models.lean import double_conv, max_pool, upsample


class MilesialUNet(nn.Module):
    """U-Net with the parameter names of milesial/Pytorch-UNet.

    Args:
        in_channels: channels of the picture.
        out_channels: 1 for sigmoid, else the number of classes.
        widths: channels of `inc`, `down1`, `down2` ... before the bilinear form halves the last.
        up: "transposed" or "bilinear".
        activation: None, "sigmoid" or "softmax"; the original ends without one.

    Raises:
        ValueError: an unknown `up` or `activation`, or widths that are not positive or do
            not double.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
        up: str = "transposed",
        activation: str | None = None,
    ) -> None:
        super().__init__()
        check_arguments(in_channels, out_channels, widths, up=up, activation=activation)
        if any(wide != 2 * narrow for narrow, wide in pairwise(widths)):
            raise ValueError(f"widths ({widths}) must double from level to level in this layout")
        bilinear = up == "bilinear"
        self.levels = len(widths) - 1
        self.activation = activation
        shrink = 2 if bilinear else 1
        encoder = [*widths[:-1], widths[-1] // shrink]
        self.inc = _double(in_channels, encoder[0])
        for level in range(1, self.levels + 1):
            self.add_module(f"down{level}", _Down(encoder[level - 1], encoder[level]))
        for step in range(1, self.levels + 1):
            below = widths[-step]
            last = step == self.levels
            out = below // 2 if last else below // 2 // shrink
            self.add_module(f"up{step}", _Up(below, out, bilinear=bilinear))
        self.outc = _Named("conv", nn.Conv2d(widths[0], out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in_channels, H, W) to (N, out_channels, H, W), any H, W of at least 1."""
        height, width = x.shape[-2:]
        least = 2**self.levels
        skips = [self.inc(fit(x, max(height, least), max(width, least)))]
        for level in range(1, self.levels + 1):
            skips.append(self.get_submodule(f"down{level}")(skips[-1]))
        x = skips.pop()
        for step in range(1, self.levels + 1):
            x = self.get_submodule(f"up{step}")(x, skips.pop())
        return activate(self.outc(x), self.activation)[..., :height, :width]


class _Named(nn.Module):
    """One layer under a name, as the checkpoint layout wants it."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__()
        self.add_module(name, layer)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.children():
            x = layer(x)
        return x


def _double(in_channels: int, out_channels: int, mid: int | None = None) -> nn.Module:
    mid = mid or out_channels
    layers: list[nn.Module] = []
    for before, after in ((in_channels, mid), (mid, out_channels)):
        layers += [
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(inplace=True),
        ]
    return _Double("double_conv", nn.Sequential(*layers))


class _Double(_Named):
    double_conv: nn.Sequential

    def forward(self, *parts: Tensor) -> Tensor:
        return double_conv(self.double_conv, *parts)


class _Pool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return max_pool(x)


class _Down(_Named):
    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__("maxpool_conv", nn.Sequential(_Pool(), _double(in_channels, out_channels)))


class _Up(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, *, bilinear: bool) -> None:
        super().__init__()
        self.up: nn.Module
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = _double(in_channels, out_channels, in_channels // 2)
        else:
            self.up = nn.ConvTranspose2d(in_channels, in_channels // 2, 2, stride=2)
            self.conv = _double(in_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = upsample(self.up, x) if isinstance(self.up, nn.ConvTranspose2d) else self.up(x)
        down, right = skip.shape[-2] - x.shape[-2], skip.shape[-1] - x.shape[-1]
        x = F.pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
        out: Tensor = self.conv(skip, x)
        return out
