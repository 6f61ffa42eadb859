"""Arithmetic of the benchmark: medians, spreads, ratios of the same round."""

import json
from collections.abc import Callable

import pytest
import torch

from contramask.bench.measure import Bench, Measured
from contramask.bench.ours import COMPILED, OURS
from contramask.bench.sizes import BenchConfig
from contramask.bench.summary import (
    Spread,
    cpu_rate,
    failed,
    flop_rate,
    rate,
    ratios,
    record,
    share_of_peak,
)
from contramask.bench.table import machine_lines, ratio_tables, speed_table
from contramask.train.device import Machine

CONFIG = BenchConfig(batch_size=10)
Make = Callable[..., Measured]


def test_a_spread_is_the_median_between_two_percentiles() -> None:
    spread = Spread.of([5.0, 1.0, 2.0, 3.0, 4.0])
    assert (spread.low, spread.median, spread.high) == pytest.approx((1.4, 3.0, 4.6))


def test_rates_count_images(measured: Make) -> None:
    one = measured("ours", [0.1, 0.2, 0.4])
    assert rate(one, CONFIG).median == pytest.approx(50)
    assert cpu_rate(one, CONFIG).median == pytest.approx(25)
    assert flop_rate(one, CONFIG) == pytest.approx(50 * 2e9)


def test_the_peak_is_that_of_the_same_round(measured: Make) -> None:
    one = measured("ours", [0.1, 0.2])
    bench = Bench([one], {"fp32": [1e11, 1e11], "bf16": [4e11, 2e11]})
    assert share_of_peak(one, bench, CONFIG).median == pytest.approx(0.5)


def test_ratios_are_formed_within_a_round(measured: Make) -> None:
    """The second round was three times slower for all: that must not show."""
    ours, peer = measured("ours", [1.0, 3.0, 1.0]), measured("hf", [2.0, 6.0, 2.2], "as shipped")
    (ratio,) = ratios(Bench([ours, peer], {"fp32": [1.0] * 3}))
    assert ratio.peer == "hf, as shipped"
    assert ratio.wall.median == pytest.approx(2.0)
    assert ratio.wall.high == pytest.approx(2.16)
    assert ratio.cpu.median == pytest.approx(2.0)


def test_our_other_variants_are_no_peers(measured: Make) -> None:
    bench = Bench([measured("ours", [1.0], "fp32"), measured("ours", [1.0])], {"fp32": [1.0]})
    assert ratios(bench) == []


def test_a_compiled_step_has_a_table_of_its_own(measured: Make) -> None:
    ours, compiled = measured("ours", [1.0]), measured("ours", [0.8], COMPILED)
    bench = Bench([ours, compiled, measured("hf", [2.0], "as shipped")], {"fp32": [1.0]})
    assert [(r.ours, r.wall.median) for r in ratios(bench)] == [(OURS, 2.0), (COMPILED, 2.5)]
    assert [table.title for table in ratio_tables(bench)] == [
        "ours as we train / peer",
        "ours compiled / peer",
    ]


def test_a_loss_that_left_the_reference_is_told_by_name(measured: Make) -> None:
    good, bad = measured("hf", [1.0], "a", [1.0, 1.005]), measured("hf", [1.0], "b", [1.0, 1.03])
    assert failed(Bench([measured("ours", [1.0]), good, bad], {"fp32": [1.0]})) == [bad]


def test_tables_and_record_hold_the_numbers(measured: Make) -> None:
    ours, peer = measured("ours", [0.1, 0.1]), measured("hf", [0.3, 0.3], "as shipped", [1.5, 1.0])
    bench = Bench([ours, peer], {"fp32": [1e12, 1e12]})
    whole = record(bench, CONFIG, Machine(torch.device("cpu"), "fp32"), [0.5, 0.6])
    assert json.loads(json.dumps(whole))["failed"] == ["hf, as shipped"]
    assert whole["ratios"][0]["wall"]["median"] == pytest.approx(3.0)
    assert whole["variants"][0]["rounds"]["wall_s"] == [0.1, 0.1]
    cells = [list(column.cells) for column in speed_table(bench, CONFIG).columns]
    assert cells[0] == ["ours, as we train", "hf, as shipped"]
    assert cells[1] == ["100", "33"]
    assert cells[-1] == ["-", "50.0% FAILED (over 1%)"]
    (table,) = ratio_tables(bench)
    assert list(table.columns[1].cells) == ["3.00x"]
    assert "fp32 1000; load 0.5 before, 0.6 after" in machine_lines(whole)
