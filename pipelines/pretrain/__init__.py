"""From packed pixels and crop boxes to an encoder: the stage that takes the time."""

from pipelines.pretrain.pipeline import create_pipeline

__all__ = ["create_pipeline"]
