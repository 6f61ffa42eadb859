"""The numbers that programs read: one readout, no clocks, a table a metric."""

import pandas as pd

from contramask.report.page import ReportConfig
from contramask.report.summary import summarise

ROWS = pd.DataFrame(
    [
        ("mae-s0", "pretrain", "none", "loss", 0.51234567),
        ("mae-s0", "pretrain", "none", "seconds", 12.0),
        ("mae-s0", "linear", "mean", "linear_top1", 71.5),
        ("mae-s0", "linear", "cls", "linear_top1", 65.0),
        ("cmae-s0", "linear", "mean", "linear_top1", 74.0),
        ("cmae-s0", "mask_rcnn", "none", "box_ap", 20.0),
    ],
    columns=["experiment", "protocol", "readout", "metric", "value"],
)


def test_numbers_are_of_the_chosen_readout_and_clocks_are_left_out() -> None:
    numbers, _ = summarise(ROWS, ReportConfig(readout="mean"))
    assert numbers == {
        "mae-s0": {"pretrain": {"loss": 0.5123}, "linear": {"linear_top1": 71.5}},
        "cmae-s0": {"linear": {"linear_top1": 74.0}, "mask_rcnn": {"box_ap": 20.0}},
    }
    assert summarise(ROWS, ReportConfig(readout="cls"))[0]["mae-s0"]["linear"] == {
        "linear_top1": 65.0
    }


def test_each_metric_is_a_table_of_experiments() -> None:
    _, tables = summarise(ROWS, ReportConfig(readout="mean"))
    assert sorted(tables) == ["linear-linear_top1", "mask_rcnn-box_ap"]
    assert tables["linear-linear_top1"].to_dict("list") == {
        "experiment": ["mae-s0", "cmae-s0"],
        "value": [71.5, 74.0],
    }


def test_cocos_details_are_numbers_and_no_tables() -> None:
    detail = ROWS[ROWS["metric"] == "box_ap"]
    rows = pd.concat([detail.assign(metric=name) for name in ("box_ap50", "box_aps", "mask_ar10")])
    numbers, tables = summarise(rows, ReportConfig())
    assert set(numbers["cmae-s0"]["mask_rcnn"]) == {"box_ap50", "box_aps", "mask_ar10"}
    assert set(tables) == {"mask_rcnn-box_ap50"}


def test_no_results_make_no_tables() -> None:
    assert summarise(ROWS[:0], ReportConfig()) == ({}, {})
