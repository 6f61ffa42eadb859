"""From packed pixels to image tokens, which some methods predict in place of pixels."""

from pipelines.tokenizer.pipeline import create_pipeline

__all__ = ["create_pipeline"]
