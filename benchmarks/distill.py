"""For ablation.py: a network that learns from the masks and from the models of folds."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from contorno.models import Segmenter
from contorno.models.blocks import activate
from contorno.trainer import Trainer

MASKS = 0.5  # of a target; the rest is the teachers'


class Student(Trainer):
    """Targets lie between the masks and what the teachers see in the same crops, changed alike."""

    seen: Tensor | None = None  # by the teachers in the batch at hand, (N, K, h, w)

    def __init__(self, *of_a_trainer: Any) -> None:
        super().__init__(*of_a_trainer)
        self.teachers: list[Segmenter] = []

    def gradients(self, images: Tensor, masks: Tensor) -> float:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.hardware.bf16):
            found = [
                activate(teacher.eval().network(images), teacher.output).float()
                for teacher in self.teachers
            ]
        self.seen = torch.stack(found).mean(0)
        loss = super().gradients(images, masks)
        self.seen = None
        return loss

    def targets(self, masks: Tensor) -> tuple[Tensor, Tensor | None]:
        target, valid = super().targets(masks)
        if self.seen is None:  # of validation
            return target, valid
        return MASKS * target + (1 - MASKS) * self.seen, valid
