"""What the machine refuses a stage, as sentences that say what happened and what to change."""

import errno
import gc
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")


class StageFailure(ValueError):
    """A stage cannot go on; the text says what happened and what to change."""


#: What is left of a stage that was stopped: of one with a running checkpoint, and of one without.
CHECKPOINT = "the last checkpoint is kept, and the run continues from it"
ANEW = "this stage begins anew, and what was made before it is kept"
#: What to do about memory where no setting of ours is to blame.
SMALLER = "Use a smaller encoder or smaller images, or a machine with more memory"

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_MEMORY = (
    *("not enough memory", "can't allocate memory", "out of memory"),
    "could not create a primitive",  # oneDNN, where it gets no room for a matrix product
)


def explained(
    action: Callable[[], T], work: Path, fitting: Callable[[], str], kept: str = CHECKPOINT
) -> T:
    """What `action` returns; what the machine refuses it becomes `StageFailure`.

    work: the folder written to. fitting: what to do about memory, asked for only when it ran out.
    kept: what is left to start again from.
    """
    try:
        return within_memory(action, fitting)
    except OSError as error:
        if error.errno not in (*_FULL, *_FORBIDDEN):
            raise
        raise StageFailure(_told(error, work, kept)) from error
    except BrokenProcessPool as error:
        raise StageFailure(
            "a process that read images was killed, mostly for lack of memory: use fewer workers "
            f"or smaller batches, or give the machine more memory, and start again; {kept}"
        ) from error


def within_memory(action: Callable[[], T], fitting: Callable[[], str]) -> T:
    """What `action` returns; a lack of memory becomes `StageFailure` that ends with `fitting()`."""
    try:
        return action()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines() or ["no message"]
        exhausted = f"{type(error).__name__}: {said[0][:160]}"
    # Behind the handler, whose traceback holds the tensors of the step that failed.
    gc.collect()
    raise StageFailure(f"the memory ran out ({exhausted}). {fitting()}")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _NO_MEMORY)


def _told(error: OSError, work: Path, kept: str) -> str:
    where = error.filename or work
    if error.errno in _FULL:
        return (
            f"the disk is full: {where} could not be written. Free some space, or let the run's "
            f"folders lie elsewhere, and start again; {kept}"
        )
    return (
        f"{where} may not be used ({error.strerror}). Give this user the right to read and write "
        f"there, or choose another folder, and start again; {kept}"
    )
