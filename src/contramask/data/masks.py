"""Semantic masks as files: from values, palettes or colours to class indices, 255 = ignored."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from contramask.data.decode import MAX_PIXELS
from contramask.data.record import UnreadableImage
from contramask.data.store import IGNORED
from contramask.data.tree import FileTree

#: Names of classes that mean "no class".
_NO_CLASS = {"unlabelled", "unlabeled", "void", "ignore", "ignored", "unknown", "unclassified"}
#: More values than this in masks without a list of classes are not classes.
_MAX_FOUND = 254
_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "JPEG", "PPM", "WEBP")


@dataclass(frozen=True)
class MaskCode:
    """What the values of masks mean.

    `codes` (int64, ascending) are pixel values, or 65536 R + 256 G + B where `is_colour`;
    `indices` (uint8) are the classes they stand for.
    """

    classes: list[str]
    codes: np.ndarray
    indices: np.ndarray
    is_colour: bool

    def classify(self, values: np.ndarray) -> tuple[np.ndarray, int]:
        """Class indices uint8 of the same shape, and how many pixels have a value of no class."""
        place = np.searchsorted(self.codes, values).clip(max=len(self.codes) - 1)
        known = self.codes[place] == values
        found = np.where(known, self.indices[place], IGNORED).astype(np.uint8)
        strange = ~known if self.is_colour else ~known & (values != IGNORED)
        return found, int(np.count_nonzero(strange))


def mask_code(names: Sequence[tuple[int, str]], is_colour: bool) -> MaskCode:
    """The code of a list of (value, class name); equal names become one class.

    Classes called void, unlabelled and the like are ignored. Raises `ValueError` for too many.
    """
    classes: list[str] = []
    indices: dict[int, int] = {}
    for code, name in names:
        if name.strip().lower() in _NO_CLASS:
            indices[code] = IGNORED
            continue
        if name not in classes:
            classes.append(name)
        indices[code] = classes.index(name)
    if not 1 <= len(classes) < IGNORED:
        raise ValueError(f"masks need 1 to {IGNORED - 1} classes, and {len(classes)} are named")
    codes = np.array(sorted(indices), dtype=np.int64)
    return MaskCode(
        classes, codes, np.array([indices[c] for c in codes.tolist()], np.uint8), is_colour
    )


def mask_values(data: bytes, is_colour: bool) -> np.ndarray:
    """The values (H, W) int64 of a mask file; raises `UnreadableImage` with the reason."""
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_PIXELS:
            raise UnreadableImage(f"has {image.width} x {image.height} pixels")
        values = np.asarray(image.convert("RGB") if is_colour else image)
    except UnreadableImage:
        raise
    except Exception as error:  # whatever the decoder raises, only this mask is lost
        raise UnreadableImage(f"cannot be decoded ({error})") from error
    if values.ndim == 2:
        return values.astype(np.int64)
    if is_colour:
        return np.asarray(values.astype(np.int64) @ np.array([65_536, 256, 1]))
    grey = values.shape[2] < 3 or (values[..., :1] == values[..., :3]).all()
    if not grey:
        raise UnreadableImage("is a colour picture, and its classes are told by grey value")
    return values[..., 0].astype(np.int64)


def read_semantic(
    tree: FileTree, name: str, code: MaskCode
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """A record's `semantic` and `notes` from a mask file; a damaged mask is left out and noted."""
    try:
        found, strange = code.classify(mask_values(tree.read(name), code.is_colour))
    except (OSError, UnreadableImage) as error:
        return None, (f"has a mask {Path(name).name} that was left out: it {_said(error)}",)
    if not strange:
        return found, ()
    return found, (f"has {strange} mask pixels with values of no class, which are ignored",)


def _said(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be opened ({error.strerror or error})"
    return str(error)


def found_code(masks: Iterable[bytes]) -> MaskCode:
    """The classes that some masks themselves show, for lack of a list of names.

    Grey or palette values, else colours. Only 0 and 255: background and foreground. Raises
    `ValueError` when there are more values than classes could be.
    """
    grey, colours, is_colour = set[int](), set[int](), False
    for data in masks:
        found = _shown(data, is_colour=False)
        colours |= (shown := _shown(data, is_colour=True))
        grey |= found
        is_colour |= bool(shown) and not found  # readable, but not as grey values
        if len(colours if is_colour else grey) > _MAX_FOUND:
            raise ValueError("its masks hold more values than classes can be")
    if is_colour:
        return mask_code([(c, f"#{c:06x}") for c in sorted(colours)], is_colour=True)
    if grey == {0, IGNORED}:
        return mask_code([(0, "background"), (IGNORED, "foreground")], is_colour=False)
    values = sorted(grey - {IGNORED})
    return mask_code([(v, f"class {v}") for v in values], is_colour=False)


def _shown(data: bytes, is_colour: bool) -> set[int]:
    try:
        return set(np.unique(mask_values(data, is_colour)).tolist())
    except UnreadableImage:
        return set()
