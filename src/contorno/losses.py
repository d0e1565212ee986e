"""Losses for class maps, each a mean over the batch's pixels that count.

All but `mse` take the network's plain values (logits); `mse` takes its output as it stands, which
is what R1 trains on. `ce` is for classes that exclude each other, `bce` for those that may overlap
(and for one foreground class); the others take either. Dice is summed over the whole batch before
it is divided (batch Dice), so that empty masks neither divide by zero nor count as perfect.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from contorno.errors import ConfigError

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # output, target, valid
IGNORED = 255.0  # in a class map of exclusive classes
_SMOOTH = 1.0  # pixels added to both sides of the Dice fraction


def targets(
    masks: Tensor, channels: int, *, multilabel: bool = False, ignore: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Class maps to what losses compare with.

    Args:
        masks: (N, 1, H, W) float: share of foreground (one channel), class index, or bits of
            overlapping classes; `IGNORED` where nothing is to be learnt.
        channels: of the network's output.
        multilabel: whether masks hold bits.
        ignore: whether masks may hold `IGNORED`.

    Returns:
        Target (N, channels, H, W) float 0..1, and (N, 1, H, W) float 1 where pixels count, or None
        where all do.
    """
    if multilabel:
        bits = torch.arange(channels, device=masks.device).view(1, -1, 1, 1)
        return (masks.to(torch.int32) >> bits & 1).float(), None
    valid = (masks != IGNORED).float() if ignore else None
    if channels == 1:
        return masks if valid is None else masks * valid, valid
    index = torch.arange(channels, device=masks.device).view(1, -1, 1, 1)
    return (masks == index).float(), valid


def loss_function(name: str, *, exclusive: bool) -> Loss:
    """The loss of this name.

    Args:
        name: one of `LOSSES`.
        exclusive: whether the channels are classes that exclude each other (softmax).

    Raises:
        ConfigError: a loss that does not fit the classes.
    """
    unfit = {True: ("bce", "bce+dice"), False: ("ce", "ce+dice")}[exclusive]
    if name in unfit:
        fit = name[1:] if exclusive else f"b{name}"
        raise ConfigError(
            f"loss {name!r} does not fit these masks, "
            + (
                "whose classes exclude each other"
                if exclusive
                else "of one class or overlapping ones"
            )
            + f"; use {fit}"
        )
    return partial(LOSSES[name], exclusive=exclusive)


def mse(
    output: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """Mean squared difference of output and target, both (N, K, H, W)."""
    if valid is None:
        return F.mse_loss(output, target)
    return _mean(F.mse_loss(output, target, reduction="none"), valid)


def cross_entropy(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """Binary cross-entropy of each channel, or that of the softmax; target from 0 to 1."""
    if not exclusive and valid is None:
        return F.binary_cross_entropy_with_logits(logits, target)
    if not exclusive:
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    else:
        each = -(target * F.log_softmax(logits, dim=1)).sum(dim=1, keepdim=True)
    return _mean(each, valid)


def dice(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """1 - soft Dice of the batch (Milletari et al. 2016), mean over the foreground classes."""
    return _overlap(logits, target, valid, exclusive, false_positive=0.5, false_negative=0.5)


def with_dice(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """Sum of `cross_entropy` and `dice`, as in nnU-Net (Isensee et al. 2021)."""
    return cross_entropy(logits, target, valid, exclusive=exclusive) + dice(
        logits, target, valid, exclusive=exclusive
    )


def focal(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """Focal loss with gamma 2 and no class weight (Lin et al. 2017)."""
    if exclusive:
        logarithm = F.log_softmax(logits, dim=1)
        each = -(target * (1 - logarithm.exp()).square() * logarithm).sum(dim=1, keepdim=True)
        return _mean(each, valid)
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.sigmoid(logits)
    missed = (target - probability).abs()  # 1 - p of the true class, for hard targets
    return _mean(missed.square() * each, valid)


def tversky(
    logits: Tensor, target: Tensor, valid: Tensor | None = None, *, exclusive: bool = False
) -> Tensor:
    """1 - Tversky index, a missed pixel weighing 0.7, a false one 0.3 (Salehi et al. 2017)."""
    return _overlap(logits, target, valid, exclusive, false_positive=0.3, false_negative=0.7)


def _overlap(
    logits: Tensor,
    target: Tensor,
    valid: Tensor | None,
    exclusive: bool,
    *,
    false_positive: float,
    false_negative: float,
) -> Tensor:
    if exclusive:  # background would drown the classes, as in nnU-Net
        probability, target = torch.softmax(logits, dim=1)[:, 1:], target[:, 1:]
    else:
        probability = torch.sigmoid(logits)
    if valid is not None:
        probability, target = probability * valid, target * valid
    over = (0, 2, 3)
    both = (probability * target).sum(over)  # (K,)
    missed = target.sum(over) - both
    extra = probability.sum(over) - both
    index = (both + _SMOOTH) / (both + false_positive * extra + false_negative * missed + _SMOOTH)
    return (1 - index).mean()


def _mean(each: Tensor, valid: Tensor | None) -> Tensor:
    """Mean over the pixels that count; 0 where none does."""
    if valid is None:
        return each.mean()
    return (each * valid).sum() / (valid.sum() * each.shape[1]).clamp(min=1)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "mse": mse,
    "bce": cross_entropy,
    "ce": cross_entropy,
    "dice": dice,
    "bce+dice": with_dice,
    "ce+dice": with_dice,
    "focal": focal,
    "tversky": tversky,
}
