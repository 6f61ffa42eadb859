"""What a training leaves in its work folder, and when that may go."""

from pathlib import Path


def forget(folder: Path) -> None:
    """Remove the running checkpoints in and below a work folder; milestones stay.

    To be called by whoever saved the results, after that and not before: until then the checkpoint
    of the last step is the one copy of them, and a training that is started again ends at once
    with the same results.
    """
    for path in folder.rglob("last*.pt"):
        path.unlink(missing_ok=True)
