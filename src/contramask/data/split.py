"""Decides by name alone which image goes where, so that every machine decides alike."""

import hashlib
import re
from collections.abc import Sequence

from contramask.data.record import SPLITS, Split

#: Words that data sets use for their parts, and what they stand for.
_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SPLIT_WORD = re.compile(
    rf"({'|'.join(_WORDS)})[-_ ]?(\d*|annot|images?|masks?|labels?)", re.IGNORECASE
)


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


def split_by_class(names: Sequence[str], strata: Sequence[object], fraction: float) -> list[Split]:
    """Put about the same share of each class (any value of `strata`) into val, by name.

    A class of two images or more is in both splits, unless `fraction` is 0.
    """
    splits: list[Split] = ["train"] * len(names)
    members: dict[object, list[int]] = {}
    for i, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(i)
    for own in members.values():
        own.sort(key=lambda i: (name_share(names[i]), names[i]))
        count = round(fraction * len(own))
        if len(own) > 1 and fraction > 0:
            count = min(max(count, 1), len(own) - 1)
        for i in own[: count if len(own) > 1 else 0]:
            splits[i] = "val"
    return splits


def split_word(text: object) -> str | None:
    """`train`, `val` or `test` as a folder, file or table cell names it (train2017, valid, ...)."""
    found = _SPLIT_WORD.fullmatch(str(text).strip())
    return _WORDS[found[1].lower()] if found else None


def settle_splits(
    given: Sequence[str | None],
    names: Sequence[str],
    val_fraction: float,
    strata: Sequence[object] | None = None,
) -> tuple[list[Split | None], str]:
    """The split of each image from what the source says (train, val, test or None), and a fact.

    Given both train and val (or test, which then serves as val) they are kept and the rest is left
    out. Otherwise val is drawn by name, from the train part where there is one, and with `strata`
    (classes, for one) from each of them alike.
    """
    there = set(given)
    if "train" in there and there & {"val", "test"}:
        second = "val" if "val" in there else "test"
        kept: dict[str | None, Split] = {"train": "train", second: "val"}
        what = "the test part serves as val" if second == "test" else "train and val"
        return [kept.get(word) for word in given], f"given by the source: {what}"
    rows = [i for i, word in enumerate(given) if word == "train" or "train" not in there]
    own = [names[i] for i in rows]
    kinds = [strata[i] for i in rows] if strata is not None else []
    by_class = len(set(kinds)) > 1
    drawn = (
        split_by_class(own, kinds, val_fraction) if by_class else split_by_name(own, val_fraction)
    )
    splits: list[Split | None] = [None] * len(names)
    for i, split in zip(rows, drawn, strict=True):
        splits[i] = split
    origin = "the train part" if "train" in there else "all images"
    origin += ", of each class alike," if by_class else ""
    return splits, f"by name, {val_fraction:g} of {origin} into val"


def chosen_rows(
    names: Sequence[str],
    splits: Sequence[Split | None],
    labels: Sequence[int],
    limits: tuple[int | None, int | None],
) -> list[int]:
    """Positions of the images to use: of each split at most its limit (train, val), balanced."""
    kept: list[int] = []
    for split, limit in zip(SPLITS, limits, strict=True):
        own = [i for i, given in enumerate(splits) if given == split]
        chosen = balanced_choice([names[i] for i in own], [labels[i] for i in own], limit)
        kept += [own[i] for i in chosen]
    return sorted(kept)


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
