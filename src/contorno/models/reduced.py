"""A network's equal for inference: normalisation folded, less arithmetic in the decoder.

A decoder's first convolution sees the skip and the map from below at twice its size. It is the sum
of a convolution of each, and the second has less to do before the map has grown:

- Bilinear: mixing channels commutes with interpolation, interpolation of columns with shifts by a
  row, and the other way round. So the mixing comes first, at a half or a quarter of the pixels;
  then columns grow and rows grow; what is left is to add up the nine products of every pixel's
  neighbours.
- Transposed: a transposed convolution of 2x2 with stride 2 and a convolution of 3x3 after it are
  one transposed convolution of 4x4.

Layers of plain kinds do all of it, so any engine can run the graph.
"""

from __future__ import annotations

import copy
from itertools import pairwise, product

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from contorno.models.unet import UNet

_LOWEST = 2  # levels whose channels are mixed before both growings, by 1x1; above, between the two
_BLOCK = 16  # channels that one group of a summing convolution sees: the width of a vector


def reduced(network: nn.Module, *, merged: bool) -> nn.Module:
    """A copy for inference: the same values but for rounding.

    Args:
        network: one that is not a `UNet` is only folded.
        merged: whether transposed convolutions are merged with those that follow; the copy is then
            for pictures alone whose edges can be halved as often as they are.
    """
    result = copy.deepcopy(network)
    fold(result)
    if not isinstance(result, UNet) or not (result.bilinear or merged):
        return result
    for level in range(1, result.levels + 1):
        layers = result.get_submodule(f"up{level}.conv")
        first, second = (layer for layer in layers.children() if isinstance(layer, nn.Conv2d))
        block: nn.Module
        if result.bilinear:
            block = GrowingBlock(first, second, both_after=result.levels - level < _LOWEST)
        else:
            upsample = result.get_submodule(f"upsample{level}")
            assert isinstance(upsample, nn.ConvTranspose2d)
            block = MergedBlock(upsample, first, second)
            result.add_module(f"upsample{level}", nn.Identity())
        result.add_module(f"up{level}", block)
    result.blocks_grow = True
    return result


def fold(network: nn.Module) -> None:
    """Fold every batch normalisation into the convolution before it, in place, for inference."""
    network.eval()
    for module in network.modules():
        if not isinstance(module, nn.Sequential):
            continue
        for (_, before), (name, after) in pairwise(list(module.named_children())):
            if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
                fused = fuse_conv_bn_eval(before, after)
                before.weight, before.bias = fused.weight, fused.bias
                setattr(module, name, nn.Identity())


