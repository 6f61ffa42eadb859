"""What scores say: confusion, accuracy by class, calibration and the surest mistakes."""

import numpy as np
import pytest
import torch

from contramask.transfer.judgement import BINS, Judgement


def judged(probability: list[list[float]], truth: list[int]) -> Judgement:
    """Scores whose softmax is `probability`."""
    return Judgement(torch.tensor(probability).clamp_min(1e-9).log(), torch.tensor(truth))


def test_confusion_counts_truth_by_prediction() -> None:
    found = judged([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1, 1])
    assert found.confusion().tolist() == [[1, 1, 0], [0, 1, 1], [0, 0, 0]]


def test_recall_and_precision_by_class() -> None:
    found = judged([[1, 0, 0], [0, 1, 0], [0, 1, 0], [0, 0, 1]], [0, 0, 1, 1])
    table = found.per_class(["cat", "dog"])
    assert table["class"].tolist() == ["cat", "dog", "class 2"]
    assert table["images"].tolist() == [2, 2, 0]
    assert table["recall"].tolist()[:2] == [50.0, 50.0]
    assert np.isnan(table["recall"][2])  # no image, so neither right nor wrong
    assert table["precision"].tolist() == [100.0, 50.0, 0.0]


def test_calibration_error_is_the_gap_weighted_by_images() -> None:
    # Two images at 0.9 with one right, two at 0.6 with both right.
    found = judged([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]], [0, 1, 0, 0])
    bins = found.calibration()
    assert bins["bin"].tolist() == [int(0.6 * BINS), int(0.9 * BINS)]
    assert bins["confidence"].tolist() == pytest.approx([60, 90], abs=1e-4)
    assert bins["accuracy"].tolist() == [100, 50]
    assert found.calibration_error() == pytest.approx((40 + 40) / 2, abs=1e-4)


def test_a_calibrated_classifier_has_no_error() -> None:
    sure = judged([[1.0, 0.0], [0.0, 1.0]], [0, 1])
    assert sure.calibration_error() == pytest.approx(0, abs=1e-6)
    guesses = judged([[0.75, 0.25]] * 4, [0, 0, 0, 1])
    assert guesses.calibration_error() == pytest.approx(0, abs=1e-4)


def test_the_surest_mistakes_come_first() -> None:
    found = judged([[0.6, 0.4], [0.1, 0.9], [0.9, 0.1], [0.2, 0.8]], [1, 1, 1, 0])
    worst = found.worst(2)
    assert worst["row"].tolist() == [2, 3]
    assert worst["truth"].tolist() == [1, 0]
    assert worst["predicted"].tolist() == [0, 1]
    assert worst["probability"].tolist() == pytest.approx([90, 80], abs=1e-4)
    assert len(found.worst(10)) == 3  # only what is wrong
