"""What the machine refuses is told as a sentence."""

import errno
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from contramask.failures import ANEW, CHECKPOINT, StageFailure, explained
from contramask.train.checkpoint import Keeper


def failing(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "last.tmp"),
            "the disk is full: last.tmp",
        ),
        (PermissionError(errno.EACCES, "Permission denied", "work"), "work may not be used"),
        (OSError(errno.EROFS, "Read-only file system", "work"), "work may not be used"),
        (MemoryError(), r"the memory ran out \(MemoryError.*use less"),
        (RuntimeError("could not create a primitive"), r"the memory ran out .*use less"),
        (torch.OutOfMemoryError("CUDA out of memory."), r"ran out \(OutOfMemoryError.*use less"),
    ],
)
def test_it_says_what_happened(error: BaseException, said: str) -> None:
    with pytest.raises(StageFailure, match=said):
        explained(lambda: failing(error), Path("work"), lambda: "use less")


def test_an_allocation_that_cannot_succeed_is_out_of_memory() -> None:
    with pytest.raises(StageFailure, match=r"the memory ran out .*use less"):
        explained(lambda: torch.empty(10**15), Path("work"), lambda: "use less")


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "gone")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error), match=r"bug|gone"):
        explained(lambda: failing(error), Path("work"), lambda: "use less")


def test_it_says_what_is_left_to_start_from() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for kept in (CHECKPOINT, ANEW):
        with pytest.raises(StageFailure, match=f"start again; {kept}"):
            explained(partial(failing, full), Path("work"), str, kept)
        with pytest.raises(StageFailure, match=f"was killed, .* start again; {kept}"):
            explained(partial(failing, BrokenProcessPool()), Path("work"), str, kept)


def test_what_succeeds_is_handed_back() -> None:
    assert explained(lambda: 3, Path("work"), str) == 3


def test_a_full_disk_leaves_the_kept_checkpoint_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    keeper = Keeper(tmp_path, {})
    keeper.save({"step": 1})
    opened = Path.open

    def open_full(path: Path, *given: str) -> object:
        return opened(full if path.suffix == ".tmp" else path, *given)

    monkeypatch.setattr(Path, "open", open_full)
    with pytest.raises(StageFailure, match="the disk is full"):
        explained(lambda: keeper.save({"step": 2, "x": torch.ones(10**5)}), tmp_path, str)
    monkeypatch.undo()
    state = keeper.load(torch.device("cpu"))
    assert state is not None
    assert state["step"] == 1
