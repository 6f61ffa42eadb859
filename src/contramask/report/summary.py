"""The results once more for programs: numbers by experiment, and one small table a metric."""

from typing import Any

import pandas as pd

from contramask.report.page import ReportConfig

#: Readouts of which the configuration chooses one; rows with any other readout are all kept.
CHOICE = ("mean", "cls")
#: What differs from run to run and says nothing about an encoder.
CLOCKS = ("images_per_s", "seconds", "seconds_total")
#: COCO's numbers by size of object, and its recalls: for who looks for them.
DETAILS = r"(box|mask)_(ap[sml]|ar(1|10|100|[sml]))"


def summarise(
    results: pd.DataFrame, config: ReportConfig
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Numbers as `experiment -> protocol -> metric`, and tables (experiment, value) by metric.

    `results` has `contramask.results.COLUMNS`. Tables are named `<protocol>-<metric>`; what
    pre-training measures of itself and `DETAILS` are among the numbers and make no table.
    """
    others = [readout for readout in CHOICE if readout != config.readout]
    rows = results[~results["readout"].isin(others) & ~results["metric"].isin(CLOCKS)]
    numbers: dict[str, Any] = {}
    for row in rows.itertuples(index=False):
        group = numbers.setdefault(str(row.experiment), {}).setdefault(str(row.protocol), {})
        group[str(row.metric)] = round(float(row.value), 4)
    judged = rows[(rows["protocol"] != "pretrain") & ~rows["metric"].str.fullmatch(DETAILS)]
    tables = {
        f"{protocol}-{metric}": group[["experiment", "value"]].reset_index(drop=True)
        for (protocol, metric), group in judged.groupby(["protocol", "metric"])
    }
    return numbers, tables
