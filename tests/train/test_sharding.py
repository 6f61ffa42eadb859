"""Networks in shards learn what whole ones do, and what they leave behind is whole."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from contramask.train.sharding import check_sharding, in_full, is_sharded, whole
from contramask.train.world import World

SCRIPT = Path(__file__).with_name("sharded_processes.py")
_spec = importlib.util.spec_from_file_location("sharded_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
sharded_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sharded_processes)
METHODS = sharded_processes.METHODS
GAUGED_BY_STEPS = ["cmae", "cmae_mao", "mao_branch"]


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
    for name in METHODS:
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


@pytest.mark.parametrize("name", METHODS)
def test_a_training_goes_on_in_shards(shards: Path, wholes: Path, name: str) -> None:
    close(read(shards / name / "begun" / "last.pt"), read(wholes / name / "last.pt"))


@pytest.mark.parametrize("name", ["mae", "cmae"])
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
    if name in GAUGED_BY_STEPS:
        assert found.keys() == usual.keys()
    elif name in ("conmim", "supmim"):
        assert found.keys() < usual.keys()


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
