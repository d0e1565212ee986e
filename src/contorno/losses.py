"""Losses for binary masks, each a mean over the batch.

All but `mse` take the network's plain values (logits); `mse` takes its output as it stands, which
is what R1 trains on. Dice is summed over the whole batch before it is divided (batch Dice), so that
empty masks neither divide by zero nor count as perfect.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

_SMOOTH = 1.0  # pixels added to both sides of the Dice fraction


def mse(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of output and target, both (N, 1, H, W)."""
    return F.mse_loss(output, target)


def bce(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy; target from 0 to 1."""
    return F.binary_cross_entropy_with_logits(logits, target)


def dice(logits: Tensor, target: Tensor) -> Tensor:
    """1 - soft Dice of the batch (Milletari et al. 2016)."""
    return _overlap(logits, target, false_positive=0.5, false_negative=0.5)


def bce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """Sum of `bce` and `dice`, as in nnU-Net (Isensee et al. 2021)."""
    return bce(logits, target) + dice(logits, target)


def focal(logits: Tensor, target: Tensor) -> Tensor:
    """Focal loss with gamma 2 and no class weight (Lin et al. 2017)."""
    each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    probability = torch.sigmoid(logits)
    missed = (target - probability).abs()  # 1 - p of the true class, for hard targets
    return (missed.square() * each).mean()


def tversky(logits: Tensor, target: Tensor) -> Tensor:
    """1 - Tversky index, a missed pixel weighing 0.7, a false one 0.3 (Salehi et al. 2017)."""
    return _overlap(logits, target, false_positive=0.3, false_negative=0.7)


def _overlap(
    logits: Tensor, target: Tensor, *, false_positive: float, false_negative: float
) -> Tensor:
    probability = torch.sigmoid(logits)
    both = (probability * target).sum()
    missed = target.sum() - both
    extra = probability.sum() - both
    index = (both + _SMOOTH) / (both + false_positive * extra + false_negative * missed + _SMOOTH)
    return 1 - index


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": mse,
    "bce": bce,
    "dice": dice,
    "bce+dice": bce_dice,
    "focal": focal,
    "tversky": tversky,
}
