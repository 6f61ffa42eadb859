"""Fits an image and its annotations into the store's rectangle, cutting or padding what differs."""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from contramask.data.record import Instance

Fit = Literal["crop", "pad"]

_CHANNELS_AT_ONCE = 4  # OpenCV averages no more
_SAME_ASPECT_PX = 1.5  # what rounding a scaled size may cost


@dataclass(frozen=True)
class Frame:
    """How an image of (height, width) pixels becomes one of `size` (rows, cols).

    `crop` fills the store's rectangle and cuts what hangs over on either side; `pad` keeps the
    whole image and leaves a border, black and ignored.
    """

    height: int
    width: int
    size: tuple[int, int]
    fit: Fit = "crop"

    @property
    def resized(self) -> tuple[int, int]:
        """(rows, cols) of the whole image after resizing."""
        rows, cols = self.size
        if self.fit == "crop":
            scale = max(rows / self.height, cols / self.width)
            return max(rows, round(self.height * scale)), max(cols, round(self.width * scale))
        scale = min(rows / self.height, cols / self.width)
        grown = round(self.height * scale), round(self.width * scale)
        return min(rows, max(1, grown[0])), min(cols, max(1, grown[1]))

    @property
    def corner(self) -> tuple[int, int]:
        """(top, left) of the store's rectangle in the resized image; negative where padded."""
        rows, cols = self.resized
        return (rows - self.size[0]) // 2, (cols - self.size[1]) // 2

    def has_aspect_of(self, height: int, width: int) -> bool:
        """Whether the image is one of (height, width) pixels scaled as a whole."""
        small = min(self.height / height, self.width / width)
        off = max(abs(self.height - small * height), abs(self.width - small * width))
        return off <= _SAME_ASPECT_PX * max(1.0, small)

    def pixels(self, image: np.ndarray) -> np.ndarray:
        """uint8 (h, w, C) to (*size, C), averaged when shrinking, bicubic when enlarging."""
        return self.placed(self.whole(image))

    def whole(self, image: np.ndarray) -> np.ndarray:
        """uint8 (h, w, C) to (*resized, C): what `pixels` does before it cuts or pads."""
        rows, cols = self.resized
        shrinks = rows < image.shape[0] or cols < image.shape[1]
        return self._resized(image, cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)

    def placed(self, image: np.ndarray, border: int = 0) -> np.ndarray:
        """Cut the resized image to the store's rectangle, or put it into the middle of one."""
        (rows, cols), (top, left) = self.size, self.corner
        if top >= 0 and left >= 0:
            return image[top : top + rows, left : left + cols]
        framed = np.full((rows, cols, *image.shape[2:]), border, dtype=image.dtype)
        self.content(framed)[...] = image
        return framed

    def content(self, framed: np.ndarray) -> np.ndarray:
        """What of a framed image (*size, ...) is not border."""
        (rows, cols), (top, left) = self.resized, self.corner
        y, x = max(-top, 0), max(-left, 0)
        return framed[y : y + rows, x : x + cols]

    def mask(self, values: np.ndarray, border: int = 0) -> np.ndarray:
        """Class indices or a boolean mask (h, w) to `size`, nearest pixel, same dtype."""
        resized = self._resized(values.astype(np.uint8), cv2.INTER_NEAREST_EXACT)
        return self.placed(resized, border).astype(values.dtype)

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
        x0, x1 = (min(max(x * across - left, 0.0), self.size[1]) for x in (box[0], box[2]))
        y0, y1 = (min(max(y * down - top, 0.0), self.size[0]) for y in (box[1], box[3]))
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


def tight_box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """(x0, y0, x1, y1) around the True pixels, half-open; `mask` must hold at least one."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1)
