"""From packed pixels to one crop box an image, where the random crops start from."""

from pipelines.crop_boxes.pipeline import create_pipeline

__all__ = ["create_pipeline"]
