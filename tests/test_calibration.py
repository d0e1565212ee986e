"""Calibration: by hand, against torchmetrics, and in the results of an evaluation."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contorno.calibration import BINS, STEPS, Reliability, reach, relevant, reliability


def test_counts_and_error_by_hand() -> None:
    values = np.array([0.0, 0.02, 0.5, 0.5, 0.52, 1.0, 1.0], np.float32)
    truth = np.array([False, True, True, False, True, True, False])
    found = reliability(values, truth)
    steps = [0, 1311, 32768, 32768, 34078, 65535, 65535]
    assert found.pixels == (2, *[0] * 5, 0, 3, *[0] * 6, 2)
    assert found.positives == (1, *[0] * 6, 2, *[0] * 6, 1)
    assert found.steps == (sum(steps[:2]), *[0] * 6, sum(steps[2:5]), *[0] * 6, sum(steps[5:]))
    apart = abs(1311 - 65535) + abs(sum(steps[2:5]) - 2 * 65535) + abs(2 * 65535 - 65535)
    assert found.ece == pytest.approx(apart / 65535 / 7)
    assert found.as_dict()["pixels"] == list(found.pixels)


def test_bins_end_where_they_should() -> None:
    """A bin holds its lower end: the 15 ends are whole steps, so that nothing is rounded there."""
    for place in range(BINS):
        lowest = np.array([place * 4369 / STEPS])
        assert reliability(lowest, np.array([True])).pixels[place] == 1
        assert reliability(lowest + 1 / STEPS, np.array([True])).pixels[place] == 1
    assert BINS * 4369 == STEPS


def test_the_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import binary_calibration_error

    for seed in range(5):
        rng = np.random.default_rng(seed)
        steps = rng.integers(1, STEPS, 3000)
        steps[steps % 4369 == 0] += 1  # at an end of a bin torchmetrics may round either way
        values = steps / STEPS
        truth = rng.random(3000) < values ** (1 + seed / 2)
        theirs = binary_calibration_error(
            torch.from_numpy(values), torch.from_numpy(truth.astype(int)), n_bins=BINS, norm="l1"
        )
        assert reliability(values, truth).ece == pytest.approx(float(theirs), abs=1e-6)


def test_counts_of_parts_sum_to_those_of_the_whole() -> None:
    rng = np.random.default_rng(0)
    values, truth = rng.random(500), rng.random(500) < 0.5
    parts = [reliability(values[i::3], truth[i::3]) for i in range(3)]
    assert sum(parts, Reliability()) == reliability(values, truth)
    assert Reliability().ece is None


def test_pixels_that_count_are_near_truth_or_prediction() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.random((2, 60, 90)) < 0.0006
    assert truth.any()
    assert predicted.any()
    near = reach(60, 90)
    assert near == 3
    assert reach(512, 512) == 14
    expected = np.zeros((60, 90), bool)
    for y, x in zip(*np.nonzero(truth | predicted), strict=True):
        expected[max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1] = True
    assert 0 < expected.mean() < 1
    assert np.array_equal(relevant(truth, predicted), expected)
    valid = rng.random((60, 90)) < 0.5
    assert np.array_equal(relevant(truth, predicted, valid), expected & valid)
    assert not relevant(np.zeros((9, 9), bool), np.zeros((9, 9), bool)).any()
