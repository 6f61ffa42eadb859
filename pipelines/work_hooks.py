"""Work folders after a node: what was kept for a restart goes once all results are saved."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kedro.framework.hooks import hook_impl

from contramask.train.leftovers import forget
from pipelines.datasets import WorkFolderDataset

if TYPE_CHECKING:
    from kedro.io import DataCatalog
    from kedro.pipeline.node import Node


class WorkHooks:
    """Forgets running checkpoints when, and only when, everything a node returned is on disk.

    A training whose results could not be saved (disk full, killed in between) is found finished
    by the next run, which saves them.
    """

    @hook_impl
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        """Remember where the work folders are."""
        self._catalog = catalog
        self._saved: dict[str, set[str]] = {}

    @hook_impl(trylast=True)
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """After the last of a node's results, forget what would only be needed to make them."""
        saved = self._saved.setdefault(node.name, set())
        saved.add(dataset_name)
        if not saved.issuperset(node.outputs):
            return
        for name in node.inputs:
            dataset = self._catalog.get(name)
            if isinstance(dataset, WorkFolderDataset) and dataset.has_one_owner:
                forget(dataset.load())
