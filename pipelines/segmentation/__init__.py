"""Semantic segmentation on top of the encoder."""

from pipelines.segmentation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
