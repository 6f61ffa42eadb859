"""From packed pixels to image tokens, which some methods predict in place of pixels."""

from kedro.pipeline import Node, Pipeline

from pipelines.tokenizer.nodes import make_tokenizer


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                make_tokenizer,
                inputs=[
                    "store",
                    "params:tokenizer",
                    "params:pretrain",
                    "params:experiment",
                    "params:launch",
                    "tokenizer_work",
                ],
                outputs=["tokenizer", "tokenizer_output"],
                name="make_tokenizer",
            )
        ]
    )
