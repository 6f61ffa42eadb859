"""From everything the experiments left behind to one page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import pandas as pd

    from contramask.boxes.box_set import BoxSet
    from contramask.report.page import ReportConfig
    from contramask.results import StageOutput


def write_report(
    results_folder: Path,
    card: dict[str, Any],
    problems: pd.DataFrame,
    contact_sheet: np.ndarray,
    boxes_folder: Path,
    config: ReportConfig,
    *made_before: BoxSet | StageOutput | None,
) -> tuple[str, pd.DataFrame, dict[str, bytes]]:
    """Draw the page of all experiments in `results_folder`.

    `made_before` is there only so that Kedro finishes those stages first.
    """
    from contramask.report.page import ReportInputs, build_report

    inputs = ReportInputs(results_folder, card, problems, contact_sheet, boxes_folder)
    report = build_report(inputs, config)
    return report.html, report.results, report.figures


def summarise_results(
    results: pd.DataFrame, config: ReportConfig
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """The page's numbers once more, for `dvc metrics` and `dvc plots`."""
    from contramask.report.summary import summarise

    return summarise(results, config)
