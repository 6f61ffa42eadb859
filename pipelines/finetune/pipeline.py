"""What the encoder reaches when all of it is trained on labels."""

from kedro.pipeline import Node, Pipeline

from pipelines.finetune.nodes import finetune_encoder


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                finetune_encoder,
                inputs=["encoder", "store", "params:finetune", "params:launch", "finetune_work"],
                outputs="finetune_output",
                name="finetune_encoder",
            )
        ]
    )
