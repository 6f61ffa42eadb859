"""From the user's images (or the built-in scenes) to an index, a data card and packed pixels."""

from pipelines.dataset.pipeline import create_pipeline

__all__ = ["create_pipeline"]