class GrowingBlock(nn.Module):
    """The same as `DoubleConv` of an interpolated map and a skip.

    Args:
        first, second: that block's convolutions with their normalisation folded in.
        both_after: mix channels before both growings; else before the growing of rows alone, which
            takes twice the arithmetic but fewer values.
    """

    def __init__(self, first: nn.Conv2d, second: nn.Conv2d, *, both_after: bool) -> None:
        super().__init__()
        channels = first.out_channels
        block = max(size for size in range(1, _BLOCK + 1) if channels % size == 0)
        self.both_after = both_after
        self.skip, weight = _parted(first, first.in_channels - channels)
        self.mix = _mixing(weight.permute(2, 3, 0, 1), block, both_after=both_after)
        self.add_columns = _adding(3 * channels, block, (1, 3)) if both_after else nn.Identity()
        self.add_rows = _adding(channels, block, (3, 1))
        self.second = second

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, h, w) from below, (N, K, H, W) to (N, K, H, W)."""
        low, (height, width) = x.shape[-2], skip.shape[-2:]
        if self.both_after:
            x = self.add_columns(_grow(self.mix(x), low, width))  # (N, 3 K, h, W)
        else:
            x = self.mix(_grow(x, low, width))
        x = self.add_rows(_grow(x, height, width))  # (N, K, H, W)
        return F.relu(self.second(F.relu(x + self.skip(skip))))


class MergedBlock(nn.Module):
    """The same as a transposed convolution and `DoubleConv` of its result and a skip.

    Args:
        upsample: 2x2 with stride 2, with bias.
        first, second: that block's convolutions with their normalisation folded in.
    """

    def __init__(self, upsample: nn.ConvTranspose2d, first: nn.Conv2d, second: nn.Conv2d) -> None:
        super().__init__()
        assert upsample.bias is not None
        self.skip, after = _parted(first, upsample.out_channels)
        before = upsample.weight.detach()  # (C, M, 2, 2)
        bias = upsample.bias.detach().view(1, -1, 1, 1).expand(1, -1, 2, 2)
        before = torch.cat([before, bias]).double()  # of one more channel, which is 1 everywhere
        channels = len(before), len(after)
        kernel = before.new_zeros(*channels, 4, 4)
        for (i, j), (row, column) in product(
            product(range(2), repeat=2), product(range(3), repeat=2)
        ):
            tap = before[:, :, i, j] @ after[:, :, row, column].T.double()
            kernel[:, :, i - row + 2, j - column + 2] += tap
        self.merged = nn.ConvTranspose2d(*channels, 4, stride=2, padding=1, bias=False)
        self.merged.weight = nn.Parameter(kernel.to(upsample.weight.dtype))
        self.second = second

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, C, h, w) from below, (N, K, 2h, 2w) to (N, K, 2h, 2w)."""
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)  # zero beyond the rim, like the others
        return F.relu(self.second(F.relu(self.merged(x) + self.skip(skip))))


def _parted(conv: nn.Conv2d, below: int) -> tuple[nn.Conv2d, Tensor]:
    """A convolution parted: what it does to the skip, with its bias; its weights for the rest.

    Args:
        conv: 3x3, padded by 1.
        below: channels before the skip's.
    """
    weight = conv.weight.detach()
    skip = nn.Conv2d(conv.in_channels - below, conv.out_channels, 3, padding=1)
    skip.weight, skip.bias = nn.Parameter(weight[:, below:].clone()), conv.bias
    return skip, weight[:, :below]


def _grow(x: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def _mixing(weight: Tensor, block: int, *, both_after: bool) -> nn.Conv2d:
    """Mixes channels for each row, or for each row and column, of a 3x3 convolution's taps.

    Args:
        weight: (3, 3, K, C).
        block: of so many channels are the results, a block for each tap after the other.
        both_after: 1x1 to 9 K channels, else 1x3 to 3 K.
    """
    _, _, channels, below = weight.shape
    weight = weight.reshape(3, 3, -1, block, below)
    if both_after:
        mix = nn.Conv2d(below, 9 * channels, 1, bias=False)
        weight = weight.permute(2, 0, 1, 3, 4)  # (blocks, 3, 3, block, C)
    else:
        mix = nn.Conv2d(below, 3 * channels, (1, 3), padding=(0, 1), bias=False)
        weight = weight.permute(2, 0, 3, 4, 1)  # (blocks, 3, block, C, 3)
    mix.weight = nn.Parameter(weight.reshape(mix.weight.shape).contiguous())
    return mix


def _adding(channels: int, block: int, kernel: tuple[int, int]) -> nn.Conv2d:
    """A convolution of zeros and ones that adds a tap's result to those of its neighbours.

    In groups of three blocks to one, the first taken from the row or column before and so on. What
    lies outside the picture counts as zero, as it does to the convolution that this is a part of.
    """
    adding = nn.Conv2d(
        *(3 * channels, channels, kernel),
        padding=(kernel[0] // 2, kernel[1] // 2),
        groups=channels // block,
        bias=False,
    )
    one = torch.eye(block)  # (out, in)
    taps = [torch.stack([one * (tap == place) for place in range(3)], -1) for tap in range(3)]
    weight = torch.cat(taps, dim=1).repeat(channels // block, 1, 1)  # (out, (tap, in), place)
    adding.weight = nn.Parameter(weight.view(adding.weight.shape))
    return adding
