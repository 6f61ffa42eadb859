"""The most memory one piece of work needs."""

import contextlib
import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from contramask.train.device import Machine

_SELF = Path("/proc/self")


@dataclass
class Peak:
    """Bytes above what was held before; None where the system does not tell."""

    bytes: int | None = None


@contextlib.contextmanager
def peak_memory(machine: Machine) -> Iterator[Peak]:
    """Measure what is done inside: on an accelerator its memory, else the process's own."""
    peak = Peak()
    if machine.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    start = _forget_peak()
    yield peak
    if start is not None:
        peak.bytes = max(_status("VmHWM") - start, 0)


def _forget_peak() -> int | None:
    """Give freed memory back, let the kernel count anew; bytes held now, None if it cannot."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        (_SELF / "clear_refs").write_text("5")  # 5: reset the peak (man 5 proc)
        return _status("VmRSS")
    except (OSError, AttributeError):  # not Linux, or not allowed
        return None


def _status(name: str) -> int:
    for line in (_SELF / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status does not tell {name}")
