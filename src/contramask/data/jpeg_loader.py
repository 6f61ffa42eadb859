"""Batches from a JPEG store: threads decode ahead of the training, into memory that stays."""

import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from contramask.data.jpeg import JpegImages, single_opencv
from contramask.data.loader import Batch, ImageLoader
from contramask.data.prefetch import Batches, staged
from contramask.data.resize import cut_one, pixel_edges
from contramask.data.views import ViewMaker
from contramask.draws import image_keys

#: Batches under way: one is being used while the others are decoded.
DEPTH = 4
_TASK = 8  # images a thread makes at a time

#: Makes the picture of a row at a place of a slot.
Fill = Callable[[np.ndarray, int, int], None]


class JpegSource(Protocol):
    """What the loader asks of a store's split."""

    images: JpegImages
    labels: np.ndarray

    def __len__(self) -> int: ...

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C)."""


class _Cook(Protocol):
    """What is put into a slot, and how views come out of it."""

    shape: tuple[int, ...]

    def fill_for(self, key: Tensor, boxes: Tensor | None) -> Fill:
        """How to fill a slot with the images of these keys."""

    def views(self, pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        """The views of a filled slot, which is on the device."""


class _Framed:
    """The store's pictures; the device cuts the views."""

    def __init__(self, images: JpegImages, maker: ViewMaker, batch_size: int) -> None:
        self.images, self.maker = images, maker
        self.shape: tuple[int, ...] = (batch_size, *images.shape[1:])

    def fill_for(self, key: Tensor, boxes: Tensor | None) -> Fill:
        """See `_Cook`."""

        def fill(slot: np.ndarray, place: int, row: int) -> None:
            slot[place] = self.images.decoded(row)

        return fill

    def views(self, pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        """See `_Cook`."""
        return self.maker(pixels, key, boxes)


class _Cut:
    """Crops of view size, made where an image was just decoded: nothing is left to be cut."""

    def __init__(self, images: JpegImages, maker: ViewMaker, batch_size: int) -> None:
        self.images, self.maker = images, maker
        self.size = (images.shape[1], images.shape[2])
        count, *size = maker.cut_shape
        self.shape: tuple[int, ...] = (count, batch_size, *size, images.shape[3])

    def fill_for(self, key: Tensor, boxes: Tensor | None) -> Fill:
        """See `_Cook`."""
        cuts = self.maker.cuts(key, boxes, self.size)
        places = [(pixel_edges(cut.boxes, self.size), cut.flip.tolist()) for cut in cuts]

        def fill(slot: np.ndarray, place: int, row: int) -> None:
            image = self.images.decoded(row)
            for number, (edges, flips) in enumerate(places):
                cut_one(image, edges[place], flips[place], slot[number, place])

        return fill

    def views(self, pixels: Tensor, key: Tensor, boxes: Tensor | None) -> Batch:
        """See `_Cook`."""
        return self.maker.from_cuts(pixels, key, boxes)


class _Slot:
    """Memory of one batch; `copied` is when an accelerator has read it."""

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        self.is_pinned, self.is_host = device.type == "cuda", device.type == "cpu"
        self._memory = torch.empty(shape, dtype=torch.uint8, pin_memory=self.is_pinned)
        self.pixels: np.ndarray = self._memory.numpy()
        self.copied: torch.cuda.Event | None = None
        self.tasks: list[Future[None]] = []

    def note_copy(self) -> None:
        """Remember that a copy of the slot to the device has been asked for."""
        if self.is_pinned:
            self.copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self.copied.record()

    def filled(self) -> np.ndarray:
        """The pixels, once they are there; valid until the slot is filled again."""
        for task in self.tasks:
            task.result()
        # Without an event to wait for, what is copied in the background must not change.
        return self.pixels if self.is_pinned or self.is_host else self.pixels.copy()

    def settle(self) -> None:
        """Wait for what still fills the slot and forget it."""
        for task in self.tasks:
            task.cancel()
        for task in self.tasks:
            if not task.cancelled():
                task.exception()
        self.tasks = []


class JpegLoader(ImageLoader):
    """As `ImageLoader`; `workers` threads (at least one) decode up to `DEPTH` batches ahead.

    On a processor they also cut the views, with the same draws and the same filter, so the batches
    are bit for bit those of an `ImageLoader` on this store, for every number of workers. One epoch
    is read at a time.
    """

    def __init__(
        self,
        images: JpegSource,
        views: ViewMaker,
        batch_size: int,
        seed: int,
        device: torch.device,
        share: tuple[int, int] = (0, 1),
        workers: int = 1,
    ) -> None:
        part = batch_size // share[1]
        cook: _Cook = _Framed(images.images, views, part)
        if device.type == "cpu":
            cook = _Cut(images.images, views, part)
        super().__init__(images, cook.views, batch_size, seed, device, share=share)
        self.workers = max(1, workers)
        self._cook, self._slots = cook, list[_Slot]()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="views")
        weakref.finalize(self, self._pool.shutdown, wait=False)

    def set_boxes(self, boxes: np.ndarray | None) -> None:
        """Crop boxes (N, 4) of the images, for view configurations that need them."""
        self.boxes = None if boxes is None else torch.tensor(boxes, device=self.device)

    tolerated_wait = 0.02  # threads of their own decode ahead
    kept = "in the store, decoded while training"

    @property
    def advice(self) -> str:
        """What to do when training waits for these batches."""
        return (
            f"the store's JPEG images are decoded by {self.workers} threads; raise launch.workers "
            "up to the cores that are free, or set dataset.store to raw where memory can hold it"
        )

    def _batches(self, epoch: int, start: int) -> Batches:
        parts = self.parts(epoch, start)
        if not self._slots:
            self._slots = [_Slot(self._cook.shape, self.device) for _ in range(DEPTH)]
        self._settle()  # an iterator that was left early and still lives
        with single_opencv():
            try:
                for slot, part in zip(self._slots, parts, strict=False):
                    self._submit(slot, part, epoch)
                for number, indices in enumerate(parts):
                    slot = self._slots[number % DEPTH]
                    made = staged(slot.filled(), self.device)
                    batch = self._batch(indices, made, epoch)
                    slot.note_copy()
                    if number + DEPTH < len(parts):
                        self._submit(slot, parts[number + DEPTH], epoch)
                    yield batch
            finally:
                self._settle()

    def _submit(self, slot: _Slot, indices: np.ndarray, epoch: int) -> None:
        index = torch.from_numpy(indices)
        key = image_keys(self.seed, epoch, index)
        is_cut_here = self.device.type == "cpu"
        boxes = self.boxes[index] if is_cut_here and self.boxes is not None else None
        fill, rows = self._cook.fill_for(key, boxes), indices.tolist()

        def task(start: int) -> None:
            if slot.copied is not None:
                slot.copied.synchronize()
            for place in range(start, min(start + _TASK, len(rows))):
                fill(slot.pixels, place, rows[place])

        slot.tasks = [self._pool.submit(task, start) for start in range(0, len(rows), _TASK)]

    def _settle(self) -> None:
        for slot in self._slots:
            slot.settle()
