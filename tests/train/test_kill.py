"""Processes that are killed, or asked to stop, in the middle of a training."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).with_name("kill.py")


def test_they_end_bit_for_bit_where_they_would_have() -> None:
    command = [sys.executable, str(SCRIPT), "--signals", "KILL,TERM,INT", "--seed", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert done.stdout.count(", continued from step") == 3
    assert "0 of 3 differ or began anew" in done.stdout
