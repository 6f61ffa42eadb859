"""Batches made by processes, in shared memory that is reserved once.

A slot holds the views of one batch, uint8. Each worker fills its share of every slot, in the order
the slots were asked for; nothing is allocated, pickled or copied per batch but row numbers. Workers
start with the first batch and stay until the ring is closed or dropped.
"""

import contextlib
import multiprocessing
import signal
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

import cv2
import numpy as np
import torch

from contramask.data.augment import Augmenter, TransformFailed, write_views
from contramask.data.loader import Images
from contramask.data.transforms import TransformsConfig

#: Batches under way: one is being used while the others are made.
DEPTH = 3
_IDLE = -1
_PRELOADED = [__name__, "contramask.data.store", "albumentations"]

Shape = tuple[int, int, int, int, int]


class Ring(Protocol):
    """Slots that are filled in the background, each when asked for."""

    def submit(self, slot: int, rows: np.ndarray, keys: np.ndarray) -> None:
        """Begin to fill a slot with the views of these images; keys (B, 3) from `draw_keys`."""

    def collect(self, slot: int) -> np.ndarray:
        """Views (V, B, H, W, C) of what was submitted; valid until the next `submit` to the slot.

        Raises `TransformFailed`, or `ChildProcessError` if a worker is gone.
        """

    def settle(self) -> None:
        """Wait for all that is under way and forget it."""


@dataclass(frozen=True)
class Recipe:
    """What makes views, sent once to each worker."""

    images: Images
    transforms: TransformsConfig
    shape: Shape  # views, batch, rows, columns, channels

    @property
    def slot_bytes(self) -> int:
        """Bytes of one slot."""
        return int(np.prod(self.shape))


class _Cook:
    """Fills rows of slots in the process it was made in."""

    def __init__(self, recipe: Recipe, memory: Any) -> None:
        self.images = recipe.images
        self.augmenter = Augmenter(recipe.transforms, recipe.shape[0])
        self.slots = _slots(memory, recipe.shape)

    def fill(
        self, slot: int, first: int, rows: np.ndarray, keys: np.ndarray, note: Callable[[int], None]
    ) -> None:
        """Images `rows` into places first, first + 1, ... of a slot; `note` learns which is next.

        Raises `TransformFailed` that names the image's row.
        """
        pixels = self.images.__getitems__(rows)
        for place, (row, image, key) in enumerate(zip(rows, pixels, keys, strict=True), first):
            note(int(row))
            try:
                write_views(self.augmenter, image, key, list(self.slots[slot][:, place]))
            except TransformFailed as error:
                named = _named(self.images, int(row))
                raise TransformFailed(f"views.transforms, {named}: {error}") from error
        note(_IDLE)


class ThreadRing:
    """A ring without worker processes: a thread of this one makes the batches."""

    def __init__(self, recipe: Recipe) -> None:
        self._cook = _Cook(recipe, bytearray(DEPTH * recipe.slot_bytes))
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._open: dict[int, Future[None]] = {}
        weakref.finalize(self, self._thread.shutdown, wait=False)

    def submit(self, slot: int, rows: np.ndarray, keys: np.ndarray) -> None:
        """See `Ring`."""
        self._open[slot] = self._thread.submit(self._cook.fill, slot, 0, rows, keys, _forget)

    def collect(self, slot: int) -> np.ndarray:
        """See `Ring`."""
        self._open.pop(slot).result()
        return self._cook.slots[slot]

    def settle(self) -> None:
        """See `Ring`."""
        for future in self._open.values():
            future.cancel()
        for future in self._open.values():
            if not future.cancelled():
                future.exception()
        self._open.clear()


