"""Batches: each image once an epoch, the same ones wherever a run was continued."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from contramask.data.loader import ImageLoader, Subset, epoch_order
from contramask.data.store import Store
from contramask.draws import image_keys

CPU = torch.device("cpu")


class Numbers:
    """Images that are their own row number, labelled ten times that."""

    def __init__(self, count: int) -> None:
        self.labels = 10 * np.arange(count)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return np.broadcast_to(
            np.asarray(indices, dtype=np.uint8)[:, None, None, None], (len(indices), 2, 3, 3)
        ).copy()


def plain(images: Tensor, key: Tensor, boxes: Tensor | None) -> dict[str, Any]:
    return {"view": images, "boxes": boxes}


def make_loader(count: int = 50, batch_size: int = 8, seed: int = 5) -> ImageLoader:
    return ImageLoader(Numbers(count), plain, batch_size, seed, CPU)


def seen(loader: ImageLoader, epoch: int, start: int = 0) -> list[list[int]]:
    return [batch["index"].tolist() for batch in loader.epoch(epoch, start)]


def test_every_image_once_an_epoch() -> None:
    loader = make_loader(count=48)
    batches = seen(loader, 0)
    assert len(batches) == loader.steps_per_epoch == 6
    assert sorted(chain(*batches)) == list(range(48))


def test_the_incomplete_batch_is_dropped() -> None:
    loader = make_loader(count=50)
    numbers = list(chain(*seen(loader, 0)))
    assert loader.steps_per_epoch == 6
    assert len(numbers) == len(set(numbers)) == 48
    assert set(numbers) != set(chain(*seen(loader, 1)))  # not always the same two


def test_a_batch_holds_what_belongs_together() -> None:
    loader = make_loader()
    for batch in loader.epoch(2):
        index = batch["index"]
        assert index.dtype == batch["label"].dtype == torch.int64
        assert torch.equal(batch["view"][:, 0, 0, 0].long(), index)
        assert torch.equal(batch["label"], 10 * index)
        assert torch.equal(batch["key"], image_keys(5, 2, index))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert seen(make_loader(), 0) == seen(make_loader(), 0)
    assert seen(make_loader(), 0) != seen(make_loader(), 1)
    assert seen(make_loader(seed=5), 0) != seen(make_loader(seed=6), 0)
    assert np.array_equal(np.sort(epoch_order(20, 3, 1)), np.arange(20))


@pytest.mark.parametrize("start", [0, 1, 4, 6])
def test_a_later_start_gives_the_remaining_batches(start: int) -> None:
    loader = make_loader()
    whole = list(loader.epoch(3))
    rest = list(loader.epoch(3, start))
    assert len(rest) == 6 - start
    for expected, given in zip(whole[start:], rest, strict=True):
        assert torch.equal(given["view"], expected["view"])
        assert torch.equal(given["key"], expected["key"])


def test_a_key_depends_on_seed_epoch_and_index_alone() -> None:
    found = []
    for batch_size in (5, 16):
        loader = make_loader(batch_size=batch_size)
        pairs = [(b["index"].tolist(), b["key"].tolist()) for b in loader.epoch(1)]
        found.append({i: k for index, key in pairs for i, k in zip(index, key, strict=True)})
    both = found[0].keys() & found[1].keys()
    assert len(both) >= 45
    assert all(found[0][i] == found[1][i] for i in both)
    other = {i: k for b in make_loader().epoch(2) for i, k in zip(*_pair(b), strict=True)}
    assert not {other[i] for i in other} & set(found[0].values())


def _pair(batch: dict[str, Any]) -> tuple[list[int], list[int]]:
    return batch["index"].tolist(), batch["key"].tolist()


def test_boxes_follow_their_images() -> None:
    boxes = np.stack([np.arange(50) + shift for shift in range(4)], axis=1).astype(np.float32)
    loader = ImageLoader(Numbers(50), plain, 8, 0, CPU, boxes)
    for batch in loader.epoch(0):
        assert torch.equal(batch["boxes"][:, 0].long(), batch["index"])
    assert next(iter(make_loader().epoch(0)))["boxes"] is None


def test_a_batch_larger_than_the_data_is_refused() -> None:
    with pytest.raises(ValueError, match="a batch of 8 cannot be filled from 7 images"):
        make_loader(count=7)
    assert make_loader(count=8).steps_per_epoch == 1


def test_an_error_while_reading_reaches_the_caller() -> None:
    class Broken(Numbers):
        def __getitems__(self, indices: np.ndarray) -> np.ndarray:
            if 0 in indices:
                raise OSError("the disk went away")
            return super().__getitems__(indices)

    loader = ImageLoader(Broken(24), plain, 8, 0, CPU)
    with pytest.raises(OSError, match="the disk went away"):
        list(loader.epoch(0))


def test_an_epoch_can_be_left_early() -> None:
    batches = make_loader().epoch(0)
    assert next(batches)["index"].shape == (8,)
    batches.close()
    assert len(seen(make_loader(), 0)) == 6


def test_subset_numbers_some_rows_anew() -> None:
    subset = Subset(Numbers(50), np.array([7, 3, 40, 41]))
    assert len(subset) == 4
    assert subset.labels.tolist() == [70, 30, 400, 410]
    assert subset.__getitems__(np.array([2, 0]))[:, 0, 0, 0].tolist() == [40, 7]
    loader = ImageLoader(subset, plain, 2, 0, CPU)
    pairs = [(i, v) for b in loader.epoch(0) for i, v in zip(b["index"], b["view"], strict=True)]
    assert sorted(int(i) for i, _ in pairs) == [0, 1, 2, 3]
    assert all(int(v[0, 0, 0]) == [7, 3, 40, 41][int(i)] for i, v in pairs)


def test_a_store_split_can_be_loaded(tiny_store: Store) -> None:
    split = tiny_store["train"]
    batch = next(iter(ImageLoader(split, plain, 16, 0, CPU).epoch(0)))
    rows = batch["index"].numpy()
    assert np.array_equal(batch["view"].numpy(), split.images[rows])
    assert np.array_equal(batch["label"].numpy(), split.labels[rows])
