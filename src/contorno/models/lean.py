"""Training steps of U-Nets in less time and memory on a CPU: the same gradients, stored otherwise.

What the blocks compute in training, with a backward pass of its own:

- A block of two convolutions stores its input, both convolutions' outputs and its own output; the
  map between is made again, and a concatenation is not stored (its gradient is one per part).
- Weight gradients of large maps are taken over bands of rows that stay in the processor's cache:
  as a batch of small pictures, which oneDNN does up to 1.4 times as fast as a large one.
- Max pooling stores no indices: 64 bits a value would take as much as the whole input in bfloat16.

Anything but training on a CPU is left to plain layers, so that evaluation and export are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from contorno.models.growing import grow, grow_backward, grown_conv, grown_conv_backward, pays

_BAND = 2**12  # pixels: half a MiB of 64 bfloat16 channels, which a second-level cache holds
_LARGE = 2**16  # pixels, from which bands pay
_aten = torch.ops.aten


def double_conv(layers: nn.Sequential, *parts: Tensor) -> Tensor:
    """Convolution, batch normalisation and ReLU, twice.

    Args:
        layers: these six; convolutions are 3x3, padded by 1, without bias.
        parts: (N, C1, H, W), (N, C2, H, W) ...: the input, to be concatenated. The first may be
            smaller: it is interpolated to the last one's size.
    """
    if not trains(parts[0]):
        out: Tensor = layers(_concatenate(parts, parts[-1].shape[-2:]))
        return out
    conv, norm, _, conv2, norm2, _ = layers
    if not (_by_batch(norm, parts[-1]) and _by_batch(norm2, parts[-1])):
        out = layers(_concatenate(parts, parts[-1].shape[-2:]))
        return out
    weights = conv.weight, conv2.weight, norm.weight, norm.bias, norm2.weight, norm2.bias
    return _apply(_DoubleConv, norm, norm2, *weights, *map(_cast, parts))


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 2x2 pixels: (N, C, H, W) to (N, C, H // 2, W // 2)."""
    if not trains(x):
        return F.max_pool2d(x, 2)
    return _apply(_MaxPool, x)


def upsample(layer: nn.Module, x: Tensor) -> Tensor:
    """A transposed convolution of 2x2 with stride 2: (N, C, H, W) to (N, K, 2H, 2W)."""
    if not trains(x):
        out: Tensor = layer(x)
        return out
    return _apply(_Upsample, _cast(x), layer.weight, layer.bias)


def trains(x: Tensor) -> bool:
    """Whether gradients of this are wanted on a CPU: else all is done by plain layers."""
    compiling = torch.compiler.is_compiling() or tracing()
    return torch.is_grad_enabled() and x.device.type == "cpu" and not compiling


def tracing() -> bool:
    """Whether a graph is being made for another engine."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _by_batch(norm: nn.Module, x: Tensor) -> bool:
    """Whether this is plain batch normalisation, in training, of more than one value."""
    return (
        type(norm) is nn.BatchNorm2d
        and norm.training
        and norm.affine
        and norm.track_running_stats
        and norm.momentum is not None
        and x.numel() > x.shape[1]
    )


def _apply(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    out: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def _cast(x: Tensor) -> Tensor:
    """In the number format of autocast, where that is on."""
    return x.to(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else x


class _DoubleConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        norm: nn.BatchNorm2d,
        norm2: nn.BatchNorm2d,
        weight: Tensor,
        weight2: Tensor,
        scale: Tensor,
        shift: Tensor,
        scale2: Tensor,
        shift2: Tensor,
        *parts: Tensor,
    ) -> Tensor:
        dtype = parts[0].dtype
        weight, weight2 = weight.to(dtype), weight2.to(dtype)
        with torch.autocast("cpu", enabled=False):
            before = _first_conv(parts, weight)
            between, *moments = _normalise(before, norm)
            before2 = F.conv2d(between, weight2, padding=1)
            del between
            out, *moments2 = _normalise(before2, norm2)
        ctx.save_for_backward(
            weight, scale, shift, before, *moments, weight2, scale2, before2, *moments2, out, *parts
        )
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        weight, scale, shift, before, mean, deviation = saved[:6]
        weight2, scale2, before2, mean2, deviation2, out = saved[6:12]
        parts = saved[12:]

        gradient = _like(gradient, before2)
        gradient, by_scale2, by_shift2 = _norm_backward(
            gradient, out, before2, scale2, mean2, deviation2
        )
        between = F.batch_norm(before, mean, deviation.pow(-2), scale, shift, eps=0.0).relu_()
        by_weight2 = _weight_gradient(gradient, between) if ctx.needs_input_grad[3] else None
        gradient = _input_gradient(gradient, between, weight2)
        gradient, by_scale, by_shift = _norm_backward(
            gradient, between, before, scale, mean, deviation
        )
        del between
        by_weight, by_parts = _first_conv_backward(
            gradient, parts, weight, ctx.needs_input_grad[2], ctx.needs_input_grad[8:]
        )
        by_norms = (by_scale, by_shift, by_scale2, by_shift2)
        return None, None, by_weight, by_weight2, *by_norms, *by_parts


class _Upsample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        weight = weight.to(x.dtype)
        ctx.save_for_backward(x, weight)
        return F.conv_transpose2d(x, weight, bias.to(x.dtype), stride=2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        count, channels, height, width = x.shape
        by_bias = gradient.sum((0, 2, 3), dtype=torch.float32)
        by_x = F.conv2d(gradient, weight, stride=2)
        gradient = gradient.reshape(count, -1, height, 2, width, 2)
        gradient = gradient.permute(0, 2, 4, 3, 5, 1).reshape(count * height * width, -1)
        by_weight = x.permute(1, 0, 2, 3).reshape(channels, -1) @ gradient  # (C, 2 * 2 * K)
        by_weight = by_weight.float().view(channels, 2, 2, -1).permute(0, 3, 1, 2)
        return by_x, by_weight, by_bias


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.max_pool2d(x, 2)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        size, stride = [2, 2], [2, 2]
        _, indices = _aten.max_pool2d_with_indices(x, size, stride)
        result: Tensor = _aten.max_pool2d_with_indices_backward(
            gradient, x, size, stride, [0, 0], [1, 1], False, indices
        )
        return result


def _concatenate(parts: Sequence[Tensor], size: torch.Size) -> Tensor:
    parts = [part if part.shape[-2:] == size else grow(part, size) for part in parts]
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def _first_conv(parts: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Convolution of the concatenated parts; the first of several may be done before it grows."""
    size = parts[-1].shape[-2:]
    if len(parts) == 1 or parts[0].shape[-2:] == size or not pays(parts[0]):
        return F.conv2d(_concatenate(parts, size), weight, padding=1)
    first = parts[0].shape[1]
    out = F.conv2d(_concatenate(parts[1:], size), _like(weight[:, first:], weight), padding=1)
    return out.add_(grown_conv(parts[0], weight[:, :first], size))


