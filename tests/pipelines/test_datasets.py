"""Datasets: round trips, and nothing half-written when a write fails."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kedro.io import DatasetError

from contramask.results import StageOutput
from pipelines.datasets import (
    FileDataset,
    FolderDataset,
    OptionalFolderDataset,
    PathDataset,
    PicturesDataset,
    WorkFolderDataset,
)

KIND = "contramask.results:StageOutput"


@dataclass
class Broken:
    """Writes one file, looks around, then fails."""

    target: Path
    seen: str = ""

    def write(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "facts.json").write_text("half", encoding="utf-8")
        self.seen = (self.target / "facts.json").read_text(encoding="utf-8")
        raise RuntimeError("disk full")


def test_folder_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    dataset = FolderDataset(str(tmp_path / "deep" / "probe"), KIND)
    assert not dataset.exists()
    dataset.save(StageOutput(facts={"stage": "probe"}, arrays={"a/b": np.arange(3)}))
    loaded = dataset.load()
    assert loaded.facts == {"stage": "probe"}
    assert loaded.arrays["a/b"].tolist() == [0, 1, 2]
    assert dataset.exists()


def test_saving_replaces_the_whole_folder(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    dataset = FolderDataset(str(folder), KIND)
    dataset.save(StageOutput(tables={"old": pd.DataFrame({"x": [1]})}))
    dataset.save(StageOutput(tables={"new": pd.DataFrame({"x": [2]})}))
    assert list(dataset.load().tables) == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["probe"]


def test_a_failing_write_leaves_the_old_folder_and_no_litter(tmp_path: Path) -> None:
    folder = tmp_path / "probe"
    dataset = FolderDataset(str(folder), KIND)
    dataset.save(StageOutput(facts={"stage": "old"}))
    broken = Broken(folder)
    with pytest.raises(DatasetError, match="disk full"):
        dataset.save(broken)
    assert "old" in broken.seen  # the old content was readable while the new one was written
    assert dataset.load().facts == {"stage": "old"}
    assert [p.name for p in tmp_path.iterdir()] == ["probe"]


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="run the stage that makes it"):
        FolderDataset(str(tmp_path / "none"), KIND).load()


def test_an_optional_folder_may_be_missing(tmp_path: Path) -> None:
    dataset = OptionalFolderDataset(str(tmp_path / "probe"), KIND)
    assert dataset.load() is None
    dataset.save(StageOutput(facts={"stage": "probe"}))
    assert dataset.load().facts == {"stage": "probe"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("card.json", {"images": 3, "classes": ["a", "b"]}),
        ("page.html", "<p>ü</p>"),
        ("sheet.png", np.arange(48, dtype=np.uint8).reshape(4, 4, 3)),
        ("index.parquet", pd.DataFrame({"id": ["a", "b"], "label": [1, 0]})),
    ],
)
def test_files_come_back_and_equal_values_are_equal_bytes(
    tmp_path: Path, name: str, value: object
) -> None:
    dataset = FileDataset(str(tmp_path / "new" / name))
    dataset.save(value)
    first = (tmp_path / "new" / name).read_bytes()
    loaded = dataset.load()
    dataset.save(loaded)
    assert (tmp_path / "new" / name).read_bytes() == first
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(loaded, value)
    else:
        np.testing.assert_equal(loaded, value)


def test_a_failing_file_write_keeps_the_old_file(tmp_path: Path) -> None:
    dataset = FileDataset(str(tmp_path / "card.json"))
    dataset.save({"a": 1})
    with pytest.raises(DatasetError):
        dataset.save({"a": object()})
    assert dataset.load() == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["card.json"]


def test_an_unknown_suffix_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\.parquet, \.csv, \.json, \.html, \.png"):
        FileDataset("data/x.pickle")


def test_pictures_come_back_and_old_ones_go(tmp_path: Path) -> None:
    dataset = PicturesDataset(str(tmp_path / "figures"))
    dataset.save({"old": b"1"})
    dataset.save({"mae/curve": b"2"})
    assert dataset.load() == {"mae-curve": b"2"}


def test_a_path_is_handed_over_and_only_a_work_folder_is_made(tmp_path: Path) -> None:
    place, work = str(tmp_path / "a"), str(tmp_path / "b" / ".work")
    assert PathDataset(place).load() == Path(place)
    assert not Path(place).exists()
    assert WorkFolderDataset(work).load().is_dir()
    with pytest.raises(DatasetError, match="no node returns it"):
        WorkFolderDataset(work).save(tmp_path)


def test_a_work_folder_of_one_run_is_refused_to_another(tmp_path: Path) -> None:
    dataset = WorkFolderDataset(str(tmp_path / "b.work"), {"owner": "one"})
    lock = tmp_path / "b.work.lock"
    assert dataset.load().is_dir()
    assert dataset.load().is_dir()  # once more in the same process
    assert lock.read_text() == f"{platform.node()} {os.getpid()}"
    lock.write_text(f"{platform.node()} {os.getppid()}")  # alive
    with pytest.raises(DatasetError, match=f"another run .process {os.getppid()} on .* works in"):
        dataset.load()
    lock.write_text("another-machine 17")
    with pytest.raises(DatasetError, match="If it is gone, remove"):
        dataset.load()
    for gone in (f"{platform.node()} {2**22 + 1}", "", "nonsense"):
        lock.write_text(gone)
        assert dataset.load().is_dir()


def test_work_that_runs_share_is_locked_by_none(tmp_path: Path) -> None:
    shared = WorkFolderDataset(str(tmp_path / "c"), {"dvc": {"track": False}})
    assert shared.load().is_dir()
    assert not list(tmp_path.glob("*.lock"))
