"""From packed pixels to one crop box an image, where the random crops start from."""

from kedro.pipeline import Node, Pipeline

from pipelines.crop_boxes.nodes import make_boxes


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                make_boxes,
                inputs=["store", "params:crop_boxes", "params:pretrain.views"],
                outputs="boxes",
                name="make_boxes",
            )
        ]
    )
