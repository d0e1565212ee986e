"""Muon (Jordan et al. 2024): steps of convolutions whose directions all count alike; else AdamW."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
    first axis: an output, or where it is transposed, an input. Biases and normalisation are left to
    AdamW.

    Args:
        module: whose parameters are trained.
        lr: of AdamW; convolutions take steps of 20 times that, which is the spectral norm of each
            128 rows of a step.
        weight_decay: of AdamW; convolutions take the same, times their own step.
    """

    def __init__(self, module: nn.Module, *, lr: float, weight_decay: float) -> None:
        groups: list[dict[str, Any]] = [
            {"params": [p for p in module.parameters() if p.ndim != 4]},
            {"params": [p for p in module.parameters() if p.ndim == 4]},
        ]
        super().__init__(groups, lr=lr, weight_decay=weight_decay, fused=True)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One update; parameters without a gradient are skipped."""
        others, convolutions = self.param_groups
        self._turn(convolutions["lr"] * _FASTER, convolutions["weight_decay"])
        self.param_groups = [others]
        try:
            super().step()
        finally:
            self.param_groups = [others, convolutions]

    def _turn(self, lr: float, decay: float) -> None:
        """Convolutions decay and step along their momentum."""
        weights = [w for w in self.param_groups[1]["params"] if w.grad is not None]
        matrices = [_matrix(weight) for weight in weights]
        blocks = [block for matrix in matrices for block in torch.split(matrix, _ROWS)]
        shapes = [matrix.shape for matrix in matrices for _ in range(0, len(matrix), _ROWS)]
        ahead = [_matrix(self._moved(weight)) for weight in weights]
        steps = [step for matrix in ahead for step in torch.split(matrix, _ROWS)]
        turns = orthogonalising(steps)
        for block, (rows, columns), turn, step in zip(blocks, shapes, turns, steps, strict=True):
            scale = max(1.0, rows / columns) ** 0.5
            block.addmm_(turn, step, beta=1 - lr * decay, alpha=-lr * scale)

    def _moved(self, weight: Tensor) -> Tensor:
        """Move the momentum by the gradient; what Nesterov steps along, in memory as the weight."""
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        gradient = torch.empty_like(weight).copy_(weight.grad)  # type: ignore[arg-type]
        return gradient.lerp_(state["momentum"].lerp_(gradient, 1 - _MOMENTUM), _MOMENTUM)


def _matrix(weight: Tensor) -> Tensor:
    """A view of a weight (m, a, b, c) as a matrix (m, a * b * c), columns in memory's order."""
    return (weight if weight.is_contiguous() else weight.permute(0, 2, 3, 1)).view(len(weight), -1)


def orthogonalising(matrices: Sequence[Tensor]) -> list[Tensor]:
    """What brings matrices' singular values to about 1 (0.7 to 1.2) when they are multiplied by it.

    Of matrices (m, n), each of its own size, it is (m, m): `found @ matrix` is the result. By
    Newton-Schulz iterations; singular values below a thirtieth of all together are only made
    larger. The iterations are polynomials of the matrix times its transpose, which is smaller: it
    alone is iterated, all of a size at once.
    """
    of_size = defaultdict[int, list[int]](list)
    for index, matrix in enumerate(matrices):
        of_size[len(matrix)].append(index)
    results: dict[int, Tensor] = {}
    for indices in of_size.values():
        grams = torch.stack([matrices[index] @ matrices[index].T for index in indices])
        square = grams.diagonal(dim1=1, dim2=2).sum(1).clamp(min=1e-30)[:, None, None]
        results |= zip(indices, _polynomial(grams / square) / square.sqrt(), strict=True)
    return [results[index] for index in range(len(matrices))]


def _polynomial(grams: Tensor) -> Tensor:
    """What the iterations multiply matrices by, from them times their transposes, (N, m, m)."""
    a, b, c = _QUINTIC
    identity = a * torch.eye(grams.shape[-1], device=grams.device)
    total = None
    for left in reversed(range(_ITERATIONS)):
        one = torch.baddbmm(b * grams + identity, grams, grams, alpha=c)
        total = one if total is None else one @ total
        grams = one @ grams @ one if left else grams
    assert total is not None
    return total
