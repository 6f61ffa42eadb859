"""Several processes compute what one does with the whole batch, also if they cut it into parts."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from contramask.train.world import World

SCRIPT = Path(__file__).with_name("two_processes.py")
_spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
assert _spec is not None and _spec.loader is not None  # noqa: PT018
two_processes = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(two_processes)
METHODS = two_processes.METHODS


def close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=1e-6, msg=lambda m, n=name: n + m
        )


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes found, for every method."""
    folder = tmp_path_factory.mktemp("pairs")
    launcher = ["-m", "torch.distributed.run", "--standalone", "--local-addr", "localhost"]
    command = [sys.executable, *launcher, "--nproc-per-node", "2", str(SCRIPT), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@pytest.mark.parametrize("parts", two_processes.PARTS)
@pytest.mark.parametrize("name", METHODS)
def test_two_processes_learn_what_one_does(pairs: Path, name: str, parts: int) -> None:
    found = torch.load(pairs / f"{name}-{parts}.pt", weights_only=True)
    close(found, two_processes.train(METHODS[name], World()))
