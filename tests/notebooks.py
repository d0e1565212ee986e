"""The networks of other people, in plain PyTorch and as slow and obvious as can be.

`R1` and `R2` are the reference notebooks, written from their description. The two layouts of
milesial/Pytorch-UNet are a table of keys and shapes, and a forward pass that looks the weights up
in it. Nothing here comes from contorno: these are the references that its networks are held to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Weights = dict[str, Tensor]


class TwoConvolutions(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class R2(nn.Module):
    """U-Net with bilinear up-sampling to the skip's own size, ending in a sigmoid."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.down1 = TwoConvolutions(in_channels, a)
        self.down2 = TwoConvolutions(a, b)
        self.down3 = TwoConvolutions(b, c)
        self.down4 = TwoConvolutions(c, d)
        self.bottom = TwoConvolutions(d, e)
        self.up4 = TwoConvolutions(e + d, d)
        self.up3 = TwoConvolutions(d + c, c)
        self.up2 = TwoConvolutions(c + b, b)
        self.up1 = TwoConvolutions(b + a, a)
        self.out = nn.Conv2d(a, out_channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.down3(self.pool(second))
        fourth = self.down4(self.pool(third))
        x = self.bottom(self.pool(fourth))
        x = self.up4(self.grown(x, fourth))
        x = self.up3(self.grown(x, third))
        x = self.up2(self.grown(x, second))
        x = self.up1(self.grown(x, first))
        return torch.sigmoid(self.out(x))

    def grown(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=True)
        return torch.cat((x, skip), dim=1)


class R1(nn.Module):
    """U-Net with transposed convolutions, ending in plain values; edges are multiples of 16."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        widths: Sequence[int] = (64, 128, 256, 512, 1024),
    ) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.down1 = TwoConvolutions(in_channels, a)
        self.down2 = TwoConvolutions(a, b)
        self.down3 = TwoConvolutions(b, c)
        self.down4 = TwoConvolutions(c, d)
        self.bottom = TwoConvolutions(d, e)
        self.upsample4 = nn.ConvTranspose2d(e, d, kernel_size=2, stride=2)
        self.up4 = TwoConvolutions(2 * d, d)
        self.upsample3 = nn.ConvTranspose2d(d, c, kernel_size=2, stride=2)
        self.up3 = TwoConvolutions(2 * c, c)
        self.upsample2 = nn.ConvTranspose2d(c, b, kernel_size=2, stride=2)
        self.up2 = TwoConvolutions(2 * b, b)
        self.upsample1 = nn.ConvTranspose2d(b, a, kernel_size=2, stride=2)
        self.up1 = TwoConvolutions(2 * a, a)
        self.out = nn.Conv2d(a, out_channels, 1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(self.pool(first))
        third = self.down3(self.pool(second))
        fourth = self.down4(self.pool(third))
        x = self.bottom(self.pool(fourth))
        x = self.up4(torch.cat((self.upsample4(x), fourth), dim=1))
        x = self.up3(torch.cat((self.upsample3(x), third), dim=1))
        x = self.up2(torch.cat((self.upsample2(x), second), dim=1))
        x = self.up1(torch.cat((self.upsample1(x), first), dim=1))
        return self.out(x)


def milesial_weights(
    *, bilinear: bool, channels: int = 3, classes: int = 1, width: int = 64, seed: int = 0
) -> Weights:
    """Random weights under the keys of milesial/Pytorch-UNet; `width` is that of its `inc`."""
    random = torch.Generator().manual_seed(seed)
    half = 2 if bilinear else 1
    weights: Weights = {}

    def convolution(key: str, shape: tuple[int, ...], *, bias: bool) -> None:
        inputs = shape[0] if ".up" in key else shape[1] * shape[2] * shape[3]
        spread = (2 / inputs) ** 0.5  # ReLU halves the power: this keeps signals alive to the end
        weights[f"{key}.weight"] = torch.randn(shape, generator=random) * spread
        if bias:
            size = shape[1] if ".up" in key else shape[0]
            weights[f"{key}.bias"] = torch.randn(size, generator=random) * 0.1

    def double(key: str, before: int, between: int, after: int) -> None:
        steps = ((0, 1, before, between), (3, 4, between, after))
        for conv, norm, entering, leaving in steps:
            convolution(f"{key}.double_conv.{conv}", (leaving, entering, 3, 3), bias=False)
            name = f"{key}.double_conv.{norm}"
            weights[f"{name}.weight"] = 0.5 + torch.rand(leaving, generator=random)
            weights[f"{name}.bias"] = torch.randn(leaving, generator=random) * 0.1
            weights[f"{name}.running_mean"] = torch.randn(leaving, generator=random) * 0.1
            weights[f"{name}.running_var"] = 0.5 + torch.rand(leaving, generator=random)
            weights[f"{name}.num_batches_tracked"] = torch.tensor(7)

    double("inc", channels, width, width)
    for level, factor in enumerate((2, 4, 8, 16), start=1):
        after = width * factor // (half if level == 4 else 1)
        before = width * factor // 2
        double(f"down{level}.maxpool_conv.1", before, after, after)
    for level, factor in enumerate((16, 8, 4, 2), start=1):
        entering = width * factor  # skip and up-sampled map together
        leaving = entering // 2 // (1 if level == 4 else half)
        if bilinear:
            double(f"up{level}.conv", entering, entering // 2, leaving)
        else:
            convolution(f"up{level}.up", (entering, entering // 2, 2, 2), bias=True)
            double(f"up{level}.conv", entering, leaving, leaving)
    convolution("outc.conv", (classes, width, 1, 1), bias=True)
    weights["outc.conv.weight"] *= 4  # logits that tell pixels apart
    return weights


def milesial(weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """What milesial/Pytorch-UNet computes in eval mode: logits, for edges of at least 16."""

    def double(key: str, x: Tensor) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            x = F.conv2d(x, weights[f"{key}.double_conv.{conv}.weight"], padding=1)
            name = f"{key}.double_conv.{norm}"
            mean, variance = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
            scale, shift = weights[f"{name}.weight"], weights[f"{name}.bias"]
            x = F.relu(F.batch_norm(x, mean, variance, scale, shift))
        return x

    levels = [double("inc", x)]
    for level in (1, 2, 3, 4):
        levels.append(double(f"down{level}.maxpool_conv.1", F.max_pool2d(levels[-1], 2)))
    x = levels.pop()
    for level in (1, 2, 3, 4):
        skip = levels.pop()
        if f"up{level}.up.weight" in weights:
            kernel, bias = weights[f"up{level}.up.weight"], weights[f"up{level}.up.bias"]
            x = F.conv_transpose2d(x, kernel, bias, stride=2)
        else:
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        rows, columns = (skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3])
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        x = double(f"up{level}.conv", torch.cat((skip, F.pad(x, around)), dim=1))
    return F.conv2d(x, weights["outc.conv.weight"], weights["outc.conv.bias"])


def shaken(network: nn.Module, *, seed: int = 0) -> nn.Module:
    """The network in eval mode as after training: no dead signals, normalisations that matter."""
    random = torch.Generator().manual_seed(seed)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None  # plain mean over all batches
        for values, middle in ((norm.weight, 1.0), (norm.bias, 0.3)):
            values.data.copy_(middle + 0.4 * (torch.rand(values.shape, generator=random) - 0.5))
    first = next(layer for layer in network.modules() if isinstance(layer, nn.Conv2d))
    channels = first.in_channels // getattr(network, "patch", 1) ** 2
    network.train()
    with torch.no_grad():
        network(torch.rand((2, channels, 48, 80), generator=random))
        last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)][-1]
        last.weight *= 4  # values that tell pixels apart
    for norm in norms:
        norm.momentum = 0.1
    return network.eval()
