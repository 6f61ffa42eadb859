"""Batches by epoch: fetched from the store in one read, turned into views on the device."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from contramask.data.prefetch import Batches, prefetched, sent, staged
from contramask.data.resident import ResidentImages
from contramask.draws import image_keys

Batch = dict[str, Any]
Views = Callable[[Tensor, Tensor, Tensor | None], Batch]


class Images(Protocol):
    """What a loader asks of a store: its labels, and pixels by row numbers."""

    labels: np.ndarray

    def __len__(self) -> int: ...

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C)."""


class Subset:
    """Some rows of a split, numbered anew from 0."""

    def __init__(self, images: Images, rows: np.ndarray) -> None:
        self.images, self.rows = images, rows
        self.labels = images.labels[rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C)."""
        return self.images.__getitems__(self.rows[indices])


def epoch_order(count: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of the images, fixed by seed and epoch."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def check_filled(batch_size: int, images: int) -> None:
    """Raise `ValueError` unless there are enough images for one batch."""
    if images < batch_size:
        raise ValueError(
            f"a batch of {batch_size} cannot be filled from {images} images; set "
            f"batch_size to {images} or less, or give more images"
        )


def check_share(batch_size: int, processes: int) -> None:
    """Raise `ValueError` unless a batch can be cut into equal parts, one for each process."""
    if batch_size % processes:
        raise ValueError(
            f"a batch of {batch_size} images cannot be shared equally by {processes} processes; "
            f"set batch_size to a multiple of {processes}, or launch.devices to a divisor of it"
        )


class ImageLoader:
    """Shuffled batches of views; the last, incomplete batch of an epoch is dropped.

    The next batch is read from the store by one thread while the device works on the current one;
    `ResidentImages` are already where they are needed.
    share (i, n): only the i-th of n equal parts of every batch is made, for the i-th of n processes
    (from 0). Raises `ValueError` when there are fewer images than one batch holds, or a batch
    cannot be shared equally.
    """

    def __init__(
        self,
        images: Images,
        views: Views,
        batch_size: int,
        seed: int,
        device: torch.device,
        boxes: np.ndarray | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        check_filled(batch_size, len(images))
        check_share(batch_size, share[1])
        self.share = share
        self.images, self.views, self.seed, self.device = images, views, seed, device
        self.batch_size = batch_size
        self.steps_per_epoch = len(images) // batch_size
        self.boxes = None if boxes is None else torch.tensor(boxes, device=device)

    @property
    def tolerated_wait(self) -> float:
        """Share of the time that these batches may cost without a word."""
        return 0.1 if self.device.type == "cpu" else 0.02

    @property
    def advice(self) -> str:
        """What to do when training waits for these batches."""
        if self.device.type == "cpu":
            return (
                "the views are made between two steps by the processor that trains; smaller "
                "views or fewer colour changes (views.colour) cost less, an accelerator makes them "
                "beside its work"
            )
        if isinstance(self.images, ResidentImages):
            return "making views is too slow: use smaller views or fewer changes (views.colour)"
        return (
            "reading is too slow: put the store on a local disk, or where memory can hold it; "
            "launch.resident: yes keeps the images on the device"
        )

    @property
    def kept(self) -> str:
        """Where the images wait to be fetched, for the plan."""
        if isinstance(self.images, ResidentImages):
            return f"on the device, {self.images.gigabytes:.1f} GB"
        return "in the store, read while training"

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the whole batch of a step, counted over all epochs from 0."""
        epoch, batch = divmod(step, self.steps_per_epoch)
        start = batch * self.batch_size
        return epoch_order(len(self.images), self.seed, epoch)[start : start + self.batch_size]

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on: views, index, key, label (-1: none)."""
        return prefetched(self._batches(epoch, start), self.device)

    def _batches(self, epoch: int, start: int) -> Batches:
        """The same, each begun when it is asked for."""
        parts = self.parts(epoch, start)
        if isinstance(self.images, ResidentImages):
            yield from (self._batch(indices, self.images, epoch) for indices in parts)
            return
        with ThreadPoolExecutor(max_workers=1) as reader:
            waiting: Future[Tensor] | None = None
            for number, indices in enumerate(parts):
                fetched = (waiting or reader.submit(self._read, indices)).result()
                if number + 1 < len(parts):
                    waiting = reader.submit(self._read, parts[number + 1])
                yield self._batch(indices, fetched, epoch)

    def _read(self, indices: np.ndarray) -> Tensor:
        return staged(self.images.__getitems__(indices), self.device)

    def parts(self, epoch: int, start: int) -> list[np.ndarray]:
        """This process's row numbers of each batch of an epoch from step `start` on."""
        order = epoch_order(len(self.images), self.seed, epoch)
        starts = range(
            start * self.batch_size, self.steps_per_epoch * self.batch_size, self.batch_size
        )
        number, count = self.share
        return [np.split(order[s : s + self.batch_size], count)[number] for s in starts]

    def _batch(self, indices: np.ndarray, pixels: Tensor | ResidentImages, epoch: int) -> Batch:
        """A batch of pixels that are `staged`, or on the device already."""
        device = self.device
        index = sent(staged(indices, device), device)
        label = sent(staged(self.images.labels[indices], device), device)
        key = image_keys(self.seed, epoch, index)
        boxes = None if self.boxes is None else self.boxes[index]
        with torch.no_grad():
            views = self.views(self._on_device(pixels, index), key, boxes)
        return {**views, "index": index, "key": key, "label": label}

    def _on_device(self, pixels: Tensor | ResidentImages, index: Tensor) -> Tensor:
        if isinstance(pixels, ResidentImages):
            return pixels.take(index)
        return sent(pixels, self.device)