def _first_conv_backward(
    gradient: Tensor,
    parts: Sequence[Tensor],
    weight: Tensor,
    need_weight: bool,
    need_parts: Sequence[bool],
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Gradients of the weight and of each part, where they are needed."""
    size = parts[-1].shape[-2:]
    by_pieces: list[Tensor] = []
    by_parts: list[Tensor | None] = []
    start = 0
    for part, need in zip(parts, need_parts, strict=True):
        piece = weight[:, start : start + part.shape[1]]
        start += part.shape[1]
        same = part.shape[-2:] == size
        if not same and pays(part):
            by_part, by_piece = grown_conv_backward(gradient, part, piece)
            by_pieces.append(by_piece)
            by_parts.append(by_part)
            continue
        grown = part if same else grow(part, size)
        if need_weight:
            by_pieces.append(_weight_gradient(gradient, grown))
        if not need:
            by_parts.append(None)
            continue
        by_grown = _input_gradient(gradient, grown, piece)
        by_parts.append(by_grown if same else grow_backward(by_grown, part))
    return torch.cat(by_pieces, dim=1) if need_weight else None, by_parts


def _normalise(x: Tensor, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor, Tensor]:
    """ReLU of `norm` of x, moving its statistics; the batch's mean and 1 / deviation."""
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    out, mean, deviation = torch.native_batch_norm(
        x,
        norm.weight,
        norm.bias,
        norm.running_mean,
        norm.running_var,
        True,
        norm.momentum or 0.0,
        norm.eps,
    )
    return out.relu_(), mean, deviation


def _norm_backward(
    gradient: Tensor, out: Tensor, x: Tensor, scale: Tensor, mean: Tensor, deviation: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the input, scale and shift of `_normalise`, of which `out` is the result."""
    gradient = _aten.threshold_backward(gradient, out, 0)
    result: tuple[Tensor, Tensor, Tensor] = _aten.native_batch_norm_backward(
        gradient, x, scale, None, None, mean, deviation, True, 0.0, [True, True, True]
    )
    return result


def _input_gradient(gradient: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    result: Tensor = _convolution_backward(gradient, x, _like(weight, x), [1, 1], which=0)
    return result


def _weight_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Gradient of a 3x3 convolution's weights, float32.

    Args:
        gradient: (N, K, H, W), of the convolution's output.
        x: (N, C, H, W), its input.
    """
    weight = x.new_empty(gradient.shape[1], x.shape[1], 3, 3)  # only its shape counts
    weight = weight.to(memory_format=torch.channels_last)
    if x.shape[2] * x.shape[3] < _LARGE or not _is_last(x, gradient):
        return _convolution_backward(gradient, x, weight, [1, 1], which=1).float()
    total = torch.zeros_like(weight, dtype=torch.float32)
    for index in range(len(x)):
        image, change = (_bands(y[index : index + 1], rim) for y, rim in ((x, 1), (gradient, 0)))
        total += _convolution_backward(change, image, weight, [0, 1], which=1)
    return total


def _bands(image: Tensor, rim: int) -> Tensor:
    """Bands of rows of a picture as a batch: (1, C, H, W) to (bands, C, rows + 2 * rim, W).

    Each with `rim` rows of its neighbours, or zeros, above and below; without, it is a view.
    """
    rows = max(_BAND // image.shape[3], 1)
    lacking = -image.shape[2] % rows
    if lacking or rim:
        image = F.pad(image, (0, 0, rim, rim + lacking))
    bands = image[0].unfold(1, rows + 2 * rim, rows)  # (C, bands, W, rows + 2 * rim)
    return bands.permute(1, 0, 3, 2).contiguous(memory_format=torch.channels_last)


def _convolution_backward(
    gradient: Tensor, x: Tensor, weight: Tensor, padding: list[int], *, which: int
) -> Tensor:
    """Gradient of a convolution's input (which=0) or weight (which=1)."""
    mask = [which == 0, which == 1, False]
    result: tuple[Tensor, ...] = _aten.convolution_backward(
        gradient, x, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, mask
    )
    return result[which]


def _like(x: Tensor, other: Tensor) -> Tensor:
    """The tensor x in the memory format of the other."""
    return x.contiguous(
        memory_format=torch.channels_last if _is_last(other) else torch.contiguous_format
    )


def _is_last(*maps: Tensor) -> bool:
    return all(x.is_contiguous(memory_format=torch.channels_last) for x in maps)
