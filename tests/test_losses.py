"""Each loss against a slow and obvious formula; finite at any logit."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from contorno.config import Loss
from contorno.errors import ConfigError
from contorno.losses import LOSSES, loss_function, targets

Pixels = list[tuple[float, float]]  # (output, target)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def log1p_exp(x: float) -> float:
    return max(x, 0) + math.log1p(math.exp(-abs(x)))


def entropy(x: float, t: float) -> float:
    """-t log p - (1 - t) log (1 - p) for p = sigmoid(x)."""
    return t * log1p_exp(-x) + (1 - t) * log1p_exp(x)


def mse(pixels: Pixels) -> float:
    return sum((x - t) ** 2 for x, t in pixels) / len(pixels)


def bce(pixels: Pixels) -> float:
    return sum(entropy(x, t) for x, t in pixels) / len(pixels)


def dice(pixels: Pixels) -> float:
    both = sum(sigmoid(x) * t for x, t in pixels)
    sizes = sum(sigmoid(x) for x, _ in pixels) + sum(t for _, t in pixels)
    return 1 - (2 * both + 2) / (sizes + 2)


def focal(pixels: Pixels) -> float:
    return sum((t - sigmoid(x)) ** 2 * entropy(x, t) for x, t in pixels) / len(pixels)


def tversky(pixels: Pixels) -> float:
    both = sum(sigmoid(x) * t for x, t in pixels)
    missed = sum((1 - sigmoid(x)) * t for x, t in pixels)
    extra = sum(sigmoid(x) * (1 - t) for x, t in pixels)
    return 1 - (both + 1) / (both + 0.7 * missed + 0.3 * extra + 1)


SLOW: dict[str, Callable[[Pixels], float]] = {
    "mse": mse,
    "bce": bce,
    "ce": bce,  # of one channel; of several, see below
    "dice": dice,
    "bce+dice": lambda p: bce(p) + dice(p),
    "ce+dice": lambda p: bce(p) + dice(p),
    "focal": focal,
    "tversky": tversky,
}
every_loss = pytest.mark.parametrize("name", list(LOSSES))


def sample(seed: int, *, scale: float = 3, soft: bool = False) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    logits = random.normal(0, scale, (3, 1, 5, 7))
    target = random.random((3, 1, 5, 7))
    target = target if soft else np.round(target)
    return torch.from_numpy(logits).float(), torch.from_numpy(target).float()


def pixels(logits: Tensor, target: Tensor) -> Pixels:
    return list(
        zip(logits.double().ravel().tolist(), target.double().ravel().tolist(), strict=True)
    )


def test_the_names_are_those_of_the_config() -> None:
    assert set(LOSSES) == set(get_args(Loss)) == set(SLOW)


@every_loss
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_the_slow_formula(name: str, seed: int, soft: bool) -> None:
    logits, target = sample(seed, soft=soft)
    expected = SLOW[name](pixels(logits, target))
    assert float(LOSSES[name](logits, target)) == pytest.approx(expected, rel=1e-5)


@every_loss
@pytest.mark.parametrize("value", [-1e4, -100.0, 0.0, 100.0, 1e4])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_extreme_logits_have_finite_losses_and_gradients(
    name: str, value: float, label: float
) -> None:
    logits = torch.full((2, 1, 4, 4), value, requires_grad=True)
    loss = LOSSES[name](logits, torch.full((2, 1, 4, 4), label))
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    expected = SLOW[name]([(value, label)] * 32)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-6)


@every_loss
def test_right_is_better_than_unsure_is_better_than_wrong(name: str) -> None:
    _, target = sample(3)
    plain = name == "mse"
    right = target if plain else (target - 0.5) * 20
    unsure = torch.full_like(target, 0.5 if plain else 0.0)
    wrong = 1 - target if plain else -right
    losses = [float(LOSSES[name](output, target)) for output in (right, unsure, wrong)]
    assert losses == sorted(losses)
    assert losses[0] < 1e-2 < losses[1]


@pytest.mark.parametrize("name", ["dice", "tversky"])
@pytest.mark.parametrize("seed", range(5))
def test_overlaps_lie_from_0_to_1(name: str, seed: int) -> None:
    assert 0 <= float(LOSSES[name](*sample(seed, scale=10))) <= 1
    empty = torch.zeros(2, 1, 64, 64)
    assert float(LOSSES[name](empty - 50, empty)) == pytest.approx(0, abs=1e-6)
    assert float(LOSSES[name](empty + 50, empty)) > 0.99
    assert float(LOSSES[name](empty - 50, empty + 1)) > 0.99


def test_a_missed_pixel_costs_more_than_a_false_one_in_tversky() -> None:
    target = torch.zeros(1, 1, 10, 10)
    target[..., :5, :] = 1
    exact = (target - 0.5) * 40
    missed, extra = exact.clone(), exact.clone()
    missed[..., 0, :] = -20
    extra[..., 9, :] = 20
    tversky_loss, dice_loss = LOSSES["tversky"], LOSSES["dice"]
    assert tversky_loss(missed, target) > 1.5 * tversky_loss(extra, target)
    assert dice_loss(missed, target) == pytest.approx(float(dice_loss(extra, target)), rel=0.3)


@every_loss
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    logits, target = sample(4, scale=1, soft=True)
    logits = logits.double()[:1, :, :2, :3].requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: LOSSES[name](x, target.double()[:1, :, :2, :3]), logits
    )


# Several classes


def classes(seed: int, count: int = 3) -> tuple[Tensor, Tensor]:
    """Logits (2, K, 4, 6) and the class of every pixel (2, 1, 4, 6)."""
    random = np.random.default_rng(seed)
    logits = torch.from_numpy(random.normal(0, 2, (2, count, 4, 6))).double()
    return logits, torch.from_numpy(random.integers(0, count, (2, 1, 4, 6))).double()


def test_targets_of_class_indices_and_of_ignored_pixels() -> None:
    masks = torch.tensor([0.0, 1.0, 2.0, 255.0]).view(1, 1, 2, 2)
    target, valid = targets(masks, 3, ignore=True)
    assert target[0, :, 0, 0].tolist() == [1, 0, 0]
    assert target[0, :, 1, 0].tolist() == [0, 0, 1]
    assert valid is not None
    assert valid.flatten().tolist() == [1, 1, 1, 0]
    two, valid = targets(masks.clamp(max=1), 1)
    assert torch.equal(two, masks.clamp(max=1))
    assert valid is None
    soft, valid = targets(torch.tensor([0.25, 255.0]).view(1, 1, 1, 2), 1, ignore=True)
    assert soft.flatten().tolist() == [0.25, 0]


def test_targets_of_overlapping_classes() -> None:
    masks = torch.tensor([0.0, 1.0, 2.0, 5.0]).view(1, 1, 1, 4)
    target, valid = targets(masks, 3, multilabel=True)
    assert target[0, :, 0].tolist() == [[0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1]]
    assert valid is None


@pytest.mark.parametrize("seed", range(3))
def test_cross_entropy_of_classes_is_pytorchs(seed: int) -> None:
    logits, masks = classes(seed)
    target, _ = targets(masks, 3)
    mine = loss_function("ce", exclusive=True)(logits, target.double(), None)
    assert float(mine) == pytest.approx(float(F.cross_entropy(logits, masks[:, 0].long())))
    masks[0, 0, :2] = 255
    target, valid = targets(masks, 3, ignore=True)
    mine = loss_function("ce", exclusive=True)(logits, target.double(), valid)
    theirs = F.cross_entropy(logits, masks[:, 0].long(), ignore_index=255)
    assert float(mine) == pytest.approx(float(theirs))


def test_dice_of_classes_leaves_background_out() -> None:
    logits, masks = classes(5)
    target, _ = targets(masks, 3)
    chances = torch.softmax(logits, 1)
    slow = []
    for k in (1, 2):
        both = float((chances[:, k] * target[:, k]).sum())
        slow.append(1 - (2 * both + 2) / (float(chances[:, k].sum() + target[:, k].sum()) + 2))
    mine = loss_function("dice", exclusive=True)(logits, target.double(), None)
    assert float(mine) == pytest.approx(sum(slow) / 2)


@every_loss
@pytest.mark.parametrize("exclusive", [False, True])
def test_ignored_pixels_are_as_if_they_were_not_there(name: str, exclusive: bool) -> None:
    if name in (("bce", "bce+dice") if exclusive else ("ce", "ce+dice")):
        pytest.skip("of the other kind of classes")
    logits, masks = classes(8)
    kept = masks[..., :4]
    masks[..., 4:] = 255
    if not exclusive:  # one foreground class
        logits, kept = logits[:, 1:2], kept.clamp(max=1)
        masks[..., :4] = kept
    loss = loss_function(name, exclusive=exclusive)
    target, valid = targets(masks, logits.shape[1], ignore=True)
    alone, _ = targets(kept, logits.shape[1])
    expected = loss(logits[..., :4], alone.double(), None)
    assert float(loss(logits, target.double(), valid)) == pytest.approx(float(expected))


@pytest.mark.parametrize("name", ["mse", "ce", "dice", "ce+dice", "focal", "tversky"])
def test_what_is_ignored_has_no_gradient(name: str) -> None:
    logits, masks = classes(7)
    masks[0, 0, :2] = 255
    logits.requires_grad_()
    target, valid = targets(masks, 3, ignore=True)
    loss_function(name, exclusive=True)(logits, target.double(), valid).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert logits.grad[1].any()
    everything = targets(torch.full_like(masks, 255), 3, ignore=True)
    assert loss_function(name, exclusive=True)(logits.detach(), *everything).isfinite()


@pytest.mark.parametrize(
    ("name", "exclusive", "fit"),
    [
        ("bce", True, "whose classes exclude each other; use ce"),
        ("ce+dice", False, r"use bce\+dice"),
        ("ce", False, "of one class or overlapping ones; use bce"),
    ],
)
def test_a_loss_that_does_not_fit_names_the_one_that_does(
    name: str, exclusive: bool, fit: str
) -> None:
    with pytest.raises(ConfigError, match=fit):
        loss_function(name, exclusive=exclusive)
