"""A packed array of pictures as a loader wants it. Workers import this file: nothing heavy here."""

from pathlib import Path
from typing import Any

import numpy as np


class PackedImages:
    """uint8 (N, H, W, C) in a `.npy` file, memory-mapped; sent to a process as the file's name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.pixels: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        self.labels = np.zeros(len(self.pixels), dtype=np.int64)

    def __reduce__(self) -> tuple[Any, ...]:
        return PackedImages, (self.path,)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C), in memory."""
        return np.array(self.pixels[indices])
