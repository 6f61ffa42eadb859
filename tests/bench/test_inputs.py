"""Input paths: the same pictures for all, each an epoch of finite, normalised crops."""

from pathlib import Path

import pytest
import torch

from contramask.bench import inputs
from contramask.bench.inputs import (
    JPEG_STORE,
    OURS,
    InputTimes,
    input_paths,
    input_ratios,
    input_record,
    run_inputs,
    store_side,
)
from contramask.bench.sizes import BenchConfig
from contramask.bench.table import input_table

CONFIG = BenchConfig(image_size=16, patch_size=8, batch_size=4, rounds=2)


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "worker_count", lambda: 0)
    monkeypatch.setattr(inputs, "TIMED", 3)


def test_every_path_gives_the_same_kind_of_batches(tmp_path: Path) -> None:
    means = []
    for epoch in input_paths(CONFIG, tmp_path).values():
        batches = list(epoch())
        assert [tuple(batch.shape) for batch in batches] == [(4, 3, 16, 16)] * 3
        assert {batch.dtype for batch in batches} == {torch.float32}
        means.append(float(torch.cat(batches).mean()))
    assert max(means) - min(means) < 0.3  # normalised deviations; other crops, another order


def test_paths_are_timed_in_turns(tmp_path: Path) -> None:
    times = run_inputs(CONFIG, tmp_path)
    assert [one.name for one in times] == [
        *OURS,
        JPEG_STORE,
        "official: JPEG, PIL, DataLoader",
        "same store, torchvision, DataLoader",
    ]
    assert all(len(one.wall) == len(one.cpu) == 2 for one in times)
    assert all(rate > 0 for one in times for rate in one.wall + one.cpu)
    whole = input_record(times, CONFIG)
    assert whole["images"] == {"count": 12, "side_px": 16}
    assert {name: len(ratios) for name, ratios in whole["ratios"].items()} == dict.fromkeys(OURS, 3)


def test_ratios_are_of_speeds_within_a_round() -> None:
    device, ring = (InputTimes(name, [400, 100], [40, 10]) for name in OURS)
    ring.wall = [200, 50]
    times = [device, ring, InputTimes("other", [100, 25], [20, 10])]
    found = input_ratios(times)
    assert [found[name][0].wall.median for name in OURS] == [4, 2]
    assert found[OURS[0]][0].cpu.median == pytest.approx(1.5)
    table = input_table(times, CONFIG)
    assert [list(column.cells)[2] for column in table.columns][3::3] == ["4.00x", "2.00x"]


@pytest.mark.parametrize(("view", "side"), [(64, 64), (96, 96), (224, 256)])
def test_large_pictures_are_stored_with_a_margin(view: int, side: int) -> None:
    assert store_side(BenchConfig(image_size=view, patch_size=8)) == side
