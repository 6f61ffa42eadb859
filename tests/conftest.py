"""Shared by all tests: one thread, small stores and a small encoder, each built once."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.results import RunInfo

#: Two blocks on a grid of 4x4 patches for images of 32 px.
TINY_ENCODER = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests share the processor's cores; tiny tensors are fastest on one anyway."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """96 train and 48 val digit scenes of 32 px with all annotations; do not write to it."""
    folder = tmp_path_factory.mktemp("tiny")
    config = DatasetConfig(scenes=ScenesConfig(num_train=96, num_val=48), workers=1)
    return _stored(config, folder)


@pytest.fixture(scope="session")
def shade_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A folder of dark and bright images, easily told apart, and one without a class in each split.

    24 train and 8 val images of each class, 16 px.
    """
    folder = tmp_path_factory.mktemp("shades")
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("val", 8)):
        for name, level in (("bright", 190), ("dark", 60), ("", 128)):
            here = folder / "images" / split / name
            here.mkdir(parents=True, exist_ok=True)
            for i in range(count if name else 1):
                pixels = np.clip(rng.normal(level, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(here / f"{i:02}.png")
    config = DatasetConfig(
        source="folder", root=folder / "images", image_size=16, labels="folders", workers=1
    )
    return _stored(config, folder)


@pytest.fixture(scope="session")
def plain_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """20 train images of 16 px without a label, an annotation or a val split."""
    folder = tmp_path_factory.mktemp("plain")
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(20):
        pixels = rng.integers(0, 256, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i:02}.png")
    config = DatasetConfig(
        source="folder", root=folder / "images", image_size=16, val_fraction=0, workers=1
    )
    return _stored(config, folder)


@pytest.fixture
def tiny_bundle(tiny_store: Store) -> EncoderBundle:
    """An untrained encoder that fits `tiny_store`, as if CMAE had trained it."""
    return bundle_for(tiny_store)


def bundle_for(store: Store) -> EncoderBundle:
    """A tiny untrained encoder for the images of a store."""
    rows, cols = store.manifest["image_size"]
    torch.manual_seed(7)
    encoder = build_encoder(TINY_ENCODER, (rows, cols), store.manifest["channels"])
    run = RunInfo(experiment="cmae-0000-s3", config_hash="0000", seed=3)
    return make_bundle(encoder, run, "cmae", "online", store.manifest)


@pytest.fixture
def shade_bundle(shade_store: Store) -> EncoderBundle:
    """An untrained encoder that fits `shade_store`."""
    return bundle_for(shade_store)


def _stored(config: DatasetConfig, folder: Path) -> Store:
    store = build_dataset(config, folder / "work").store
    store.write(folder / "store")
    return store
