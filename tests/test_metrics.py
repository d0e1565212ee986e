"""Figures against MONAI, torchmetrics and slow obvious references; intervals against a loop."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy import ndimage

from contorno.boundary import Mask, boundary_f, boundary_tolerance, hd95
from contorno.metrics import (
    FIGURES,
    OVERLAPS,
    RULES,
    Counts,
    ImageScore,
    combine,
    count,
    mean_dice,
    score,
    summarise,
)

PAIRS = 1000
EMPTY = np.zeros((9, 12), dtype=bool)
FULL = np.ones((9, 12), dtype=bool)
Shape = tuple[int, int]


# --- masks of many kinds, always the same ones


def noise(random: np.random.Generator, shape: Shape) -> Mask:
    density: float = random.choice([0.01, 0.05, 0.3, 0.7])
    return random.random(shape) < density


def blob(random: np.random.Generator, shape: Shape) -> Mask:
    smooth: NDArray[np.float64] = ndimage.gaussian_filter(
        random.standard_normal(shape), random.uniform(1, 4)
    )
    return smooth > float(np.quantile(smooth, random.uniform(0.3, 0.95)))


def corner(random: np.random.Generator, shape: Shape) -> Mask:
    """A rectangle that touches two borders."""
    mask = np.zeros(shape, dtype=bool)
    mask[: random.integers(1, shape[0] + 1), : random.integers(1, shape[1] + 1)] = True
    flips = np.flatnonzero(random.random(2) < 0.5)
    return np.flip(mask, axis=tuple(flips.tolist())).copy()


def pixel(random: np.random.Generator, shape: Shape) -> Mask:
    mask = np.zeros(shape, dtype=bool)
    mask[random.integers(shape[0]), random.integers(shape[1])] = True
    return mask


def empty(random: np.random.Generator, shape: Shape) -> Mask:
    return np.zeros(shape, dtype=bool)


def full(random: np.random.Generator, shape: Shape) -> Mask:
    return np.ones(shape, dtype=bool)


KINDS: tuple[Callable[[np.random.Generator, Shape], Mask], ...] = (
    noise, blob, blob, corner, pixel, empty, full,
)  # fmt: skip


def pairs(number: int) -> Iterator[tuple[Mask, Mask]]:
    """Yield (truth, prediction): a third related to each other, the rest drawn apart."""
    random = np.random.default_rng(7)
    for i in range(number):
        height, width = random.integers(8, 41, size=2).tolist()
        truth = KINDS[random.integers(len(KINDS))](random, (height, width))
        relation = i % 6
        if relation == 0:  # nested
            yield truth, truth & blob(random, (height, width))
        elif relation == 1:  # displaced
            yield truth, np.roll(truth, random.integers(-5, 6, size=2).tolist(), axis=(0, 1))
        else:
            yield truth, KINDS[random.integers(len(KINDS))](random, (height, width))


# --- slow references


def slow_boundary(mask: Mask) -> list[tuple[int, int]]:
    height, width = mask.shape

    def inside(y: int, x: int) -> bool:
        return 0 <= y < height and 0 <= x < width and bool(mask[y, x])

    return [
        (y, x)
        for y, x in np.argwhere(mask).tolist()
        if not (inside(y - 1, x) and inside(y + 1, x) and inside(y, x - 1) and inside(y, x + 1))
    ]


def slow_distances(source: list[tuple[int, int]], target: list[tuple[int, int]]) -> list[float]:
    return [min(math.sqrt((y - v) ** 2 + (x - u) ** 2) for v, u in target) for y, x in source]


def slow_boundary_f(truth: Mask, prediction: Mask, tolerance: float) -> float:
    t, p = slow_boundary(truth), slow_boundary(prediction)
    if not t or not p:
        return float(not t and not p)
    hits_p = sum(d <= tolerance for d in slow_distances(p, t))
    hits_t = sum(d <= tolerance for d in slow_distances(t, p))
    precision, recall = Fraction(hits_p, len(p)), Fraction(hits_t, len(t))
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def slow_percentile(values: list[float], percent: int) -> float:
    """Linear interpolation between order statistics, with the rank exact."""
    ordered = sorted(values)
    rank = Fraction(percent * (len(ordered) - 1), 100)
    low = math.floor(rank)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + float(rank - low) * (ordered[high] - ordered[low])


# --- independent libraries


def batch_of_one(mask: Mask) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(mask.copy())[None, None].float()  # (1, 1, H, W)


def test_overlaps_equal_monai_wherever_monai_defines_them() -> None:
    monai = pytest.importorskip("monai.metrics")
    for truth, prediction in pairs(PAIRS):
        y, y_pred = batch_of_one(truth), batch_of_one(prediction)
        counts = count(truth, prediction)
        dice = monai.compute_dice(y_pred, y, ignore_empty=False).item()
        iou = monai.compute_iou(y_pred, y, ignore_empty=False).item()
        assert counts.dice == pytest.approx(dice, abs=1e-6)
        assert counts.iou == pytest.approx(iou, abs=1e-6)


def test_mean_dice_equals_monai_on_images_with_an_object() -> None:
    monai = pytest.importorskip("monai.metrics")
    metric = monai.DiceMetric()  # skips images whose truth is empty
    with_object = [(t, p) for t, p in pairs(300) if t.any()]
    for truth, prediction in with_object:
        metric(batch_of_one(prediction), batch_of_one(truth))
    ours = summarise([score(t, p) for t, p in with_object], resamples=1)["per_image"]["dice"]
    assert ours["mean"] == pytest.approx(metric.aggregate().item(), abs=1e-6)
    assert ours["n"] == len(with_object)


@pytest.mark.filterwarnings(  # MONAI 1.6 warns about its own argument
    "ignore:.*always_return_as_numpy.*:FutureWarning"
)
def test_hd95_equals_monai_wherever_both_masks_have_an_object() -> None:
    monai = pytest.importorskip("monai.metrics")
    compared = 0
    for truth, prediction in pairs(PAIRS):
        if not (truth.any() and prediction.any()):
            continue
        ours, y, y_pred = hd95(truth, prediction), batch_of_one(truth), batch_of_one(prediction)
        theirs = monai.compute_hausdorff_distance(
            y_pred, y, include_background=True, percentile=95
        ).item()
        # MONAI takes the percentile in float32: 0.95 * (n - 1) is off by up to 3e-5 at n = 500,
        # which moves the interpolated value by as much of a step between two distances ...
        assert ours == pytest.approx(theirs, abs=5e-5)
        # ... so its distances are also compared with the percentile taken in float64.
        _, distances, _ = monai.utils.get_edge_surface_distance(
            y_pred[0, 0], y[0, 0], symmetric=True
        )
        exact = max(d.double().quantile(0.95).item() for d in distances)
        assert ours == pytest.approx(exact, rel=1e-6, abs=1e-6)
        compared += 1
    assert compared > PAIRS / 2


def test_overlaps_equal_torchmetrics_wherever_they_are_defined() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    for truth, prediction in pairs(PAIRS):
        target, predicted = batch_of_one(truth).int(), batch_of_one(prediction).int()
        counts = count(truth, prediction)
        if truth.any() or prediction.any():
            f1 = functional.binary_f1_score(predicted, target).item()
            jaccard = functional.binary_jaccard_index(predicted, target).item()
            assert counts.dice == pytest.approx(f1, abs=1e-6)
            assert counts.iou == pytest.approx(jaccard, abs=1e-6)
        if prediction.any():
            precision = functional.binary_precision(predicted, target).item()
            assert counts.precision == pytest.approx(precision, abs=1e-6)
        if truth.any():
            recall = functional.binary_recall(predicted, target).item()
            assert counts.recall == pytest.approx(recall, abs=1e-6)


# --- several classes


def class_maps(number: int, *, classes: int = 4) -> Iterator[tuple[Any, Any]]:
    """Yield (truth, prediction) as class maps (H, W) in which classes are often missing."""
    random = np.random.default_rng(11)
    for _ in range(number):
        shape = tuple(random.integers(8, 33, size=2).tolist())
        held = random.permutation(classes)[: random.integers(1, classes + 1)]
        truth = np.zeros(shape, np.int64)
        for label in held:
            truth[blob(random, shape)] = label
        prediction = np.where(random.random(shape) < 0.7, truth, random.choice(held, shape))
        if random.random() < 0.3:  # a class that is never, or only, predicted
            prediction[prediction == held[0]] = random.integers(classes)
        yield truth, prediction


def layers(truth: Any, prediction: Any, *, classes: int = 4) -> list[tuple[Mask, Mask]]:
    return [(truth == label, prediction == label) for label in range(1, classes)]


def some(random: np.random.Generator, shape: Shape) -> Mask:
    """Where pixels are valid."""
    mask = ~blob(random, shape)
    mask[0, 0] = True
    return mask


def tensors(*maps: Any) -> list[Any]:
    torch = pytest.importorskip("torch")
    return [torch.from_numpy(one.copy())[None] for one in maps]  # (1, H, W)


def test_combined_dice_equals_torchmetrics_and_monai() -> None:
    torchmetrics = pytest.importorskip("torchmetrics.functional.segmentation")
    monai = pytest.importorskip("monai.metrics")
    missing = 0
    for truth, prediction in class_maps(300):
        pairs_ = layers(truth, prediction)
        ours = combine([score(*pair) for pair in pairs_])
        y, y_pred = tensors(truth, prediction)
        theirs = torchmetrics.dice_score(
            y_pred,
            y,
            num_classes=4,
            include_background=False,
            average="macro",
            input_format="index",
        ).item()
        assert ours.dice == pytest.approx(1.0 if math.isnan(theirs) else theirs, abs=1e-6)
        assert mean_dice(pairs_) == ours.dice
        absent = [not (t.any() or p.any()) for t, p in pairs_]
        missing += any(absent)
        if not any(absent):  # MONAI scores a class that is in neither as 1, or leaves out too much
            stacked = [np.stack(one)[None] for one in zip(*pairs_, strict=True)]
            y, y_pred = (tensor[0].float() for tensor in tensors(*stacked))
            for name, compute in (("dice", monai.compute_dice), ("iou", monai.compute_iou)):
                mean = compute(y_pred, y, ignore_empty=False).mean().item()
                assert getattr(ours, name) == pytest.approx(mean, abs=1e-6)
    assert 50 < missing < 250


def test_figures_of_each_class_equal_torchmetrics_with_ignored_pixels() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    random = np.random.default_rng(3)
    for truth, prediction in class_maps(300):
        valid = some(random, truth.shape)
        y, y_pred = tensors(np.where(valid, truth, 255), prediction)
        counts = [count(*pair, valid=valid) for pair in layers(truth, prediction)]
        for name, compute in (
            ("dice", functional.multiclass_f1_score),
            ("iou", functional.multiclass_jaccard_index),
            ("precision", functional.multiclass_precision),
            ("recall", functional.multiclass_recall),
        ):
            theirs = compute(y_pred, y, num_classes=4, average="none", ignore_index=255)
            for one, value in zip(counts, theirs[1:].tolist(), strict=True):
                figure = getattr(one, name)
                if figure is not None and not one.absent:
                    assert figure == pytest.approx(value, abs=1e-6)


def test_pooled_figures_of_overlapping_classes_equal_torchmetrics() -> None:
    functional = pytest.importorskip("torchmetrics.functional.classification")
    torch = pytest.importorskip("torch")
    images = [
        [(t, p), (np.roll(t, 3, 1), np.roll(p, 2, 0)), (t & p, t)] for t, p in pairs(60)
    ]  # three classes that overlap
    scores = [combine([score(*pair) for pair in image]) for image in images]
    flat = [
        np.concatenate([np.stack([pair[side].ravel() for pair in image], -1) for image in images])
        for side in (0, 1)
    ]  # (pixels, 3)
    target, predicted = (torch.from_numpy(one).int() for one in flat)
    pooled = summarise(scores, resamples=10)["pooled"]
    for name, compute in (
        ("dice", functional.multilabel_f1_score),
        ("iou", functional.multilabel_jaccard_index),
        ("precision", functional.multilabel_precision),
        ("recall", functional.multilabel_recall),
    ):
        theirs = compute(predicted, target, num_labels=3, average="micro").item()
        assert pooled[name]["value"] == pytest.approx(theirs, abs=1e-6)


def test_combined_figures_are_plain_means_of_what_is_there() -> None:
    for truth, prediction in class_maps(100):
        alone = [score(*pair) for pair in layers(truth, prediction)]
        there = [s for s in alone if s.counts.tp + s.counts.fp + s.counts.fn]
        combined = combine(alone)
        pixels = [combined.counts.tp, combined.counts.fp, combined.counts.fn, combined.counts.tn]
        names = ("tp", "fp", "fn", "tn")
        assert pixels == [sum(getattr(s.counts, name) for s in alone) for name in names]
        for name in FIGURES:
            values = [v for s in there or alone if (v := getattr(s, name)) is not None]
            expected = sum(values) / len(values) if values else None
            assert getattr(combined, name) == (
                None if expected is None else pytest.approx(expected)
            )


def test_one_class_is_its_own_combination(scores: list[ImageScore]) -> None:
    for one in scores:
        assert combine([one]) is one
    with pytest.raises(ValueError, match="at least one"):
        combine([])


def test_absent_classes_are_left_out_and_alone_make_two_empty_masks() -> None:
    half = FULL.copy()
    half[:, :6] = False
    absent, found, wrong = score(EMPTY, EMPTY), score(FULL, half), score(EMPTY, half)
    assert combine([absent, found]) == ImageScore(
        absent.counts + found.counts, *(getattr(found, name) for name in FIGURES)
    )
    nothing = combine([absent, absent])
    assert [getattr(nothing, name) for name in FIGURES] == [1.0, 1.0, None, None, 1.0, 0.0]
    assert nothing.counts == Counts(0, 0, 0, 2 * EMPTY.size)
    both = combine([found, wrong, absent])
    assert both.dice == pytest.approx(found.dice / 2)
    assert (both.precision, both.recall, both.hd95) == (0.5, 0.5, found.hd95)
    assert mean_dice([(EMPTY, EMPTY)] * 2) == 1.0
    assert mean_dice([(FULL, half), (EMPTY, half), (EMPTY, EMPTY)]) == both.dice


# --- ignored pixels


def test_ignored_pixels_count_nowhere() -> None:
    random = np.random.default_rng(2)
    for truth, prediction in pairs(200):
        valid = some(random, truth.shape)
        counts = count(truth, prediction, valid=valid)
        assert counts.tp == sum((truth & prediction)[valid].tolist())
        assert counts.fp == sum((~truth & prediction)[valid].tolist())
        assert counts.fn == sum((truth & ~prediction)[valid].tolist())
        assert counts.tn == sum((~truth & ~prediction)[valid].tolist())
        result = score(truth, prediction, valid=valid)
        background = score(truth & valid, prediction & valid)
        assert result.counts == counts
        for name in FIGURES:
            assert getattr(result, name) == getattr(background, name)
        anything = random.random(truth.shape) < 0.5
        other = [np.where(valid, mask, anything) for mask in (truth, prediction)]
        assert score(*other, valid=valid) == result
        assert mean_dice([(truth, prediction)], valid) == result.dice
        assert score(truth, prediction, valid=np.ones_like(valid)) == score(truth, prediction)


def test_without_any_valid_pixel_both_masks_are_empty() -> None:
    assert score(FULL, EMPTY, valid=EMPTY) == score(EMPTY[:0], EMPTY[:0])


# --- boundary figures


def test_boundary_figures_equal_a_search_over_all_pixels() -> None:
    for truth, prediction in pairs(120):
        for tolerance in (0.0, 1.0, 1.5, boundary_tolerance(600, 800)):
            expected = slow_boundary_f(truth, prediction, tolerance)
            assert boundary_f(truth, prediction, tolerance=tolerance) == pytest.approx(expected)
        if truth.any() and prediction.any():
            t, p = slow_boundary(truth), slow_boundary(prediction)
            directed = (slow_distances(t, p), slow_distances(p, t))
            expected = max(slow_percentile(d, 95) for d in directed)
            assert hd95(truth, prediction) == pytest.approx(expected, rel=1e-12)


def test_squares_with_distances_known_by_hand() -> None:
    truth, prediction = np.zeros((2, 64, 64), dtype=bool)
    truth[10:30, 10:30] = True
    prediction[10:30, 13:33] = True  # the same square, 3 px to the right
    assert hd95(truth, prediction) == 3.0
    assert boundary_f(truth, prediction, tolerance=3.0) == 1.0
    assert boundary_f(truth, prediction, tolerance=2.9) < 1.0


def test_the_edge_of_the_image_is_a_boundary() -> None:
    hole = FULL.copy()
    hole[4, 6] = False
    ring = 2 * (9 + 12) - 4
    # All of the ring matches; the four pixels around the hole are 3 px or more from the ring.
    assert boundary_f(FULL, hole, tolerance=1.0) == pytest.approx(2 * ring / (2 * ring + 4))


def test_tolerance_is_a_share_of_the_diagonal_and_at_least_one_pixel() -> None:
    assert boundary_tolerance(3000, 4000) == 37.5
    assert boundary_tolerance(512, 512) == pytest.approx(5.4305, abs=1e-4)
    assert boundary_tolerance(1, 100) == 1.0


def test_score_holds_what_the_single_functions_return() -> None:
    for truth, prediction in pairs(60):
        counts = count(truth, prediction)
        tolerance = boundary_tolerance(*truth.shape)
        assert score(truth, prediction) == ImageScore(
            counts,
            counts.dice,
            counts.iou,
            counts.precision,
            counts.recall,
            boundary_f(truth, prediction, tolerance=tolerance),
            hd95(truth, prediction),
        )


# --- empty masks


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (EMPTY, EMPTY, (1.0, 1.0, None, None, 1.0, 0.0)),
        (EMPTY, FULL, (0.0, 0.0, 0.0, None, 0.0, None)),
        (FULL, EMPTY, (0.0, 0.0, None, 0.0, 0.0, None)),
        (FULL, FULL, (1.0, 1.0, 1.0, 1.0, 1.0, 0.0)),
        (EMPTY[:0], EMPTY[:0], (1.0, 1.0, None, None, 1.0, 0.0)),
    ],
    ids=["both empty", "truth empty", "prediction empty", "both full", "no pixels"],
)
def test_empty_and_full_masks(
    truth: Mask, prediction: Mask, expected: tuple[float | None, ...]
) -> None:
    result = score(truth, prediction)
    assert tuple(getattr(result, name) for name in FIGURES) == expected


# --- what cannot be scored


@pytest.mark.parametrize("function", [count, score, hd95])
def test_shapes_that_differ_are_both_named(function: Callable[[Mask, Mask], object]) -> None:
    with pytest.raises(ValueError, match=r"\(9, 12\).*\(12, 9\)"):
        function(FULL, FULL.T)


def test_a_mask_of_valid_pixels_must_fit_too() -> None:
    with pytest.raises(
        ValueError, match=r"truth has shape \(9, 12\) but valid has shape \(12, 9\)"
    ):
        count(FULL, FULL, valid=FULL.T)
    with pytest.raises(ValueError, match="valid is uint8"):
        score(FULL, FULL, valid=FULL.astype(np.uint8))


@pytest.mark.parametrize("bad", [FULL.astype(np.uint8), FULL[None]])
def test_masks_that_are_not_boolean_planes_are_refused(bad: NDArray[Any]) -> None:
    with pytest.raises(ValueError, match=r"must be bool of shape \(H, W\)"):
        count(bad, bad)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan])
def test_a_tolerance_below_zero_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="tolerance"):
        boundary_f(FULL, FULL, tolerance=tolerance)


# --- properties


@st.composite
def mask_pairs(draw: st.DrawFn) -> tuple[Mask, Mask]:
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    return draw(arrays(bool, shape)), draw(arrays(bool, shape))


many = settings(max_examples=200, deadline=None, derandomize=True)


@many
@given(mask_pairs())
def test_swapping_truth_and_prediction_swaps_precision_and_recall(pair: tuple[Mask, Mask]) -> None:
    one, two = score(*pair), score(*pair[::-1])
    assert (one.dice, one.iou, one.boundary_f, one.hd95) == (
        two.dice, two.iou, two.boundary_f, two.hd95,
    )  # fmt: skip
    assert (one.precision, one.recall) == (two.recall, two.precision)


@many
@given(mask_pairs())
def test_a_mask_scores_perfectly_against_itself(pair: tuple[Mask, Mask]) -> None:
    mask = pair[0]
    result = score(mask, mask)
    assert (result.dice, result.iou, result.boundary_f, result.hd95) == (1.0, 1.0, 1.0, 0.0)


@many
@given(mask_pairs())
def test_counts_sum_to_the_pixels_and_add_up_over_parts(pair: tuple[Mask, Mask]) -> None:
    truth, prediction = pair
    whole = count(truth, prediction)
    assert whole.tp + whole.fp + whole.fn + whole.tn == truth.size
    middle = truth.shape[0] // 2
    assert whole == count(truth[:middle], prediction[:middle]) + count(
        truth[middle:], prediction[middle:]
    )


@many
@given(mask_pairs())
def test_mirroring_or_padding_an_image_changes_no_figure(pair: tuple[Mask, Mask]) -> None:
    tolerance = 2.0

    def figures(truth: Mask, prediction: Mask) -> tuple[float | None, ...]:
        counts = count(truth, prediction)
        return (
            *(getattr(counts, name) for name in OVERLAPS),
            boundary_f(truth, prediction, tolerance=tolerance),
            hd95(truth, prediction),
        )

    expected = figures(*pair)
    assert figures(*(mask[::-1] for mask in pair)) == expected
    assert figures(*(mask[:, ::-1] for mask in pair)) == expected
    assert figures(*(mask.T for mask in pair)) == expected
    assert figures(*(np.pad(mask, ((1, 4), (3, 2))) for mask in pair)) == expected


# --- averages and intervals


@pytest.fixture(scope="module")
def scores() -> list[ImageScore]:
    return [score(t, p) for t, p in pairs(40)]


def slow_summary(scores: list[ImageScore], *, seed: int, resamples: int) -> dict[str, Any]:
    """Draw the images one by one and compute every figure of every draw anew."""
    random = np.random.default_rng(seed)
    n = len(scores)
    draws = [[scores[i] for i in random.integers(n, size=n)] for _ in range(resamples)]

    def mean(images: list[ImageScore], name: str) -> float | None:
        values = [v for s in images if (v := getattr(s, name)) is not None]
        return sum(values) / len(values) if values else None

    def pooled(images: list[ImageScore], name: str) -> float | None:
        tp, fp, fn = (sum(getattr(s.counts, k) for s in images) for k in ("tp", "fp", "fn"))
        above, below = {
            "dice": (2 * tp, 2 * tp + fp + fn),
            "iou": (tp, tp + fp + fn),
            "precision": (tp, tp + fp),
            "recall": (tp, tp + fn),
        }[name]
        return above / below if below else {"dice": 1.0, "iou": 1.0}.get(name)

    def ends(figure: Callable[[list[ImageScore], str], float | None], name: str) -> list[float]:
        values = [v for draw in draws if (v := figure(draw, name)) is not None]
        return [float(np.percentile(values, q)) for q in (2.5, 97.5)]

    return {
        "per_image": {
            name: [mean(scores, name), *ends(mean, name), sum(
                getattr(s, name) is not None for s in scores
            )]
            for name in FIGURES
        },
        "pooled": {name: [pooled(scores, name), *ends(pooled, name)] for name in OVERLAPS},
    }  # fmt: skip


@pytest.mark.parametrize("chosen", [slice(None), slice(0, 3)], ids=["40 images", "3 images"])
def test_summary_equals_a_plain_loop(scores: list[ImageScore], chosen: slice) -> None:
    ours = summarise(scores[chosen], seed=3, resamples=200)
    slow = slow_summary(scores[chosen], seed=3, resamples=200)
    for part in ("per_image", "pooled"):
        assert ours[part].keys() == slow[part].keys()
        for name, expected in slow[part].items():
            assert list(ours[part][name].values()) == pytest.approx(expected, abs=1e-12)


def test_summary_has_the_names_that_a_results_file_has(scores: list[ImageScore]) -> None:
    summary = json.loads(json.dumps(summarise(scores, resamples=20), allow_nan=False))
    assert list(summary) == ["per_image", "pooled", "empty"]
    assert all(list(v) == ["mean", "low", "high", "n"] for v in summary["per_image"].values())
    assert all(list(v) == ["value", "low", "high"] for v in summary["pooled"].values())
    assert list(summary["empty"]) == ["images", "with_false_positives", "false_positive_rate"]


def test_mean_dice_comes_from_integer_counts_in_any_order(scores: list[ImageScore]) -> None:
    exact = [
        Fraction(2 * c.tp, 2 * c.tp + c.fp + c.fn) if c.tp + c.fp + c.fn else Fraction(1)
        for c in (s.counts for s in scores)
    ]
    mean = summarise(scores, resamples=1)["per_image"]["dice"]["mean"]
    assert mean == pytest.approx(float(sum(exact) / len(exact)), abs=1e-15)
    random = np.random.default_rng(0)
    for _ in range(20):
        shuffled = [scores[i] for i in random.permutation(len(scores))]
        other = summarise(shuffled, resamples=1)
        assert other["per_image"]["dice"]["mean"] == mean  # to the bit


def test_groups_are_drawn_in_place_of_images(scores: list[ImageScore]) -> None:
    """Pictures of one patient that are all alike are no more evidence than one of them."""
    alone = scores[:12]
    doubled = [one for one in alone for _ in range(3)]
    groups = [f"patient{place}" for place in range(len(alone)) for _ in range(3)]
    grouped = summarise(doubled, groups=groups, seed=3, resamples=200)
    one_each = summarise(alone, seed=3, resamples=200)
    for part in ("per_image", "pooled"):
        for name, figure in one_each[part].items():
            limits = [grouped[part][name][key] for key in ("low", "high")]
            assert limits == pytest.approx([figure["low"], figure["high"]], abs=1e-12)
    narrow = summarise(doubled, seed=3, resamples=200)["per_image"]["dice"]
    wide = grouped["per_image"]["dice"]
    assert narrow["high"] - narrow["low"] < wide["high"] - wide["low"]
    assert narrow["mean"] == wide["mean"]
    assert summarise([], groups=[])["pooled"] == summarise([])["pooled"]


def test_intervals_follow_the_seed(scores: list[ImageScore]) -> None:
    assert summarise(scores, seed=1) == summarise(scores, seed=1)
    one, two = (summarise(scores, seed=s)["per_image"]["dice"] for s in (1, 2))
    assert one["mean"] == two["mean"]
    assert (one["low"], one["high"]) != (two["low"], two["high"])


def test_interval_of_a_mean_is_the_one_of_the_normal_law_for_many_images() -> None:
    random = np.random.default_rng(5)
    many_scores = [
        ImageScore(Counts(tp, 100 - tp, 0, 0), 0.0, 0.0, tp / 100, 1.0, 0.0, None)
        for tp in random.integers(20, 101, size=400).tolist()
    ]
    values = np.array([s.precision for s in many_scores])
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    got = summarise(many_scores)["per_image"]["precision"]
    assert got["low"] == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert got["high"] == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_undefined_values_are_left_out_and_counted() -> None:
    summary = summarise([score(EMPTY, FULL), score(FULL, EMPTY), score(EMPTY, EMPTY)])
    per_image = summary["per_image"]
    assert per_image["dice"]["n"] == 3
    assert per_image["dice"]["mean"] == pytest.approx(1 / 3)
    assert per_image["precision"] == {"mean": 0.0, "low": None, "high": None, "n": 1}
    assert per_image["recall"]["n"] == 1
    assert per_image["hd95"] == {"mean": 0.0, "low": None, "high": None, "n": 1}
    assert summary["pooled"]["dice"]["value"] == 0.0
    assert summary["empty"] == {
        "images": 2, "with_false_positives": 1, "false_positive_rate": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(("scores", "groups"), [(1, None), (3, ["a"] * 3)])
def test_one_image_or_group_has_no_interval(scores: int, groups: list[str] | None) -> None:
    summary = summarise([score(FULL, FULL)] * scores, groups=groups, resamples=10)
    nothing = {"low": None, "high": None}
    assert summary["per_image"]["dice"] == {"mean": 1.0, "n": scores} | nothing
    assert summary["pooled"]["dice"] == {"value": 1.0} | nothing


def test_images_that_define_nothing_give_none() -> None:
    summary = summarise([score(EMPTY, EMPTY)] * 2, resamples=10)
    nothing = {"mean": None, "low": None, "high": None, "n": 0}
    assert summary["per_image"]["precision"] == summary["per_image"]["recall"] == nothing
    assert summary["pooled"]["recall"] == {"value": None, "low": None, "high": None}
    assert summary["pooled"]["dice"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert summarise([score(FULL, FULL)])["empty"]["false_positive_rate"] is None


def test_no_images_is_no_perfect_score() -> None:
    summary = summarise([])
    assert all(v["mean"] is None and v["n"] == 0 for v in summary["per_image"].values())
    assert all(v["value"] is None for v in summary["pooled"].values())
    assert summary["empty"]["images"] == 0


def test_at_least_one_draw_is_needed() -> None:
    with pytest.raises(ValueError, match=r"resamples \(0\)"):
        summarise([], resamples=0)


def test_rules_are_told_for_every_choice() -> None:
    expected = {"empty", "boundary_f", "hd95", "classes", "ignored", "intervals", "averages"}
    assert set(RULES) == expected
    assert "0.75%" in RULES["boundary_f"]
    assert f"{100 * boundary_tolerance(30_000, 40_000) / 50_000:.2f}%" == "0.75%"
