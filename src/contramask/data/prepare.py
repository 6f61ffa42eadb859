"""Makes one record ready for the store: decoded, framed, counted, or skipped with a reason."""

from dataclasses import dataclass, field

import cv2
import numpy as np

from contramask.data.decode import FileFacts, UnreadableImage, decode
from contramask.data.framing import Frame
from contramask.data.record import Instance, Record, Split


@dataclass(frozen=True)
class Prepared:
    """One image in store form; `facts` is None and `problem` a sentence when it was skipped.

    `pixels` are uint8 (S, S, 3), `label` -1 without a label;
    `histogram` int64 (3, 256) counts the store's pixels by channel and value.
    """

    id: str
    path: str
    split: Split
    label: int
    facts: FileFacts | None
    problem: str = ""
    pixels: np.ndarray | None = None
    semantic: np.ndarray | None = None
    instances: tuple[Instance, ...] = ()
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))


def prepare(record: Record, split: Split, side: int) -> Prepared:
    """Decode one record and fit it, with its annotations, into a square of `side` pixels."""
    label = -1 if record.label is None else record.label
    try:
        decoded = decode(record.image, side)
    except UnreadableImage as error:
        return Prepared(record.id, record.path, split, label, None, str(error))
    facts = decoded.facts
    frame = Frame(facts.height, facts.width, side)
    pixels = frame.pixels(decoded.pixels)
    fitted = (frame.instance(instance) for instance in record.instances)
    return Prepared(
        id=record.id,
        path=record.path,
        split=split,
        label=label,
        facts=facts,
        problem="; ".join(facts.notes),
        pixels=pixels,
        semantic=None if record.semantic is None else frame.mask(record.semantic),
        instances=tuple(instance for instance in fitted if instance is not None),
        histogram=_histogram(pixels),
    )


def _histogram(pixels: np.ndarray) -> np.ndarray:
    counted = [cv2.calcHist([pixels], [channel], None, [256], [0, 256]) for channel in range(3)]
    return np.stack(counted).reshape(3, 256).astype(np.int64)
