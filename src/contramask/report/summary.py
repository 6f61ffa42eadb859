"""The results once more for programs: numbers by experiment, and one small table a metric."""

from typing import Any

import pandas as pd

from contramask.report.page import ReportConfig

#: Readouts of which the configuration chooses one; rows with any other readout are all kept.
CHOICE = ("mean", "cls")
#: What differs from run to run and says nothing about an encoder.
CLOCKS = ("images_per_s", "seconds", "seconds_total")


def summarise(
    results: pd.DataFrame, config: ReportConfig
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Numbers as `experiment -> protocol -> metric`, and tables (experiment, value) by metric.

    `results` has `contramask.results.COLUMNS`. Tables are named `<protocol>-<metric>`; what
    pre-training measures of itself is among the numbers and makes no table.
    """
    others = [readout for readout in CHOICE if readout != config.readout]
    rows = results[~results["readout"].isin(others) & ~results["metric"].isin(CLOCKS)]
    numbers: dict[str, Any] = {}
    for row in rows.itertuples(index=False):
        group = numbers.setdefault(str(row.experiment), {}).setdefault(str(row.protocol), {})
        group[str(row.metric)] = round(float(row.value), 4)
    judged = rows[rows["protocol"] != "pretrain"]
    tables = {
        f"{protocol}-{metric}": group[["experiment", "value"]].reset_index(drop=True)
        for (protocol, metric), group in judged.groupby(["protocol", "metric"])
    }
    return numbers, tables
