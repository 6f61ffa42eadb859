"""Results on disk: what is written is read back, and equal outputs are equal bytes."""

import importlib.metadata
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import contramask.results
from contramask.results import (
    COLUMNS,
    RunInfo,
    StageOutput,
    code_revision,
    encoder_label,
    made_with,
    result_row,
    today,
)

MANIFEST: dict[str, Any] = {
    "experiment": "mae-0a1b-s3",
    "method": "mae",
    "data": "digits",
    "seed": 3,
    "config_hash": "0a1b",
    "arch": {"embed_dim": 128, "depth": 6, "patch_size": 4},
}


def output() -> StageOutput:
    rows = pd.DataFrame(
        [result_row(MANIFEST, "val", "knn", readout, "knn_top1", 50) for readout in ("cls", "mean")]
    )
    return StageOutput(
        rows,
        {"curve": pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25]})},
        {
            "original": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3),
            "mae/features": np.ones((3, 4), np.float16),
            "mae/labels": np.array([1, -1, 2]),
        },
        {"stage": "probe", "seconds": 1.5, "plan": {"steps": 10, "name": "é"}},
    )


def files(folder: Path) -> dict[str, bytes]:
    """The bytes of every file below a folder, by relative path."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_row_says_what_was_measured_on_what() -> None:
    row = result_row(MANIFEST, "val", "5-shot", "mean", "low_shot_top1", np.float32(12.5))
    assert list(row) == COLUMNS
    assert row["encoder"] == "128x6/4"
    beit = {**MANIFEST, "arch": {**MANIFEST["arch"], "kind": "beit"}}
    assert result_row(beit, "val", "knn", "cls", "knn_top1", 50)["encoder"] == "BEiT 128x6/4"
    whole = {**MANIFEST["arch"], "num_heads": 4, "image_size": [32, 48]}
    named = encoder_label({**whole, "config": {"mlp_ratio": 2.50}})
    assert named == "128x6/4, 4 heads, MLP 2.5, 32x48 px"
    assert (row["value"], type(row["value"])) == (12.5, float)
    assert row["date"] == today()
    assert row["data"] == "digits"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    written = output()
    written.write(tmp_path / "new" / "folder")
    read = StageOutput.read(tmp_path / "new" / "folder")
    pd.testing.assert_frame_equal(read.rows, written.rows)
    assert set(read.tables) == {"curve"}
    pd.testing.assert_frame_equal(read.tables["curve"], written.tables["curve"])
    assert set(read.arrays) == set(written.arrays)
    for name, array in written.arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array)
        assert read.arrays[name].dtype == array.dtype
    assert read.facts == written.facts


def test_the_files_are_the_documented_ones(tmp_path: Path) -> None:
    output().write(tmp_path)
    assert set(files(tmp_path)) == {
        "results.parquet",
        "tables/curve.parquet",
        "arrays.npz",
        "facts.json",
    }


def test_equal_outputs_are_equal_bytes(tmp_path: Path) -> None:
    output().write(tmp_path / "a")
    output().write(tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "a" / "arrays.npz") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_writing_again_leaves_nothing_of_the_earlier_output(tmp_path: Path) -> None:
    output().write(tmp_path)
    StageOutput(tables={"mae-curve": pd.DataFrame({"step": [1]})}).write(tmp_path)
    read = StageOutput.read(tmp_path)
    assert set(read.tables) == {"mae-curve"}
    assert read.arrays == {}


def test_an_output_without_rows_has_the_columns_nevertheless(tmp_path: Path) -> None:
    StageOutput.skipped("detection", "no instances").write(tmp_path)
    read = StageOutput.read(tmp_path)
    assert list(read.rows.columns) == COLUMNS
    assert len(read.rows) == 0
    assert read.facts == {"stage": "detection", "skipped": "no instances"}


def test_files_of_other_tools_are_json_and_read_when_asked_for(tmp_path: Path) -> None:
    found = [{"image_id": 3, "score": 0.5}]
    StageOutput(files={"mae-results": found, "old": []}).write(tmp_path)
    assert json.loads((tmp_path / "files" / "mae-results.json").read_text()) == found
    read = StageOutput.read(tmp_path)
    assert (list(read.files), len(read.files)) == (["mae-results", "old"], 2)
    assert read.files["mae-results"] == found
    with pytest.raises(KeyError):
        read.files["other"]
    read.write(tmp_path)  # onto itself
    assert StageOutput.read(tmp_path).files["mae-results"] == found
    StageOutput(files={"new": {}}).write(tmp_path)
    assert dict(StageOutput.read(tmp_path).files) == {"new": {}}


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="allow_pickle"):
        StageOutput(arrays={"odd": np.array([None, {}])}).write(tmp_path)


def test_a_folder_that_is_none_of_ours_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StageOutput.read(tmp_path)


def test_a_commit_is_named_and_changed_files_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    for changed, expected in (("", "abc123"), (" M file.py", "abc123+")):
        answers = iter(["abc123", changed])
        monkeypatch.setattr(contramask.results, "_git", lambda *_, a=answers: next(a))
        code_revision.cache_clear()
        assert code_revision() == expected
    code_revision.cache_clear()


@pytest.mark.parametrize(
    "failure",
    [
        OSError("no git"),
        subprocess.CalledProcessError(128, "git"),
        subprocess.TimeoutExpired("git", 20),
    ],
)
def test_without_git_the_revision_is_unknown(
    monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    def fail(*_: object) -> str:
        raise failure

    monkeypatch.setattr(contramask.results, "_git", fail)
    code_revision.cache_clear()
    assert code_revision() == "unknown"
    code_revision.cache_clear()


def test_run_info_holds_its_three_facts() -> None:
    run = RunInfo("mae-0a1b-s3", "0a1b", 3)
    assert (run.experiment, run.config_hash, run.seed) == ("mae-0a1b-s3", "0a1b", 3)


def test_rows_name_the_data_they_were_measured_on() -> None:
    manifest = {
        "experiment": "mae-0000-s0",
        "method": "mae",
        "arch": {"embed_dim": 32, "depth": 2, "patch_size": 4},
        "data": "photographs",
        "seed": 0,
        "config_hash": "0000",
    }
    rows = pd.DataFrame([result_row(manifest, "val", "knn", "mean", "knn_top1", 5.0)])
    output = StageOutput(rows, facts={"stage": "probe"})
    assert output.rows["data"].tolist() == ["photographs"]
    moved = output.measured_on("paintings")
    assert moved.rows["data"].tolist() == ["paintings"]
    assert moved.facts == output.facts


def test_facts_name_command_versions_and_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/opt/bin/kedro", "run", "--env", "my smoke"])
    facts = made_with()
    assert facts["command"] == "kedro run --env 'my smoke'"
    assert facts["versions"]["torch"] == importlib.metadata.version("torch")
    assert facts["finished"].endswith("+00:00")
