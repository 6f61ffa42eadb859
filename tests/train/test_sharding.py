"""Networks in shards learn what whole ones do, and what they leave behind is whole."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.results import StageOutput
from contramask.train.sharding import check_sharding, in_full, is_sharded, whole
from contramask.train.world import World

SCRIPT = Path(__file__).with_name("sharded_processes.py")
_spec = importlib.util.spec_from_file_location("sharded_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
sharded_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sharded_processes)
METHODS = sharded_processes.METHODS
CONTINUED = sharded_processes.CONTINUED
PRETRAIN = {
    "method": {"name": "mae", "decoder": {"embed_dim": 16, "depth": 1, "num_heads": 2}},
    "encoder": {"patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "epochs": 2,
    "batch_size": 32,
    "accumulate": 2,
}


def in_shards(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the script in two processes."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command = [sys.executable, *launcher, "--nproc-per-node", "2", str(SCRIPT), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes with shards left, for every method."""
    folder = tmp_path_factory.mktemp("shards")
    for name in CONTINUED:
        sharded_processes.train(name, folder / name / "begun", sharded_processes.leave)
    done = in_shards(str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process left."""
    folder = tmp_path_factory.mktemp("wholes")
    for name in METHODS:
        sharded_processes.train(name, folder / name)
    return folder


def read(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def close(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Losses, weights, buffers and the optimiser's averages are equal."""
    assert found["step"] == expected["step"] == 2 * sharded_processes.EPOCHS
    losses = [[row["loss"] for row in each["rows"]] for each in (found, expected)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    for kind in ("model", "optimizer"):
        torch.testing.assert_close(found[kind], expected[kind], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_with_shards_learn_what_one_does(
    shards: Path, wholes: Path, name: str
) -> None:
    close(read(shards / name / "whole" / "last.pt"), read(wholes / name / "last.pt"))


@pytest.mark.parametrize("name", CONTINUED)
def test_a_training_goes_on_in_shards(shards: Path, wholes: Path, name: str) -> None:
    close(read(shards / name / "begun" / "last.pt"), read(wholes / name / "last.pt"))


@pytest.mark.parametrize("name", CONTINUED)
def test_a_training_in_shards_goes_on_whole(shards: Path, wholes: Path, name: str) -> None:
    assert read(shards / name / "half" / "last.pt")["step"] == 2
    sharded_processes.train(name, shards / name / "half")
    close(read(shards / name / "half" / "last.pt"), read(wholes / name / "last.pt"))


def test_asked_to_stop_all_processes_save_together(wholes: Path, tmp_path: Path) -> None:
    done = in_shards(str(tmp_path), "stop")
    assert "asked to stop; saved at step 8" in done.stderr
    assert done.returncode != 0
    assert read(tmp_path / "last.pt")["step"] == 8
    sharded_processes.train("cmae", tmp_path)
    close(read(tmp_path / "last.pt"), read(wholes / "cmae" / "last.pt"))


@pytest.mark.parametrize("name", METHODS)
def test_gauges_are_those_of_the_step_or_left_out(shards: Path, wholes: Path, name: str) -> None:
    usual = read(wholes / name / "last.pt")["rows"][-1]
    found = read(shards / name / "whole" / "last.pt")["rows"][-1]
    if name in ("conmim", "supmim"):
        assert found.keys() < usual.keys()
    else:
        assert found.keys() == usual.keys()


def test_a_job_in_shards_gives_the_encoder_that_one_process_gives(
    tiny_store: Store, tmp_path: Path
) -> None:
    found = {}
    for devices in (1, 2):
        job = {
            "store": str(tiny_store.folder),
            "output": f"out-{devices}",
            "pretrain": PRETRAIN,
            "launch": {"device": "cpu", "precision": "fp32", "devices": devices}
            | {"sharding": "fsdp2"},
        }
        path = tmp_path / f"job-{devices}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        command = [sys.executable, "-m", "contramask.cli", "pretrain", str(path)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        found[devices] = EncoderBundle.read(tmp_path / f"out-{devices}" / "encoder")
        output = StageOutput.read(tmp_path / f"out-{devices}" / "pretrain")
        assert output.arrays["reconstruction"].any()
    whole = found[1].encoder.state_dict()
    torch.testing.assert_close(dict(found[2].encoder.state_dict()), dict(whole), rtol=0, atol=1e-4)


def test_what_reads_the_network_outside_its_forward_pass_is_refused() -> None:
    method, _ = sharded_processes.two_processes.make(METHODS["cmae"], World())
    check_sharding(method, 1, refreshes_boxes=False)
    with pytest.raises(ValueError, match="accumulate 2 reads every part of a cmae batch twice"):
        check_sharding(method, 2, refreshes_boxes=False)
    with pytest.raises(ValueError, match="box_refresh reads the encoder"):
        check_sharding(method, 1, refreshes_boxes=True)
    plain, _ = sharded_processes.two_processes.make(METHODS["mae"], World())
    check_sharding(plain, 2, refreshes_boxes=False)


def test_ordinary_tensors_are_whole_already() -> None:
    value = torch.ones(2)
    assert whole({"a": [value, 3]})["a"][0] is value
    assert in_full(value) is value
    assert not is_sharded(torch.nn.Linear(1, 1))
