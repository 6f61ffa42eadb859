"""Detections on their way out: large masks are drawn a few at a time."""

import pytest
import torch

from contramask.data.store import Store
from contramask.transfer import instances
from contramask.transfer.instances import results_of


def test_masks_are_drawn_few_at_a_time(tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(7, 2, generator=generator) * 16
    found = {
        "boxes": torch.cat([corners, corners + 12], dim=1),
        "labels": torch.ones(7, dtype=torch.int64),
        "scores": torch.ones(7),
        "masks": torch.rand(7, 1, 28, 28, generator=generator),
    }
    whole = results_of(0, found, tiny_store["val"], (32, 32))
    monkeypatch.setattr(instances, "DRAWN_PX", 2 * 32 * 32)
    assert results_of(0, found, tiny_store["val"], (32, 32)) == whole