class ProcessRing:
    """A ring filled by `workers` processes."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self.recipe, self.workers = recipe, workers
        names = multiprocessing.get_all_start_methods()
        # A fork of a process with threads or a CUDA context can hang; a server that has neither
        # forks in milliseconds once it has imported this module.
        self._context: Any = multiprocessing.get_context(
            "forkserver" if "forkserver" in names else "spawn"
        )
        if "forkserver" in names:
            self._context.set_forkserver_preload(_PRELOADED)
        # Anonymous to the file system, so nothing can be left behind; in /dev/shm if it fits there.
        self._memory = self._context.RawArray("B", DEPTH * recipe.slot_bytes)
        self._rows = self._context.RawArray("q", [_IDLE] * workers)  # what each works on
        self._slots = _slots(self._memory, recipe.shape)
        self._lines: list[Connection] = []
        self._processes: list[BaseProcess] = []
        self._open: dict[int, set[int]] = {}
        self._close: Callable[[], Any] = weakref.finalize(
            self, _close, self._lines, self._processes
        )

    def submit(self, slot: int, rows: np.ndarray, keys: np.ndarray) -> None:
        """See `Ring`."""
        if not self._lines:
            self._start()
        edges = np.linspace(0, len(rows), self.workers + 1).astype(int)
        self._open[slot] = set()
        for worker, line in enumerate(self._lines):
            first, last = int(edges[worker]), int(edges[worker + 1])
            try:
                line.send((slot, first, rows[first:last], keys[first:last]))
            except OSError as error:
                raise self._lost(worker) from error
            self._open[slot].add(worker)

    def collect(self, slot: int) -> np.ndarray:
        """See `Ring`."""
        while self._open[slot]:
            lines = {self._lines[w]: w for w in set().union(*self._open.values())}
            for line in wait(list(lines)):
                failure = self._receive(line, lines[line])  # type: ignore[index,arg-type]
                if failure is not None:
                    raise failure
        del self._open[slot]
        return self._slots[slot]

    def settle(self) -> None:
        """See `Ring`."""
        for worker, line in enumerate(self._lines):
            for _ in range(sum(worker in waiting for waiting in self._open.values())):
                self._receive(line, worker)  # nobody asks what failed in a batch nobody wants
        self._open.clear()

    def _receive(self, line: Connection, worker: int) -> Exception | None:
        """Take one answer of a worker: what failed, if anything."""
        try:
            slot, failure = line.recv()
        except (EOFError, OSError) as error:
            raise self._lost(worker) from error
        self._open[slot].discard(worker)
        return failure  # type: ignore[no-any-return]

    def _lost(self, worker: int) -> ChildProcessError:
        process, row = self._processes[worker], self._rows[worker]
        process.join(timeout=5)
        names = [
            str(step.get("name") or step.get("__class_fullname__"))
            for steps in self.recipe.transforms.lists().values()
            for step in steps
        ]
        at = f"at {_named(self.recipe.images, row)}" if row != _IDLE else "between two images"
        self._stop()
        return ChildProcessError(
            f"a worker process ended {at} while it ran views.transforms "
            f"({', '.join(dict.fromkeys(names))}): {_ending(process.exitcode)}; set "
            "launch.workers to 0 to see the transform's own error"
        )

    def _start(self) -> None:
        for worker in range(self.workers):
            mine, theirs = self._context.Pipe()
            process = self._context.Process(
                target=_serve,
                args=(theirs, self.recipe, self._memory, self._rows, worker),
                daemon=True,
                name=f"views-{worker}",
            )
            process.start()
            theirs.close()  # so that the end of the worker is the end of the line
            self._lines.append(mine)
            self._processes.append(process)

    def _stop(self) -> None:
        self._open.clear()
        self._close()


def make_ring(recipe: Recipe, workers: int) -> Ring:
    """A ring with that many worker processes; with none, a thread."""
    return ProcessRing(recipe, workers) if workers else ThreadRing(recipe)


def _serve(line: Connection, recipe: Recipe, memory: Any, rows: Any, worker: int) -> None:
    """What a worker does until its line is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which closes the line
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    cook = _Cook(recipe, memory)

    def note(row: int) -> None:
        rows[worker] = row

    with contextlib.suppress(EOFError, OSError):
        while True:
            slot, first, indices, keys = line.recv()
            failure: Exception | None = None
            try:
                cook.fill(slot, first, indices, keys, note)
            except (TransformFailed, OSError) as error:
                failure = type(error)(str(error))
            line.send((slot, failure))


def _slots(memory: Any, shape: Shape) -> list[np.ndarray]:
    return list(np.frombuffer(memory, dtype=np.uint8).reshape(DEPTH, *shape))


def _close(lines: list[Connection], processes: Iterable[BaseProcess]) -> None:
    for line in lines:
        line.close()
    for process in processes:
        process.join(timeout=5)
        if process.is_alive():
            process.terminate()


def _named(images: Images, row: int) -> str:
    """An image by its id where the store has one, and its row."""
    ids = getattr(images, "ids", None)
    return f"image {row}" if ids is None else f"image {ids[row]} (row {row})"


def _ending(code: int | None) -> str:
    if code == -9:  # SIGKILL, a name that Windows lacks
        return "it was killed, most often because memory ran out (fewer launch.workers need less)"
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _forget(row: int) -> None:
    """A thread's errors name the image themselves."""
