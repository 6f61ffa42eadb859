"""What the encoder reaches when all of it is trained on labels."""

from pipelines.finetune.pipeline import create_pipeline

__all__ = ["create_pipeline"]
