"""Images that stay on the device: the same batches bit for bit, and only where they fit."""

from typing import Any

import numpy as np
import pytest
import torch

from contramask.data import resident
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.loader import ImageLoader, Images, Subset
from contramask.data.resident import ResidentImages, belongs_there, placed
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BYTES = 96 * 32 * 32 * 3  # of the tiny store's train images


def loader_of(images: Images, store: Store, **given: Any) -> ImageLoader:
    mean, std = store.manifest["mean"], store.manifest["std"]
    views = ViewMaker(ViewConfig(crop="boxes"), "independent_rrc", (24, 24), mean, std)
    boxes = np.random.default_rng(0).uniform(0, 0.5, (len(images), 4)).astype(np.float32)
    boxes[:, 2:] += 0.5
    return ImageLoader(images, views, 8, 5, CPU, boxes, **given)


def assert_equal_batches(one: ImageLoader, other: ImageLoader) -> None:
    for epoch, start in ((0, 0), (3, 2)):
        for found, expected in zip(one.epoch(epoch, start), other.epoch(epoch, start), strict=True):
            assert found.keys() == expected.keys()
            assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("share", [(0, 1), (1, 2)])
def test_batches_are_the_same(
    tiny_store: Store, share: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_BYTES_AT_ONCE", 10 * 32 * 32 * 3)  # several parts
    split = tiny_store["train"]
    images = placed(split, CPU, True)
    assert isinstance(images, ResidentImages)
    assert_equal_batches(
        loader_of(images, tiny_store, share=share), loader_of(split, tiny_store, share=share)
    )
    assert np.array_equal(images.__getitems__(np.array([5, 3])), split.images[[5, 3]])


def test_parts_of_a_split_and_jpeg_stores_too(tiny_store: Store, tmp_path: Any) -> None:
    some = Subset(tiny_store["train"], np.arange(90, 10, -2))
    assert_equal_batches(
        loader_of(placed(some, CPU, True), tiny_store), loader_of(some, tiny_store)
    )
    config = DatasetConfig(scenes=ScenesConfig(num_train=20, num_val=0), store="jpeg", workers=1)
    store = build_dataset(config, tmp_path).store
    split = store["train"]
    assert_equal_batches(loader_of(placed(split, CPU, True), store), loader_of(split, store))


@pytest.mark.parametrize(
    ("device", "wanted", "free", "expected"),
    [
        (CPU, "auto", 1e12, False),  # a memory-mapped file is as good
        (CPU, True, 1e12, True),
        (CUDA, "auto", 4.1 * BYTES, True),
        (CUDA, "auto", 3.9 * BYTES, False),
        (CUDA, True, 1.1 * BYTES, True),
        (CUDA, False, 1e12, False),
    ],
)
def test_only_where_they_fit(
    device: torch.device,
    wanted: Any,
    free: float,
    expected: bool,
    tiny_store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda device: free)
    assert belongs_there(tiny_store["train"], device, wanted) is expected


def test_too_many_are_refused(tiny_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resident, "free_bytes", lambda device: BYTES - 1)
    with pytest.raises(ValueError, match=r"launch\.resident is yes, but the images take 0\.0 GB"):
        placed(tiny_store["train"], CUDA, True)


def test_the_plan_and_the_advice_know(tiny_store: Store) -> None:
    split = tiny_store["train"]
    there, here = loader_of(split, tiny_store), loader_of(placed(split, CPU, True), tiny_store)
    assert here.kept == "on the device, 0.0 GB"
    assert there.kept.startswith("in the store")
    for loader in (there, here):
        loader.device = CUDA
    assert "launch.resident" in there.advice
    assert "launch.resident" not in here.advice
