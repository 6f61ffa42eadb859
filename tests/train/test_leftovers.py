"""Until results are saved, the last checkpoint is the one copy of them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import StageOutput
from contramask.train import loop
from contramask.train.job import PretrainJob, read_result, run_job
from contramask.train.leftovers import forget
from contramask.typed import parse

PRETRAIN = {
    "method": {"name": "mae", "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2}},
    "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "epochs": 2,
    "batch_size": 32,
    "log_every": 1,
}
LAUNCH = {"device": "cpu", "precision": "fp32"}


def make_job(store: Store, output: Path) -> PretrainJob:
    values = {"store": store.folder, "output": output, "pretrain": PRETRAIN, "launch": LAUNCH}
    return parse(PretrainJob, values, "job")


def weights(job: PretrainJob) -> bytes:
    return (job.output / "encoder" / "encoder.safetensors").read_bytes()


def test_running_checkpoints_go_and_everything_else_stays(tmp_path: Path) -> None:
    forget(tmp_path / "none")  # nothing there: nothing to do
    for name in ("last.pt", "last-1.pt", "part/last.pt", "epoch-0002.pt", "part/refreshes.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    forget(tmp_path)
    left = sorted(p.name for p in tmp_path.rglob("*") if p.is_file())
    assert left == ["epoch-0002.pt", "refreshes.json"]


@pytest.mark.parametrize("part", ["encoder", "pretrain"])
def test_a_training_whose_results_could_not_be_written_is_not_done_again(
    tiny_store: Store, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, job = make_job(tiny_store, tmp_path / "whole"), make_job(tiny_store, tmp_path / "out")
    run_job(whole)
    assert not list(whole.work_folder.rglob("last*.pt"))
    job.output.mkdir()
    (job.output / part).write_text("in the way", encoding="utf-8")
    with pytest.raises(OSError, match=part):
        run_job(job)
    assert (job.work_folder / "last.pt").is_file()
    (job.output / part).unlink()

    def forbidden(*given: object) -> None:
        raise AssertionError("a step was trained again")

    with monkeypatch.context() as patched:
        patched.setattr(loop, "train_step", forbidden)
        run_job(job)
    assert weights(job) == weights(whole)
    curves = [read_result(each).output.tables["curve"]["loss"].tolist() for each in (job, whole)]
    assert curves[0] == curves[1]
    assert not list(job.work_folder.rglob("last*.pt"))
    lines = (job.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line).get("step") for line in lines]
    assert [step for step in steps if step] == [1, 2, 3, 4, 5, 6]


def test_who_asked_for_a_result_in_the_work_folder_forgets_it_himself(
    tiny_store: Store, tmp_path: Path
) -> None:
    job = make_job(tiny_store, tmp_path / "work" / "result")
    job = replace(job, work=tmp_path / "work")
    run_job(job)
    assert EncoderBundle.read(job.output / "encoder").manifest["method"] == "mae"
    assert len(StageOutput.read(job.output / "pretrain").tables["curve"]) == 6
    assert (job.work_folder / "last.pt").is_file()
