"""Images that stay on the device which trains, where all of them fit comfortably."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from contramask.progress import track
from contramask.typed import Choice

if TYPE_CHECKING:  # which imports this module
    from contramask.data.loader import Images

#: Most of the free memory that images may take without having been asked for.
SHARE = 0.25
_BYTES_AT_ONCE = 1 << 28


class ResidentImages:
    """All images of `images` as one tensor on a device, fetched there by row numbers.

    On a processor this only spares the system's file cache, which is as fast.
    """

    def __init__(self, images: "Images", device: torch.device) -> None:
        self.labels = images.labels
        first = images.__getitems__(np.arange(1))
        empty = torch.from_numpy(first).new_empty
        self.pixels = empty((len(images), *first.shape[1:]), device=device)  # (N, H, W, C)
        rows = max(_BYTES_AT_ONCE // max(first.nbytes, 1), 1)
        starts = range(0, len(images), rows)
        for start in track(starts, "images to the device", len(starts)):
            stop = min(start + rows, len(images))
            part = images.__getitems__(np.arange(start, stop))
            self.pixels[start:stop].copy_(torch.from_numpy(part))

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        """uint8 (B, H, W, C), in the host's memory."""
        index = torch.from_numpy(np.asarray(indices)).to(self.pixels.device)
        found: np.ndarray = self.take(index).cpu().numpy()
        return found

    def take(self, index: Tensor) -> Tensor:
        """The images of these rows (B,), on the device: (B, H, W, C)."""
        return self.pixels.index_select(0, index)

    @property
    def gigabytes(self) -> float:
        """What they take."""
        return self.pixels.nbytes / 1e9


def placed(images: "Images", device: torch.device, wanted: Choice) -> "Images":
    """The images, kept on the device if that is wanted; auto: on CUDA, where they take little.

    Raises `ValueError` if they must be kept there and do not fit.
    """
    return ResidentImages(images, device) if belongs_there(images, device, wanted) else images


def belongs_there(images: "Images", device: torch.device, wanted: Choice) -> bool:
    """Whether `placed` keeps the images on the device."""
    if wanted is False or not len(images) or (wanted == "auto" and device.type != "cuda"):
        return False
    needed, free = len(images) * images.__getitems__(np.arange(1)).nbytes, free_bytes(device)
    if wanted == "auto":
        return needed <= SHARE * free
    if needed > free:
        raise ValueError(
            f"launch.resident is yes, but the images take {needed / 1e9:.1f} GB and {device} has "
            f"{free / 1e9:.1f} GB free; set it to auto or no"
        )
    return True


def free_bytes(device: torch.device) -> float:
    """Free memory of a CUDA device; of others nothing is known, and nothing is refused."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else float("inf")
