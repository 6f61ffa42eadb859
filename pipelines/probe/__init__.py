"""What the frozen features know: nearest neighbours and linear classifiers."""

from pipelines.probe.pipeline import create_pipeline

__all__ = ["create_pipeline"]
