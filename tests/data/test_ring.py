"""Batches from a ring: the same for any number of workers, fresh each epoch, clear when it ends."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contramask.data.augment import TransformFailed
from contramask.data.loader import epoch_order
from contramask.data.ring import DEPTH, ProcessRing, Recipe
from contramask.data.ring_loader import RingLoader
from contramask.data.store import Store
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewConfig, ViewMaker

CROP: dict[str, Any] = {"name": "RandomResizedCrop", "size": [24, 24], "scale": [0.2, 1.0]}
PLAIN = TransformsConfig(view=(CROP, {"name": "HorizontalFlip"}))
CPU = torch.device("cpu")
BATCH = 10


def make(
    store: Store, workers: int, config: TransformsConfig = PLAIN, views: int = 1
) -> RingLoader:
    size = (24, 24)
    maker = ViewMaker(ViewConfig(), "single", size, [0.0] * 3, [1 / 255] * 3)
    recipe = Recipe(store["train"], config, (views, BATCH, *size, 3))
    return RingLoader(recipe, maker.ready, 5, CPU, workers)


@pytest.fixture(scope="module")
def one(tiny_store: Store) -> RingLoader:
    return make(tiny_store, 1, views=2)


@pytest.fixture(scope="module")
def two(tiny_store: Store) -> RingLoader:
    return make(tiny_store, 2, views=2)


def views(loader: RingLoader, epoch: int, start: int = 0) -> list[Tensor]:
    return [torch.stack([b["view"], b["target_view"]]) for b in loader.epoch(epoch, start)]


def test_batches_are_the_same_for_any_number_of_workers(
    tiny_store: Store, one: RingLoader, two: RingLoader
) -> None:
    expected = views(make(tiny_store, 0, views=2), 1)
    assert len(expected) == 9
    for loader in (one, two):
        found = views(loader, 1)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_draw_comes_twice_in_an_epoch_nor_in_the_next(tiny_store: Store) -> None:
    """Two workers and 64 images that are one and the same picture."""
    # Crops are whole pixels, so now and then two are one and the same; noise never is.
    noisy = TransformsConfig(view=(*PLAIN.view, {"name": "GaussNoise", "p": 1.0}))
    loader = RingLoader(
        Recipe(_Alike(64), noisy, (2, 8, 24, 24, 3)),
        lambda images, key, boxes: {"view": images.clone()},
        0,
        CPU,
        2,
    )
    seen = []
    for epoch in (0, 1, 2):
        for batch in loader.epoch(epoch):
            seen += [view.numpy().tobytes() for view in batch["view"].flatten(0, 1)]
    assert len(seen) == 3 * 64 * 2
    assert len(set(seen)) == len(seen)


class _Alike:
    """One noise picture under every row number."""

    def __init__(self, count: int) -> None:
        self.labels = np.zeros(count, dtype=np.int64)
        self.picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return np.stack([self.picture] * len(indices))


@pytest.mark.parametrize("start", [1, 4, 8, 9])
def test_an_epoch_continues_with_the_remaining_batches(two: RingLoader, start: int) -> None:
    whole, rest = views(two, 3), views(two, 3, start)
    assert len(rest) == 9 - start
    assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_an_epoch_can_be_left_early_or_forgotten(two: RingLoader) -> None:
    expected = views(two, 0)
    batches = two.epoch(0)
    assert torch.equal(next(batches)["view"], expected[0][0])
    batches.close()
    forgotten = two.epoch(2)  # lives on while the next epoch is read
    next(forgotten)
    assert all(torch.equal(a, b) for a, b in zip(views(two, 0), expected, strict=True))


def test_a_batch_holds_what_belongs_together(tiny_store: Store, two: RingLoader) -> None:
    split = tiny_store["train"]
    whole = TransformsConfig(view=({"name": "Resize", "height": 24, "width": 24},))
    plain = make(tiny_store, 0, whole)
    for batch, other in zip(plain.epoch(0), two.epoch(0), strict=True):
        assert torch.equal(batch["index"], other["index"])
        assert torch.equal(batch["key"], other["key"])
        rows = batch["index"].numpy()
        assert np.array_equal(batch["label"].numpy(), split.labels[rows])
        means = split.__getitems__(rows).mean(axis=(1, 2))
        assert np.abs(batch["view"].mean(dim=(2, 3)).numpy() - means).max() < 4


def test_slots_are_reserved_once(two: RingLoader) -> None:
    ring = two.ring
    assert isinstance(ring, ProcessRing)
    before = [slot.ctypes.data for slot in ring._slots]
    views(two, 4)
    assert [slot.ctypes.data for slot in ring._slots] == before
    assert len(before) == DEPTH
    assert len(ring._processes) == 2


@contextmanager
def worker_of(loader: RingLoader) -> Iterator[int]:
    assert isinstance(loader.ring, ProcessRing)
    yield loader.ring._processes[0].pid or 0


def test_a_killed_worker_is_told_in_a_sentence(tiny_store: Store) -> None:
    loader = make(tiny_store, 1)
    batches = loader.epoch(0)
    next(batches)
    with worker_of(loader) as pid:
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(ChildProcessError, match=r"RandomResizedCrop, HorizontalFlip.*was killed"):
        list(batches)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_transform_that_fails_is_named_with_its_image(tiny_store: Store, workers: int) -> None:
    # One image in ten becomes too small for the crop that comes next.
    small = {"name": "Resize", "height": 8, "width": 8, "p": 0.1}
    cut = {"name": "RandomCrop", "height": 24, "width": 24}
    loader = make(tiny_store, workers, TransformsConfig(view=(small, cut)))
    named = r"views\.transforms, image \S+ \(row \d+\): RandomCrop raised CropSizeError"
    with pytest.raises(TransformFailed, match=named):
        list(loader.epoch(0))


def test_a_store_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    recipe = Recipe(_Gone(16), PLAIN, (1, 8, 24, 24, 3))
    loader = RingLoader(recipe, lambda images, key, boxes: {"view": images}, 0, CPU, 1)
    with pytest.raises(OSError, match="the disk went away"):
        list(loader.epoch(0))


class _Gone(_Alike):
    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        raise OSError("the disk went away")


@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_in_a_batch_nobody_took_is_told_when_it_is_taken(workers: int) -> None:
    recipe = Recipe(_GoneFrom(8, epoch_order(16, 0, 0)[:8]), PLAIN, (1, 8, 24, 24, 3))
    loader = RingLoader(recipe, lambda images, key, boxes: {"view": images}, 0, CPU, workers)
    preview = loader.epoch(0)
    next(preview)
    preview.close()  # the second batch was under way
    with pytest.raises(OSError, match="the disk went away"):
        list(loader.epoch(0))


class _GoneFrom(_Alike):
    """Gives only some rows."""

    def __init__(self, size: int, readable: np.ndarray) -> None:
        super().__init__(2 * size)
        self.readable = set(readable.tolist())

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        if not self.readable.issuperset(indices.tolist()):
            raise OSError("the disk went away")
        return super().__getitems__(indices)
