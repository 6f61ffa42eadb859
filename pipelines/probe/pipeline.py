"""What the frozen features know: nearest neighbours and linear classifiers."""

from kedro.pipeline import Node, Pipeline

from pipelines.probe.nodes import probe_encoder


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                probe_encoder,
                inputs=[
                    "encoder",
                    "store",
                    "params:probe",
                    "params:launch",
                    "features_work",
                    "probe_work",
                ],
                outputs="probe_output",
                name="probe_encoder",
            )
        ]
    )
