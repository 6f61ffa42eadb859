"""Advice for a training that waits for its data: once, and not for the start."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from contramask.data.jpeg_loader import JpegLoader
from contramask.data.loader import ImageLoader
from contramask.data.ring_loader import RingLoader
from contramask.train.box_refresh import RefreshedBoxes
from contramask.train.waiting import WaitingAdvice
from contramask.transfer.attentive import TokenLoader
from contramask.transfer.dense import TargetLoader


def said(
    caplog: pytest.LogCaptureFixture, shares: list[float], source: object, seconds: float = 60
) -> list[str]:
    advice = WaitingAdvice("pretrain", source)
    with caplog.at_level(logging.WARNING):
        for share in shares:
            advice.check(share, seconds)
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("shares", [[], [0.9], [0.9, 0.01, 0.02], [0.0] * 9])
def test_the_start_and_short_waits_are_passed_over(
    caplog: pytest.LogCaptureFixture, shares: list[float]
) -> None:
    assert said(caplog, shares, SimpleNamespace(advice="run")) == []


def test_a_long_wait_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    lines = said(caplog, [0.9, 0.01, 0.135, 0.5], SimpleNamespace(advice="do this"))
    assert lines == ["pretrain: 14% of the time went into waiting for data (more than 2%): do this"]


def test_a_training_of_a_few_seconds_gets_no_advice(caplog: pytest.LogCaptureFixture) -> None:
    assert said(caplog, [0.9] * 5, object(), seconds=1) == []
    assert len(said(caplog, [0.9] * 11, object(), seconds=1)) == 1


def test_every_source_of_a_training_says_what_it_waits_for() -> None:
    for kind in (ImageLoader, RingLoader, JpegLoader, RefreshedBoxes, TokenLoader, TargetLoader):
        assert hasattr(kind, "advice")
        assert hasattr(kind, "tolerated_wait")


def test_boxes_made_anew_wait_for_their_loader() -> None:
    loader = SimpleNamespace(advice="x", tolerated_wait=0.3, batch_size=1, steps_per_epoch=1)
    first = SimpleNamespace(manifest={"box_set_id": "a"})
    boxes = RefreshedBoxes(loader, None, first, None, None, None)  # type: ignore[arg-type]
    assert (boxes.advice, boxes.tolerated_wait) == ("x", 0.3)


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
