"""WebDataset: tar files in which the members of one example share their name up to the first dot.

An example is an image and, where there is one, its class: a number or a word in `<key>.cls`, or
the key `label` (`dataset.label_column`) of `<key>.json`. Shards called train-..., val-... are the
splits.
"""

import json
import re
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from contramask.data.class_file import find_class_file, read_class_file
from contramask.data.config import DatasetConfig
from contramask.data.readers.layout import EXTENSIONS, Layout
from contramask.data.readers.rows import row_source
from contramask.data.record import ImageSource, Source, UnreadableImage
from contramask.data.split import split_word
from contramask.data.tree import FileTree, given_root

_WANTED = "give a tar file, or a folder of tar files"
_LARGEST_LABEL = 1 << 20  # bytes


def read(config: DatasetConfig) -> Source:
    """List the examples of the tar files at `config.root`; raises `ValueError` without any."""
    root = given_root(config.root, "webdataset", _WANTED)
    files = _tar_files(root)
    facts: dict[str, Any] = {"shards": len(files), "damaged_shards": []}
    key = config.label_column or "label"
    examples = [
        {**example, "shard": i}
        for i, file in enumerate(files)
        for example in _examples(file, key, facts)
    ]
    if not examples:
        kinds = "unpacked to .tar" if _packed(root) else "of WebDataset's layout"
        raise ValueError(
            f"dataset.root {root} holds no tar file with images {kinds} (damaged:"
            f" {', '.join(facts['damaged_shards']) or 'none'}); {_WANTED}"
        )
    rows = pd.DataFrame(examples, dtype=object)  # labels stay the whole numbers they are
    names = _class_names(config, root, rows)

    def image(i: int) -> ImageSource:
        shard, start, size = (rows[column].iat[i] for column in ("shard", "start", "size"))
        return partial(_fetch, files[shard], start, size)

    return row_source(root.stem, rows, image, names, config, facts)


def recognise(tree: FileTree) -> Layout | None:
    """Tar files, whatever is in them."""
    files = _tar_files(tree.root)
    return Layout("webdataset", f"{len(files)} tar files") if files else None


def _tar_files(root: Path) -> list[Path]:
    if root.is_file():
        return [root] if root.suffix == ".tar" else []
    return sorted(file for file in root.rglob("*.tar") if not file.name.startswith("."))


def _packed(root: Path) -> bool:
    names = [root.name] if root.is_file() else [file.name for file in root.iterdir()]
    return any(name.endswith((".tar.gz", ".tgz", ".tar.zst", ".tar.bz2")) for name in names)


def _examples(file: Path, key: str, facts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One row an image: name, split, where its bytes lie, and its label if it has one."""
    words = (split_word(word) for word in re.split(r"[-_.]", file.stem))
    split = next((word for word in words if word), split_word(file.parent.name))
    found: dict[str, dict[str, Any]] = {}
    labels: dict[str, Any] = {}
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                path = PurePosixPath(member.name)
                stem, _, ending = path.name.partition(".")
                if not member.isfile() or not stem:
                    continue
                name = (path.parent / stem).as_posix()
                if f".{ending.split('.')[-1].lower()}" in EXTENSIONS and name not in found:
                    found[name] = {"start": member.offset_data, "size": member.size}
                elif ending in ("cls", "json") and member.size <= _LARGEST_LABEL:
                    stream = tar.extractfile(member)
                    label = _label(stream.read() if stream else b"", ending, key)
                    labels.setdefault(name, label)
    except (OSError, tarfile.TarError) as error:
        facts["damaged_shards"].append(f"{file.name} ({error})")
    for name, place in found.items():
        yield {"name": f"{file.stem}/{name}", "split": split, "label": labels.get(name), **place}


def _label(content: bytes, ending: str, key: str) -> Any:
    text = content.decode("utf-8", "replace").strip()
    if ending == "json":
        try:
            value = json.loads(text)
        except ValueError:
            return None
        found = value.get(key) if isinstance(value, dict) else None
        return found if isinstance(found, int | str) else None
    return int(text) if re.fullmatch(r"-?\d+", text) else (text or None)


def _class_names(config: DatasetConfig, root: Path, rows: pd.DataFrame) -> list[str] | None:
    """Names by number from a file of names, where there is one and labels are numbers."""
    tree = FileTree(root if root.is_dir() else root.parent)
    file = find_class_file(tree, config.classes_file)
    numbers = rows["label"].dropna()
    if file is None or not all(isinstance(label, int) for label in numbers):
        return None
    names = dict(read_class_file(tree, file)[0])
    return [names.get(i, f"class {i}") for i in range(max([*names, *numbers]) + 1)]


def _fetch(file: Path, start: int, size: int) -> bytes:
    with open(file, "rb") as stream:
        stream.seek(start)
        data = stream.read(size)
    if len(data) < size:
        raise UnreadableImage(f"is cut off at the end of {file.name}")
    return data
