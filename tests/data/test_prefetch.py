"""One batch ahead: in the right order, tidied up however it ends, passed through on processors."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import numpy as np
import pytest
import torch

from contramask.data import prefetch
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.jpeg_loader import JpegLoader
from contramask.data.loader import ImageLoader
from contramask.data.prefetch import Batch, Batches, one_ahead, prefetched, sent, side_for, staged
from contramask.data.ring import Recipe
from contramask.data.ring_loader import RingLoader
from contramask.data.store import Store
from contramask.data.transforms import TransformsConfig
from contramask.data.views import ViewConfig, ViewMaker

CPU = torch.device("cpu")


class Noted:
    """A side that does its work at once and says what was asked of it."""

    def __init__(self, said: list[str]) -> None:
        self.said, self.is_working = said, False

    @contextmanager
    def working(self) -> Iterator[None]:
        self.is_working = True
        yield
        self.is_working = False

    def hand_over(self, batch: Batch) -> None:
        self.said.append(f"over {batch['number']}")

    def settle(self) -> None:
        self.said.append("settled")


def numbered(said: list[str], side: Noted, count: int = 3) -> Batches:
    try:
        for number in range(count):
            assert side.is_working
            said.append(f"made {number}")
            yield {"number": number}
    finally:
        said.append("closed")


def test_the_next_batch_is_made_before_this_one_is_used() -> None:
    said: list[str] = []
    side = Noted(said)
    for batch in one_ahead(numbered(said, side), side):
        assert not side.is_working  # what uses it is not on the side
        said.append(f"used {batch['number']}")
    assert said == [
        *("made 0", "over 0", "made 1", "used 0", "over 1", "made 2", "used 1", "over 2"),
        *("closed", "used 2", "settled"),
    ]


def test_leaving_early_tidies_up() -> None:
    said: list[str] = []
    side = Noted(said)
    batches = one_ahead(numbered(said, side), side)
    next(batches)
    batches.close()
    assert said[-2:] == ["closed", "settled"]


def test_an_error_reaches_the_training() -> None:
    def broken() -> Batches:
        yield {"number": 0}
        raise OSError("the disk went away")

    said: list[str] = []
    with pytest.raises(OSError, match="the disk went away"):
        list(one_ahead(broken(), Noted(said)))
    assert said[-1] == "settled"


def test_processors_get_what_was_made() -> None:
    said: list[str] = []
    batches = numbered(said, Noted(said))
    assert side_for(CPU) is None
    assert prefetched(batches, CPU) is batches
    values = np.arange(3)
    assert np.shares_memory(staged(values, CPU).numpy(), values)
    assert sent(staged(values, CPU), CPU).tolist() == [0, 1, 2]


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """40 digit scenes as JPEG."""
    config = DatasetConfig(scenes=ScenesConfig(num_train=40, num_val=0), store="jpeg", workers=1)
    return build_dataset(config, tmp_path_factory.mktemp("jpegs")).store


def maker_for(store: Store) -> ViewMaker:
    mean, std = store.manifest["mean"], store.manifest["std"]
    return ViewMaker(ViewConfig(), "independent_rrc", (24, 24), mean, std)


def plain_loader(tiny_store: Store, jpegs: Store) -> ImageLoader:
    return ImageLoader(tiny_store["train"], maker_for(tiny_store), 8, 5, CPU)


def jpeg_loader(tiny_store: Store, jpegs: Store) -> ImageLoader:
    return JpegLoader(jpegs["train"], maker_for(jpegs), 8, 5, CPU, workers=2)


def ring_loader(tiny_store: Store, jpegs: Store) -> ImageLoader:
    flip = TransformsConfig(view=({"name": "HorizontalFlip"},))
    recipe = Recipe(tiny_store["train"], flip, (1, 8, 32, 32, 3))
    return RingLoader(recipe, maker_for(tiny_store).ready, 5, CPU, 0)


@pytest.mark.parametrize("make", [plain_loader, jpeg_loader, ring_loader])
def test_a_batch_is_whole_although_the_next_is_under_way(
    make: type[ImageLoader], tiny_store: Store, jpegs: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = make(tiny_store, jpegs)
    expected = list(loader.epoch(2))
    monkeypatch.setattr(Noted, "hand_over", lambda side, batch: None)
    monkeypatch.setattr(prefetch, "side_for", lambda device: Noted([]))
    for found, other in zip(loader.epoch(2), expected, strict=True):
        assert found.keys() == other.keys()
        assert all(torch.equal(found[name], other[name]) for name in other)
    first = list(islice(loader.epoch(2, 1), 2))
    assert torch.equal(first[1]["view"], expected[2]["view"])
