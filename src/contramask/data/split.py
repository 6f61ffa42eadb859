"""Decides by name alone which image goes where, so that every machine decides alike."""

import hashlib
from collections.abc import Sequence

from contramask.data.record import Split


def name_share(name: str) -> float:
    """A number in [0, 1) that only the name determines."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:6], "big") / 2**48


def split_by_name(names: Sequence[str], val_fraction: float) -> list[Split]:
    """Put the names whose share lies below `val_fraction` into val.

    An image keeps its split when others are added. From two images on, neither split is empty
    (unless `val_fraction` is 0): the lowest share then goes to val, the highest to train.
    """
    shares = [name_share(name) for name in names]
    splits: list[Split] = ["val" if share < val_fraction else "train" for share in shares]
    if len(names) > 1 and val_fraction > 0:
        splits[shares.index(min(shares))] = "val"
    if names:
        splits[shares.index(max(shares))] = "train"
    return splits


def balanced_choice(names: Sequence[str], labels: Sequence[int], limit: int | None) -> list[int]:
    """Positions of at most `limit` names, equally many of each label, in the given order."""
    if limit is None or limit >= len(names):
        return list(range(len(names)))
    by_share = sorted(range(len(names)), key=lambda i: (name_share(names[i]), names[i]))
    seen: dict[int, int] = {}
    turns: list[tuple[int, int, int]] = []
    for i in by_share:
        turn = seen.get(labels[i], 0)
        seen[labels[i]] = turn + 1
        turns.append((turn, len(turns), i))
    return sorted(i for _, _, i in sorted(turns)[:limit])
