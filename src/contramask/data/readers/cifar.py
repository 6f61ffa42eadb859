"""CIFAR-10 and CIFAR-100, in their authors' binary version.

A file is a row of records: the label (of CIFAR-100 two, coarse and fine; the fine one is used) and
3 x 32 x 32 values, channel by channel. The test part serves as val. The Python version is not read:
it holds pickles, which can run code.
"""

from pathlib import Path

import numpy as np

from contramask.data.config import DatasetConfig
from contramask.data.readers.layout import Layout
from contramask.data.record import LazyRecords, Record, Source, Split
from contramask.data.split import chosen_rows
from contramask.data.tree import FileTree, given_root

_PIXELS = 3 * 32 * 32
#: Label bytes, file of the class names, train files, test file.
_LAYOUTS: dict[str, tuple[int, str, tuple[str, ...], str]] = {
    "cifar10": (
        *(1, "batches.meta.txt"),
        tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        "test_batch.bin",
    ),
    "cifar100": (2, "fine_label_names.txt", ("train.bin",), "test.bin"),
}


def read(config: DatasetConfig) -> Source:
    """List the images under `config.root`; raises `ValueError` for missing or cut-off files."""
    wanted = "give the folder of the .bin files of its binary version"
    root = given_root(config.root, config.source, wanted)
    label_bytes, names_file, train, test = _LAYOUTS[config.source]
    missing = [name for name in (names_file, *train, test) if not (root / name).is_file()]
    if missing:
        raise ValueError(f"dataset.root {root} lacks {', '.join(missing)}; {wanted}")
    classes = (root / names_file).read_text(encoding="utf-8").split()
    files = [_records(root / name, label_bytes) for name in (*train, test)]
    where = [(number, row) for number, file in enumerate(files) for row in range(len(file))]
    names = [f"{(*train, test)[number]}/{row:05d}" for number, row in where]
    labels = [int(files[number][row, label_bytes - 1]) for number, row in where]
    if labels and max(labels) >= len(classes):
        raise ValueError(f"{root} has the label {max(labels)} and {len(classes)} class names")
    splits: list[Split | None] = ["val" if number == len(train) else "train" for number, _ in where]
    rows = chosen_rows(names, splits, labels, (config.limit, config.val_limit))

    def make(i: int) -> Record:
        number, row = where[rows[i]]
        values = np.array(files[number][row, label_bytes:]).reshape(3, 32, 32)
        pixels = np.ascontiguousarray(values.transpose(1, 2, 0))
        name = names[rows[i]]
        return Record(name, pixels, splits[rows[i]], name, labels[rows[i]])

    chosen = [split for split in (splits[i] for i in rows) if split]
    facts = {"split": "given by the source: the test part serves as val"}
    return Source(config.source, LazyRecords(len(rows), make), chosen, classes, facts=facts)


def recognise(tree: FileTree) -> Layout | None:
    """The names of its files, directly under root."""
    for source, (_, names_file, train, test) in _LAYOUTS.items():
        if {names_file, *train, test} <= set(tree.loose):
            return Layout(source, f"{source}'s binary files")
    return None


def _records(file: Path, label_bytes: int) -> np.ndarray:
    """A file's records, uint8 (N, label_bytes + 3072), memory-mapped."""
    size, width = file.stat().st_size, label_bytes + _PIXELS
    if not size or size % width:
        raise ValueError(
            f"{file} has {size:,} bytes, no multiple of the {width:,} of a record; it is cut off or"
            " another file: fetch it again"
        )
    return np.memmap(file, dtype=np.uint8, mode="r", shape=(size // width, width))
