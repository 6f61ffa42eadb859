"""Pictures packed as a JPEG store packs them, as a loader wants them."""

from pathlib import Path

import numpy as np

from contramask.data.jpeg import BLOB, OFFSETS, JpegImages, encode


class PackedJpeg:
    """Pictures uint8 (N, H, W, C), written to `folder` as JPEG."""

    def __init__(self, pixels: np.ndarray, folder: Path) -> None:
        folder.mkdir()
        files = [encode(image) for image in pixels]
        (folder / BLOB).write_bytes(b"".join(files))
        np.save(folder / OFFSETS, np.cumsum([0, *map(len, files)], dtype=np.int64))
        count, rows, cols, channels = pixels.shape
        self.images = JpegImages(folder, (count, rows, cols, channels), "crop")
        self.labels = np.zeros(count, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C), in memory."""
        return self.images[indices]
