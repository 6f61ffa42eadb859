"""From everything the experiments left behind to one page."""

from kedro.pipeline import Node, Pipeline

from pipelines.report.nodes import summarise_results, write_report

#: What must be finished before, when it is part of the run at all.
MADE_BEFORE = [
    "boxes",
    "pretrain_output",
    "probe_output",
    "finetune_output",
    "segmentation_output",
    "detection_output",
]


def create_pipeline() -> Pipeline:
    """The page, and its numbers for programs."""
    return Pipeline(
        [
            Node(
                write_report,
                inputs=[
                    "results_folder",
                    "data_card",
                    "problems",
                    "contact_sheet",
                    "boxes_folder",
                    "params:report",
                    *MADE_BEFORE,
                ],
                outputs=["report_page", "results_table", "report_figures"],
                name="write_report",
            ),
            Node(
                summarise_results,
                inputs=["results_table", "params:report"],
                outputs=["metrics", "result_bars"],
                name="summarise_results",
            ),
        ]
    )
