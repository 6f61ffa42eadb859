"""What a reader hands over: one record an image, with whatever annotation the source has."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

Split: TypeAlias = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")


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

    `image` is a file, its encoded bytes, or pixels uint8 (H, W, 3). `path` names the file inside
    the source for people. `semantic` is uint8 (H, W), 255 = ignored. Annotations refer to the
    image as a viewer shows it, EXIF rotation applied.
    """

    id: str
    image: Path | bytes | np.ndarray
    split: Split | None
    path: str = ""
    label: int | None = None
    semantic: np.ndarray | None = None
    instances: tuple[Instance, ...] = ()


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
