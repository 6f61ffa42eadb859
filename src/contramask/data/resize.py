"""Crops of whole batches, resized: bicubic with antialias, Pillow's and torchvision's filter.

Two ways to the same picture. On accelerators a resize is W_rows @ image @ W_cols^T with one pair of
small matrices an image, so a batch is two matrix products. A processor is several times faster with
torchvision's kernel for whole grey values, image by image; like Pillow, hence like the official
implementations' input, it rounds and clips between the two directions.
"""

from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Size = tuple[int, int]


class Cut(Protocol):
    """A way to cut crops out of a batch."""

    def __call__(self, images: Tensor, boxes: Tensor, size: Size, flip: Tensor) -> Tensor:
        """Crops `boxes` (B, 4) of uint8 images (B, H, W, C), mirrored where flip (B,) is True.

        boxes are (x0, y0, x1, y1) in [0, 1]. Gives (B, C, *size) in 0..255, float32 or uint8.
        """


def cut_for(device: torch.device) -> Cut:
    """The way that is fast on a device."""
    return cut_by_kernel if device.type == "cpu" else cut_by_matmul


def cut_by_kernel(images: Tensor, boxes: Tensor, size: Size, flip: Tensor) -> Tensor:
    """Torchvision's resize of uint8 images, one after the other; whole pixels, uint8."""
    count, rows, cols, channels = images.shape
    edges = pixel_edges(boxes, (rows, cols))
    planes = images.permute(0, 3, 1, 2)  # channels stay innermost, as the kernel wants them
    made = torch.empty((count, *size, channels), dtype=torch.uint8).permute(0, 3, 1, 2)
    for number, (left, top, right, bottom) in enumerate(edges):
        crop = planes[number : number + 1, :, top:bottom, left:right]
        made[number] = functional.interpolate(crop, size, mode="bicubic", antialias=True)[0]
    mirrored = flip.nonzero()[:, 0]
    made[mirrored] = made[mirrored].flip(3)
    return made


def cut_one(image: np.ndarray, edges: list[int], flip: bool, made: np.ndarray) -> None:
    """As `cut_by_kernel`, from one image (H, W, C) into `made` (rows, cols, C), in this thread.

    edges are (left, top, right, bottom) in pixels.
    """
    left, top, right, bottom = edges
    # Copied by NumPy: torch would wake its threads for it, in every thread that cuts.
    cut = torch.from_numpy(np.array(image[top:bottom, left:right], order="C"))[None]
    resized = functional.interpolate(
        cut.permute(0, 3, 1, 2), made.shape[:2], mode="bicubic", antialias=True
    )
    whole = resized[0].permute(1, 2, 0).numpy()
    made[...] = whole[:, ::-1] if flip else whole


def pixel_edges(boxes: Tensor, in_size: Size) -> list[list[int]]:
    """Boxes (B, 4) in [0, 1] as whole pixels of images of `in_size`."""
    rows, cols = in_size
    whole = (boxes * torch.tensor([cols, rows, cols, rows], device=boxes.device)).round().int()
    found: list[list[int]] = whole.tolist()
    return found


def cut_by_matmul(images: Tensor, boxes: Tensor, size: Size, flip: Tensor) -> Tensor:
    """Two matrix products for the whole batch; float32, within 0.01 of torchvision's for floats."""
    in_size = (images.shape[1], images.shape[2])
    return apply_weights(to_float(images), *crop_weights(boxes, in_size, size, flip))


def resize_weights(start: Tensor, stop: Tensor, in_size: int, out_size: int) -> Tensor:
    """Matrices (B, out, in) that cut [start, stop) (B,) px and resize it, bicubic with antialias.

    Keys' cubic with a = -0.5, widened by the shrink factor; pixels outside the cut are not used.
    """
    scale = ((stop - start) / out_size)[:, None]  # input px per output px
    centre = (torch.arange(out_size, device=start.device) + 0.5) * scale + start[:, None]
    pixel = torch.arange(in_size, device=start.device) + 0.5
    reach = scale.clamp_min(1.0)[..., None]
    x = ((pixel - centre[..., None]) / reach).abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))
    inside = (pixel > start[:, None, None]) & (pixel < stop[:, None, None])
    weight = weight * inside
    return weight / weight.sum(dim=-1, keepdim=True)


def crop_weights(
    boxes: Tensor, in_size: Size, out_size: Size, flip: Tensor
) -> tuple[Tensor, Tensor]:
    """Row and column matrices for crops (B, 4) (x0, y0, x1, y1 in [0, 1]); flip (B,) bool."""
    rows, cols = in_size
    row_weights = resize_weights(boxes[:, 1] * rows, boxes[:, 3] * rows, rows, out_size[0])
    col_weights = resize_weights(boxes[:, 0] * cols, boxes[:, 2] * cols, cols, out_size[1])
    col_weights = torch.where(flip[:, None, None], col_weights.flip(1), col_weights)
    return row_weights, col_weights


def apply_weights(images: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """Resize float images (B, C, H, W) in [0, 255] by their matrices; clamped, not rounded."""
    with torch.autocast(images.device.type, enabled=False):  # bf16 would round pixels
        return (rows[:, None] @ images @ cols.transpose(1, 2)[:, None]).clamp_(0, 255)


def window(images: Tensor, offset: Tensor, size: Size) -> Tensor:
    """Windows of (B, C, H, W) whose upper left corners are offset (B, 2): (B, C, *size)."""
    windows = images.unfold(2, size[0], 1).unfold(3, size[1], 1)  # (B, C, dy, dx, h, w), a view
    number = torch.arange(len(images), device=images.device)
    return windows[number, :, offset[:, 0], offset[:, 1]]


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W), still in 0..255."""
    return images.permute(0, 3, 1, 2).float()
