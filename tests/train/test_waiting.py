"""Advice for a training that waits for its data: once, and not for the start."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from contramask.data.loader import ImageLoader
from contramask.train.waiting import WaitingAdvice


def said(caplog: pytest.LogCaptureFixture, shares: list[float], source: object) -> list[str]:
    advice = WaitingAdvice("pretrain", source)
    with caplog.at_level(logging.WARNING):
        for share in shares:
            advice.check(share)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("shares", [[], [0.9], [0.9, 0.01, 0.02], [0.0] * 9])
def test_the_start_and_short_waits_are_passed_over(
    caplog: pytest.LogCaptureFixture, shares: list[float]
) -> None:
    assert said(caplog, shares, SimpleNamespace(advice="run")) == []


def test_a_long_wait_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(caplog, [0.9, 0.01, 0.135, 0.5], SimpleNamespace(advice="do this"))
    assert lines == ["pretrain: 14% of the time went into waiting for data (more than 2%): do this"]


def test_a_loader_knows_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    source = ImageLoader(_Four(), lambda *given: {}, 2, 0, torch.device("cpu"))
    (line,) = said(caplog, [0, 0.5], source)
    assert "made between two steps by the processor" in line
    (_, plain) = said(caplog, [0, 0.5], object())
    assert "faster disk" in plain


class _Four:
    labels = np.zeros(4, dtype=np.int64)

    def __len__(self) -> int:
        return 4

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return np.zeros((len(indices), 8, 8, 3), dtype=np.uint8)


def test_views_made_by_the_training_processor_itself_are_tolerated(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = ImageLoader(_Four(), lambda *given: {}, 2, 0, torch.device("cpu"))
    assert said(caplog, [0, 0.05, 0.1], source) == []
    assert "more than 10%" in said(caplog, [0, 0.12], source)[0]
