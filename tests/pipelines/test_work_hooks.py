"""Running checkpoints go when all of a node's results are saved, and not earlier."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from kedro.io import DataCatalog, DatasetError
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner

from pipelines import settings
from pipelines.datasets import FileDataset, WorkFolderDataset
from pipelines.work_hooks import WorkHooks


def trained(work: Path, shared: Path) -> tuple[dict[str, int], dict[str, int]]:
    for folder in (work, work / "part", shared):
        folder.mkdir(exist_ok=True)
        (folder / "last.pt").touch()
    return {"made": 1}, {"made": 2}


def test_after_the_last_result_and_only_where_one_run_owns_the_folder(tmp_path: Path) -> None:
    catalog = DataCatalog(
        {
            "work": WorkFolderDataset(str(tmp_path / "work"), {"owner": "one"}),
            "shared": WorkFolderDataset(str(tmp_path / "shared")),
        }
    )
    trained(catalog.load("work"), catalog.load("shared"))
    hooks = WorkHooks()
    hooks.before_pipeline_run(catalog=catalog)
    node = SimpleNamespace(name="train", inputs=["work", "shared"], outputs=["first", "second"])
    hooks.after_dataset_saved(dataset_name="first", node=node)
    assert len(list((tmp_path / "work").rglob("last.pt"))) == 2
    hooks.after_dataset_saved(dataset_name="second", node=node)
    assert not list((tmp_path / "work").rglob("last.pt"))
    assert (tmp_path / "shared" / "last.pt").is_file()


def test_a_result_that_cannot_be_saved_leaves_the_checkpoint(tmp_path: Path) -> None:
    from kedro.framework.hooks.manager import _create_hook_manager

    manager, hooks = _create_hook_manager(), WorkHooks()
    manager.register(hooks)
    (tmp_path / "second").touch()  # where a folder would have to be
    catalog = DataCatalog(
        {
            "work": WorkFolderDataset(str(tmp_path / "work"), {"owner": "one"}),
            "shared": WorkFolderDataset(str(tmp_path / "shared")),
            "first": FileDataset(str(tmp_path / "first.json")),
            "second": FileDataset(str(tmp_path / "second" / "second.json")),
        }
    )
    nodes = Pipeline([Node(trained, ["work", "shared"], ["first", "second"], name="train")])
    hooks.before_pipeline_run(catalog=catalog)
    with pytest.raises((DatasetError, OSError)):
        SequentialRunner().run(nodes, catalog, manager)
    assert len(list((tmp_path / "work").rglob("last.pt"))) == 2
    (tmp_path / "second").unlink()
    SequentialRunner().run(nodes, catalog, manager)
    assert not list((tmp_path / "work").rglob("last.pt"))


def test_it_is_among_the_hooks() -> None:
    assert any(isinstance(hook, WorkHooks) for hook in settings.HOOKS)
