"""What a process sets before torch is imported; it imports nothing heavy itself."""

import ctypes
import os


def tune_process() -> None:
    """Let waiting threads sleep and keep freed memory, unless the user's environment says else.

    GNU's OpenMP reads its waiting policy once, when torch is imported: threads that spin while they
    wait halve the speed of a machine that others use, too.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Ask glibc to keep freed blocks: page faults on each large tensor cost 4-16 % of a step."""
    try:
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD, M_MMAP_MAX of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, -1)
    except (OSError, AttributeError):  # not glibc: nothing to tune
        return
