"""Makes one record ready for the store: decoded, framed, counted, or skipped with a reason."""

from dataclasses import dataclass, field

import numpy as np

from contramask.data.config import DatasetConfig
from contramask.data.decode import FileFacts, decode
from contramask.data.framing import Frame
from contramask.data.jpeg import encode
from contramask.data.record import Instance, Record, Split, UnreadableImage
from contramask.data.store import IGNORED


@dataclass(frozen=True)
class Prepared:
    """One image in store form; `facts` is None and `problem` a sentence when it was skipped.

    `pixels` are uint8 (H, W, C), `label` -1 without a label; `histogram` int64 (C, 256) counts the
    store's pixels by channel and value, without a border. `jpeg` is what a JPEG store keeps: the
    resized image before it is cut or padded.
    """

    id: str
    path: str
    split: Split
    label: int
    facts: FileFacts | None
    problem: str = ""
    pixels: np.ndarray | None = None
    jpeg: bytes = b""
    semantic: np.ndarray | None = None
    instances: tuple[Instance, ...] = ()
    histogram: np.ndarray = field(default_factory=lambda: np.zeros((3, 256), np.int64))


def prepare(record: Record, split: Split, config: DatasetConfig) -> Prepared:
    """Decode one record and fit it, with its annotations, into the store's rectangle."""
    label = -1 if record.label is None else record.label
    try:
        decoded = decode(record.image, max(config.image_size), config.channels, config.value_range)
    except UnreadableImage as error:
        return Prepared(record.id, record.path, split, label, None, str(error))
    facts = decoded.facts
    frame = Frame(facts.height, facts.width, config.image_size, config.fit)
    whole = frame.whole(decoded.pixels)
    pixels = frame.placed(whole)
    semantic, lost = _semantic(record, frame)
    instances, also_lost = _instances(record, frame)
    return Prepared(
        id=record.id,
        path=record.path,
        split=split,
        label=label,
        facts=facts,
        problem="; ".join([*facts.notes, *record.notes, *lost, *also_lost]),
        pixels=pixels,
        jpeg=encode(whole) if config.store == "jpeg" else b"",
        semantic=semantic,
        instances=instances,
        histogram=_histogram(frame.content(pixels)),
    )


def _semantic(record: Record, frame: Frame) -> tuple[np.ndarray | None, list[str]]:
    if record.semantic is None:
        return None, []
    height, width = record.semantic.shape
    if not frame.has_aspect_of(height, width):
        return None, [_misfit("semantic mask", (height, width), frame)]
    own = Frame(height, width, frame.size, frame.fit)
    return own.mask(record.semantic, border=IGNORED), []


def _instances(record: Record, frame: Frame) -> tuple[tuple[Instance, ...], list[str]]:
    if record.annotation_size and record.instances:
        if not frame.has_aspect_of(*record.annotation_size):
            return (), [_misfit("objects", record.annotation_size, frame)]
        frame = Frame(*record.annotation_size, frame.size, frame.fit)
    fitted = (frame.instance(instance) for instance in record.instances)
    return tuple(instance for instance in fitted if instance is not None), []


def _misfit(what: str, size: tuple[int, int], frame: Frame) -> str:
    return (
        f"has {what} for {size[1]} x {size[0]} pixels, which do not fit its own"
        f" {frame.width} x {frame.height}; they were left out"
    )


def _histogram(pixels: np.ndarray) -> np.ndarray:
    channels = np.moveaxis(pixels, 2, 0)
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in channels])
