"""Semantic segmentation on top of the encoder."""

from kedro.pipeline import Node, Pipeline

from pipelines.segmentation.nodes import segment_images


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                segment_images,
                inputs=[
                    "encoder",
                    "store",
                    "params:segmentation",
                    "params:launch",
                    "segmentation_work",
                ],
                outputs="segmentation_output",
                name="segment_images",
            )
        ]
    )
