"""From everything the experiments left behind to one page."""

from pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
