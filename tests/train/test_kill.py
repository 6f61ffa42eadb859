"""Processes that are killed, or asked to stop, in the middle of a training."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill.py")


@pytest.mark.parametrize(
    ("name", "method"), [("KILL", "mae"), ("KILL", "cmae"), ("TERM", "mae"), ("INT", "mae")]
)
def test_it_ends_bit_for_bit_where_it_would_have(name: str, method: str) -> None:
    command = [sys.executable, str(SCRIPT), "--methods", method, "--signal", name, "--seed", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "0 of 1 differ" in done.stdout
