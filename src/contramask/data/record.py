"""What a reader hands over: one record an image, with whatever annotation the source has."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np

Split: TypeAlias = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
#: A file, encoded bytes, a function that fetches them, or pixels.
ImageSource: TypeAlias = Path | bytes | Callable[[], bytes] | np.ndarray


class UnreadableImage(ValueError):
    """An image that cannot be used; the text is a sentence about the file."""


@dataclass(frozen=True)
class Instance:
    """One object: category index, box (x0, y0, x1, y1) in image pixels, half-open, and its mask."""

    category: int
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None  # bool (H, W)
    iscrowd: bool = False


@dataclass(frozen=True)
class Record:
    """One image of a source.

    `image` is a file, its encoded bytes (or what fetches them: it is called once, and may raise
    `UnreadableImage` or `OSError`), or pixels uint8 (H, W, C). `path` names the file inside the
    source for people. `semantic` is uint8 (h, w), 255 = ignored, at the image's size or a scaled
    one. `instances` refer to an image of `annotation_size` (height, width) pixels, by default the
    image as a viewer shows it, EXIF rotation applied. `notes` are sentences about annotations that
    could not be used.
    """

    id: str
    image: ImageSource
    split: Split | None
    path: str = ""
    label: int | None = None
    semantic: np.ndarray | None = None
    instances: tuple[Instance, ...] = ()
    annotation_size: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()


class LazyRecords(Sequence[Record]):
    """`count` records, each made when asked for by a function of its number."""

    def __init__(self, count: int, make: Callable[[int], Record]) -> None:
        self.length, self.make = count, make

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < self.length:
            raise IndexError(f"record {index} of {self.length}")
        return self.make(index)


@dataclass(frozen=True)
class Source:
    """A readable collection: records (possibly made when asked for) and the names of its classes.

    `records` may be read from several threads at once. `splits` gives each record's split without
    reading it. Lists of names are empty where the source has no such annotation. `facts` are plain
    values for the data card (files ignored, where the split came from, terms of use).
    """

    name: str
    records: Sequence[Record]
    splits: Sequence[Split]
    classes: list[str] = field(default_factory=list)
    semantic_classes: list[str] = field(default_factory=list)
    instance_classes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
