"""From packed pixels and crop boxes to an encoder: the stage that takes the time."""

from kedro.pipeline import Node, Pipeline

from pipelines.pretrain.nodes import pretrain_encoder


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                pretrain_encoder,
                inputs=[
                    "store",
                    "boxes",
                    "tokenizer",
                    "params:pretrain",
                    "params:experiment",
                    "params:launch",
                    "pretrain_work",
                ],
                outputs=["encoder", "pretrain_output", "pretrain_curve"],
                name="pretrain_encoder",
            )
        ]
    )
