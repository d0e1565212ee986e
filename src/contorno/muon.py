"""Muon (Jordan et al. 2024): steps of convolutions whose directions all count alike; else AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_MOMENTUM = 0.95
_FASTER = 20.0  # times AdamW's learning rate
_ITERATIONS = 3  # of Newton-Schulz where Jordan has 5: as good in a shorter step, see docs/LOG.md
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values go to about 1, small ones quickly
_ROWS = 128  # of a matrix at once: arithmetic grows with their square


class Muon(torch.optim.AdamW):
    """Momentum for the weights of convolutions, its singular values brought to about 1; else AdamW.

    The weight of a convolution, which has 4 axes, is a matrix with a row for each place of its
    first axis. Biases and normalisation are left to AdamW.

    Args:
        module: whose parameters are trained.
        lr: of AdamW; convolutions take steps of 20 times that, in units of the spectral norm.
        weight_decay: of AdamW; convolutions take the same, times their own step.
        dtype: in which matrices are multiplied: bfloat16 where the hardware has it.
    """

    def __init__(
        self, module: nn.Module, *, lr: float, weight_decay: float, dtype: torch.dtype
    ) -> None:
        self.dtype = dtype
        groups: list[dict[str, Any]] = [
            {"params": [p for p in module.parameters() if p.ndim != 4]},
            {"params": [p for p in module.parameters() if p.ndim == 4]},
        ]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient are skipped."""
        others, convolutions = self.param_groups
        for weight in convolutions["params"]:
            if weight.grad is not None:
                rate = convolutions["lr"] * _FASTER
                self._turn(weight, weight.grad, rate, convolutions["weight_decay"])
        self.param_groups = [others]
        try:
            super().step()
        finally:
            self.param_groups = [others, convolutions]

    def _turn(self, weight: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        """Decay, then a step along the momentum, looking ahead as Nesterov does."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"].lerp_(gradient, 1 - _MOMENTUM)
        ahead = gradient.lerp(momentum, _MOMENTUM).permute(0, 2, 3, 1)  # as it lies in memory
        matrix = ahead.flatten(1)
        blocks = torch.split(matrix.to(self.dtype), _ROWS)
        step = torch.cat([orthogonal(block) for block in blocks]).to(weight.dtype)
        rows, columns = matrix.shape
        scale = max(1.0, rows / columns) ** 0.5
        weight.mul_(1 - lr * decay)
        weight.add_(step.view(ahead.shape).permute(0, 3, 1, 2), alpha=-lr * scale)


def orthogonal(matrix: Tensor) -> Tensor:
    """The matrix with singular values of about 1 (0.6 to 1.3), by Newton-Schulz iterations.

    Those below a fiftieth of all together are only made larger.
    """
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    a, b, c = _QUINTIC
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T
