"""Small files of every layout, drawn where a test needs them."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contramask.data.build import BuiltDataset, build_dataset
from contramask.data.config import DatasetConfig


def encoded(kind: str = "JPEG", size: tuple[int, int] = (24, 32), seed: int = 0) -> bytes:
    """A noise picture of (height, width) pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """A function that encodes a noise picture."""
    return encoded


@pytest.fixture
def draw(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes noise pictures of these names under a folder, each its own."""

    def write(*names: str, size: tuple[int, int] = (24, 32), root: Path = tmp_path) -> Path:
        for i, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kind = "PNG" if path.suffix == ".png" else "JPEG"
            path.write_bytes(encoded(kind, size, seed=hash_of(name) + i))
        return root

    return write


def hash_of(name: str) -> int:
    """A number that only the name determines."""
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(name))


@pytest.fixture
def mask() -> Callable[..., Path]:
    """A function that writes an array as a mask file, creating folders."""

    def write(path: Path, values: np.ndarray) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
        return path

    return write


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., BuiltDataset]:
    """A function that builds the store of a config's values, 16 px and one thread by default."""

    def run(**values: object) -> BuiltDataset:
        config = DatasetConfig(**{"image_size": 16, "workers": 1, **values})
        return build_dataset(config, tmp_path / "work")

    return run
