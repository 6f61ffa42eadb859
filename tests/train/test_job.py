"""Jobs as files: folders, mistakes, and the training they start."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from contramask.cli import main
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import StageOutput
from contramask.train.job import read_job, write_job
from contramask.typed import ConfigError

SMALL = {"embed_dim": 16, "depth": 1, "num_heads": 2}
PRETRAIN = {
    "method": {"name": "mae", "decoder": SMALL},
    "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "epochs": 1,
    "batch_size": 32,
    "log_every": 1,
}
LAUNCH = {"device": "cpu", "precision": "fp32"}


def job_file(folder: Path, **given: Any) -> Path:
    values = {"store": "store", "output": "out", "pretrain": PRETRAIN, "launch": LAUNCH, **given}
    path = folder / "job.json"
    path.write_text(json.dumps(values), encoding="utf-8")
    return path


def test_folders_are_meant_from_the_file_and_a_job_survives_writing(tmp_path: Path) -> None:
    job = read_job(job_file(tmp_path, boxes="b", seed=3))
    assert (job.store, job.boxes) == (tmp_path / "store", tmp_path / "b")
    assert job.work_folder == tmp_path / "out" / "work"
    assert job.run.experiment == f"mae-{job.run.config_hash}-s3"
    write_job(job, tmp_path / "again" / "job.json")
    assert read_job(tmp_path / "again" / "job.json") == job


def test_mistakes_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pretrain\.epoch: there is no such key; did you mean"):
        read_job(job_file(tmp_path, pretrain={"epoch": 3}))
    with pytest.raises(ConfigError, match=r"set launch\.rendezvous to host:port"):
        read_job(job_file(tmp_path, launch={"nodes": 2}))
    (tmp_path / "job.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="is no JSON"):
        read_job(tmp_path / "job.json")


def test_the_command_trains_and_leaves_everything_behind(tiny_store: Store, tmp_path: Path) -> None:
    path = job_file(tmp_path, store=str(tiny_store.folder))
    assert main(["pretrain", str(path)]) == 0
    bundle = EncoderBundle.read(tmp_path / "out" / "encoder")
    assert bundle.manifest["method"] == "mae"
    output = StageOutput.read(tmp_path / "out" / "pretrain")
    lines = (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "step" in json.loads(line)]
    assert steps == output.tables["curve"]["step"].tolist() == [1, 2, 3]


def test_failures_are_sentences(
    tiny_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain = {**PRETRAIN, "batch_size": 100}
    path = job_file(tmp_path, store=str(tiny_store.folder), pretrain=pretrain)
    assert main(["pretrain", str(path)]) == 1
    assert "a batch of 100 cannot be filled from 96 images" in capsys.readouterr().err
    assert "a batch of 100" in (tmp_path / "out" / "work" / "failed.txt").read_text()
    assert main(["join", str(path)]) == 1
    assert "runs on one machine" in capsys.readouterr().err


def test_a_failure_is_told_where_nothing_can_be_written(
    tiny_store: Store,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = job_file(
        tmp_path, store=str(tiny_store.folder), pretrain={**PRETRAIN, "batch_size": 100}
    )

    def full(self: Path, *given: str, **named: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["pretrain", str(path)]) == 1
    assert "a batch of 100 cannot be filled" in capsys.readouterr().err


def test_a_file_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pretrain", str(tmp_path / "none.json")]) == 1
    said = capsys.readouterr().err
    assert said.endswith("none.json: No such file or directory\n")


def test_ctrl_c_ends_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("contramask.train.job.read_job", stopped)
    assert main(["pretrain", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "contramask pretrain: stopped\n"
