"""Fits an image and its annotations into the store's square: short side resized, centre cropped."""

from dataclasses import dataclass

import cv2
import numpy as np

from contramask.data.record import Instance

_CHANNELS_AT_ONCE = 4  # OpenCV averages no more
_SAME_ASPECT_PX = 1.5  # what rounding a scaled size may cost


@dataclass(frozen=True)
class Frame:
    """How an image of (height, width) pixels becomes a square of `side` pixels."""

    height: int
    width: int
    side: int

    @property
    def resized(self) -> tuple[int, int]:
        """(rows, cols) after resizing the short side to `side`."""
        scale = self.side / min(self.height, self.width)
        return max(self.side, round(self.height * scale)), max(self.side, round(self.width * scale))

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the crop in the resized image."""
        rows, cols = self.resized
        return (rows - self.side) // 2, (cols - self.side) // 2

    def has_aspect_of(self, height: int, width: int) -> bool:
        """Whether the image is one of (height, width) pixels scaled as a whole."""
        small = min(self.height / height, self.width / width)
        off = max(abs(self.height - small * height), abs(self.width - small * width))
        return off <= _SAME_ASPECT_PX * max(1.0, small)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 (h, w, C) to (side, side, C), averaged when shrinking, bicubic when enlarging."""
        rows, cols = self.resized
        shrinks = rows < image.shape[0] or cols < image.shape[1]
        method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        return self._cropped(self._resized(image, method))

    def mask(self, values: np.ndarray) -> np.ndarray:
        """Class indices or a boolean mask (h, w) to (side, side), nearest pixel, same dtype."""
        resized = self._resized(values.astype(np.uint8), cv2.INTER_NEAREST_EXACT)
        return self._cropped(resized).astype(values.dtype)

    def instance(self, instance: Instance) -> Instance | None:
        """The instance in store pixels, or None when the crop leaves nothing of it.

        With a mask the box becomes the mask's own; a box alone is kept from one pixel a side on.
        """
        if instance.mask is not None:
            mask = self.mask(instance.mask)
            if not mask.any():
                return None
            return Instance(instance.category, tight_box(mask), mask, instance.iscrowd)
        box = self._box(instance.box)
        if box[2] - box[0] < 1 or box[3] - box[1] < 1:
            return None
        return Instance(instance.category, box, None, instance.iscrowd)

    def _box(self, box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        (rows, cols), (top, left) = self.resized, self.corner
        across, down = cols / self.width, rows / self.height
        x0, x1 = (min(max(x * across - left, 0.0), self.side) for x in (box[0], box[2]))
        y0, y1 = (min(max(y * down - top, 0.0), self.side) for y in (box[1], box[3]))
        return x0, y0, x1, y1

    def _resized(self, image: np.ndarray, method: int) -> np.ndarray:
        rows, cols = self.resized
        if image.shape[:2] == (rows, cols):
            return image
        if image.ndim == 2 or image.shape[2] <= _CHANNELS_AT_ONCE:
            resized = cv2.resize(image, (cols, rows), interpolation=method)
            return resized if resized.ndim == image.ndim else resized[..., None]
        parts = np.split(image, range(_CHANNELS_AT_ONCE, image.shape[2], _CHANNELS_AT_ONCE), axis=2)
        return np.concatenate([self._resized(part, method) for part in parts], axis=2)

    def _cropped(self, image: np.ndarray) -> np.ndarray:
        top, left = self.corner
        return image[top : top + self.side, left : left + self.side]


def tight_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around the True pixels, half-open; `mask` must hold at least one."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)
