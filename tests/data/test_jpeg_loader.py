"""Decoded ahead by threads: the very batches that the plain loader makes of the same store."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.jpeg import BLOB
from contramask.data.jpeg_loader import DEPTH, JpegLoader, _Framed
from contramask.data.loader import Batch, ImageLoader
from contramask.data.resize import cut_by_kernel, cut_one, pixel_edges
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker

CPU = torch.device("cpu")
SCENES = DatasetConfig(scenes=ScenesConfig(num_train=50, num_val=0), store="jpeg")
MODES = [
    *("single", "cmae_parity", "symmetric_shift", "independent_rrc", "same_view", "weak_strong")
]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """50 digit scenes as JPEG."""
    return build_dataset(SCENES, tmp_path_factory.mktemp("work")).store


def views_of(store: Store, mode: str, size: int = 24, crop: str = "random_resized") -> ViewMaker:
    mean, std = store.manifest["mean"], store.manifest["std"]
    return ViewMaker(ViewConfig(crop=crop), mode, (size, size), mean, std)


def loader_of(store: Store, views: ViewMaker, workers: int = 1, **given: object) -> JpegLoader:
    return JpegLoader(store["train"], views, 8, 5, CPU, workers=workers, **given)


def assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize("workers", [0, 1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_batches_are_those_of_the_plain_loader(store: Store, mode: str, workers: int) -> None:
    views = views_of(store, mode)
    expected = list(ImageLoader(store["train"], views, 8, 5, CPU).epoch(3))
    loader = loader_of(store, views, workers)
    assert_equal(list(loader.epoch(3)), expected)
    assert_equal(list(loader.epoch(3, start=4)), expected[4:])
    assert list(loader.epoch(3, start=6)) == []


@pytest.mark.parametrize("crop", ["boxes", "inside_boxes", "full_box"])
def test_crops_are_placed_by_boxes(store: Store, crop: str) -> None:
    views = views_of(store, "independent_rrc", crop=crop)
    boxes = np.tile(np.array([0.5, 0.5, 0.9, 0.8], np.float32), (50, 1))
    boxes[::2] = [0.0, 0.1, 0.4, 0.6]
    loader = loader_of(store, views, 2)
    loader.set_boxes(boxes)
    expected = ImageLoader(store["train"], views, 8, 5, CPU, boxes)
    assert_equal(list(loader.epoch(0)), list(expected.epoch(0)))


def test_pictures_for_an_accelerator_are_the_store_s(store: Store) -> None:
    views = views_of(store, "independent_rrc")
    loader = loader_of(store, views, 2)
    loader._cook = _Framed(store["train"].images, views, 8)
    loader.views = loader._cook.views
    assert_equal(
        list(loader.epoch(1)), list(ImageLoader(store["train"], views, 8, 5, CPU).epoch(1))
    )


def test_processes_share_a_batch(store: Store) -> None:
    views = views_of(store, "single")
    whole = list(loader_of(store, views).epoch(0))
    halves = [list(loader_of(store, views, share=(i, 2)).epoch(0)) for i in range(2)]
    for batch, *parts in zip(whole, *halves, strict=True):
        assert torch.equal(batch["view"], torch.cat([part["view"] for part in parts]))


def test_an_epoch_that_was_left_disturbs_no_other(store: Store) -> None:
    loader = loader_of(store, views_of(store, "single"), 2)
    expected = list(loader.epoch(1))
    left = loader.epoch(0)
    first = list(islice(left, 2))
    assert_equal(list(loader.epoch(1)), expected)
    left.close()
    assert_equal(list(islice(loader.epoch(0), 2)), first)


def test_batches_do_not_change_when_their_memory_is_used_again(store: Store) -> None:
    loader = loader_of(store, views_of(store, "single"), 2)
    batches = loader.epoch(0)
    first = next(batches)["view"]
    kept = first.clone()
    assert len(list(batches)) == loader.steps_per_epoch - 1 > DEPTH
    assert torch.equal(first, kept)


def test_a_damaged_image_ends_the_epoch_by_name(tmp_path: Path) -> None:
    store = build_dataset(replace(SCENES, workers=1), tmp_path).store
    blob = store.folder / "train" / BLOB
    content = bytearray(blob.read_bytes())
    start, stop = store["train"].images.offsets[13:15]
    content[start:stop] = bytes(int(stop - start))
    blob.write_bytes(content)
    loader = loader_of(Store.read(store.folder), views_of(store, "single"), 2)
    with pytest.raises(ValueError, match=r"image 13 in .* is damaged"):
        list(loader.epoch(0))


@pytest.mark.parametrize("channels", [1, 3])
def test_one_cut_is_a_row_of_the_batch_s(channels: int) -> None:
    images = torch.randint(0, 256, (3, 40, 50, channels), dtype=torch.uint8)
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.7], [0.0, 0.0, 1.0, 1.0], [0.5, 0.5, 0.6, 0.62]])
    flip = torch.tensor([False, True, True])
    expected = cut_by_kernel(images, boxes, (16, 24), flip).permute(0, 2, 3, 1)
    for number, edges in enumerate(pixel_edges(boxes, (40, 50))):
        made = np.zeros((16, 24, channels), np.uint8)
        cut_one(images[number].numpy(), edges, bool(flip[number]), made)
        np.testing.assert_array_equal(made, expected[number])


def test_advice_names_what_can_be_raised(store: Store) -> None:
    advice = loader_of(store, views_of(store, "single"), 0).advice
    assert "1 threads" in advice
    assert "launch.workers" in advice
