"""Object detection and instance segmentation on top of the encoder."""

from pipelines.detection.pipeline import create_pipeline

__all__ = ["create_pipeline"]
