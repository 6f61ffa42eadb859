"""What can go wrong around a training, as sentences that say what happened and what to change."""

import errno
import gc
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


class TrainingFailure(ValueError):
    """The training cannot go on; the text says what happened and what to change."""


_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_MEMORY = (
    *("not enough memory", "can't allocate memory", "out of memory"),
    "could not create a primitive",  # oneDNN, where it gets no room for a matrix product
)


def explained(action: Callable[[], T], work: Path, fitting: Callable[[], str]) -> T:
    """What `action` returns; what the machine refuses it becomes `TrainingFailure`.

    work: the folder written to. fitting: what to do about memory, asked for only when it ran out.
    """
    try:
        return action()
    except OSError as error:
        if error.errno not in (*_FULL, *_FORBIDDEN):
            raise
        raise TrainingFailure(_told(error, work)) from error
    except BrokenProcessPool as error:
        raise TrainingFailure(
            "a process that read images was killed, mostly for lack of memory: use fewer workers "
            "or smaller batches, or give the machine more memory, and start again; the run "
            "continues from its last checkpoint"
        ) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines() or ["no message"]
        exhausted = f"{type(error).__name__}: {said[0][:160]}"
    # Behind the handler, whose traceback holds the tensors of the step that failed.
    gc.collect()
    raise TrainingFailure(f"the memory ran out ({exhausted}). {fitting()}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def _told(error: OSError, work: Path) -> str:
    where = error.filename or work
    if error.errno in _FULL:
        return (
            f"the disk is full: {where} could not be written. Free some space, or let the run's "
            "folders lie elsewhere, and start again; the last checkpoint is kept"
        )
    return (
        f"{where} may not be written ({error.strerror}). Give this user the right to write "
        "there, or choose another folder, and start again; the last checkpoint is kept"
    )
