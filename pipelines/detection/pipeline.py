"""Object detection and instance segmentation on top of the encoder."""

from kedro.pipeline import Node, Pipeline

from pipelines.detection.nodes import detect_objects


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                detect_objects,
                inputs=["encoder", "store", "params:detection", "params:launch", "detection_work"],
                outputs="detection_output",
                name="detect_objects",
            )
        ]
    )
