"""Pictures to compute on when no data are given: cut-outs of packaged photographs."""

import cv2
import numpy as np

from contramask.data.scenes import photographs


class SamplePhotos:
    """`count` square cut-outs of photographs, uint8 RGB, held in memory as a store's would be.

    Real content on purpose: on constant or random pixels the loss tells nothing, and JPEG files of
    them are not of a photograph's size.
    """

    def __init__(self, count: int, size: int, seed: int = 0) -> None:
        draws = np.random.default_rng(seed)
        pixels = [_cut_out(draws, size) for _ in range(count)]
        self.pixels = np.stack(pixels)  # (N, S, S, 3)
        self.labels = np.arange(count) % 10

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, S, S, 3)."""
        found: np.ndarray = self.pixels[indices]
        return found


def _cut_out(draws: np.random.Generator, size: int) -> np.ndarray:
    photo = photographs()[int(draws.integers(len(photographs())))]
    room = min(photo.shape[:2])
    side = int(draws.integers(room // 3, room))
    top, left = (int(draws.integers(length - side + 1)) for length in photo.shape[:2])
    cut = np.ascontiguousarray(photo[top : top + side, left : left + side])
    small: np.ndarray = cv2.resize(cut, (size, size), interpolation=cv2.INTER_AREA)
    return small
