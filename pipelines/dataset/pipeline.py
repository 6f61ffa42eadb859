"""From the user's images (or the built-in scenes) to an index, a data card and packed pixels."""

from kedro.pipeline import Node, Pipeline

from pipelines.dataset.nodes import build_store


def create_pipeline() -> Pipeline:
    """The stage's one node, wired to the catalog."""
    return Pipeline(
        [
            Node(
                build_store,
                inputs=["params:dataset", "store_work"],
                outputs=["index", "problems", "data_card", "store", "contact_sheet"],
                name="build_store",
            )
        ]
    )
