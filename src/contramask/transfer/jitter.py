"""Random zoom, position and mirror image for dense tasks: image, pixel classes and objects alike.

One affine map an image, drawn from the image's key, so it is the same whatever the loader does.
Large-scale jitter (Ghiasi et al., 2012.07177) is `scale: [0.1, 2.0], flip: 0.5`.
"""

from dataclasses import dataclass as plain_dataclass

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from contramask.draws import uniform
from contramask.transfer.metrics import IGNORE_INDEX
from contramask.typed import STRICT

#: Stream of random numbers (contramask.draws) this module draws from.
_STREAM = 128
#: An object of which less than this many pixels per side stay visible is dropped.
MIN_SIDE_PX = 2.0


@dataclass(frozen=True, config=STRICT)
class JitterConfig:
    """`scale`: zoom drawn uniformly, cropped above 1 and padded below; `flip`: its probability."""

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = Field(default=0.0, ge=0, le=1)

    @model_validator(mode="after")
    def _ordered(self) -> "JitterConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is [low, high] with 0 < low <= high, not {list(self.scale)}")
        return self

    @property
    def is_idle(self) -> bool:
        """Whether nothing would ever change."""
        return self.scale == (1.0, 1.0) and self.flip == 0


@plain_dataclass(frozen=True)
class Placement:
    """Where images go: output = zoom * input + shift, both in image sides; then mirrored."""

    zoom: Tensor  # (B,)
    shift: Tensor  # (B, 2), x and y
    is_flipped: Tensor  # (B,) bool

    def __getitem__(self, rows: Tensor) -> "Placement":
        return Placement(self.zoom[rows], self.shift[rows], self.is_flipped[rows])


def draw_placement(key: Tensor, config: JitterConfig) -> Placement:
    """Draw one placement an image from its key (B,)."""
    noise = uniform(key, _STREAM, 4)
    low, high = config.scale
    zoom = low + (high - low) * noise[:, 0]
    # Padding (zoom < 1) and cropping (zoom > 1) share one formula: room is positive or negative.
    shift = (1 - zoom)[:, None] * noise[:, 1:3]
    return Placement(zoom, shift, noise[:, 3] < config.flip)


def _grid(placement: Placement, size: tuple[int, int]) -> Tensor:
    """Where each output pixel comes from, (B, rows, cols, 2) in -1..1 as grid_sample reads it."""
    rows, cols = size
    device = placement.zoom.device
    x = (torch.arange(cols, device=device) + 0.5) / cols  # (cols,)
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = torch.where(placement.is_flipped[:, None], 1 - x, x)  # (B, cols)
    x = (x - placement.shift[:, :1]) / placement.zoom[:, None]
    y = (y - placement.shift[:, 1:]) / placement.zoom[:, None]
    x, y = x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, cols)
    return torch.stack([x, y], dim=-1) * 2 - 1


def place_images(images: Tensor, placement: Placement) -> Tensor:
    """Move normalised images (B, C, H, W); what lies outside is 0, the mean colour."""
    grid = _grid(placement, (images.shape[2], images.shape[3]))
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs() <= 1).all(dim=-1)
    return moved * inside[:, None]


def place_classes(semantic: Tensor, placement: Placement) -> Tensor:
    """Move pixel classes uint8 (B, H, W) by nearest neighbour; what lies outside is ignored."""
    grid = _grid(placement, (semantic.shape[1], semantic.shape[2]))
    shifted = semantic[:, None].float() - IGNORE_INDEX  # outside is sampled as 0
    moved = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    return (moved[:, 0] + IGNORE_INDEX).round().to(torch.uint8)


def place_objects(target: dict[str, Tensor], placement: Placement) -> dict[str, Tensor]:
    """Move one image's objects (boxes (N, 4) px, labels (N,), masks (N, H, W) where known).

    `placement` holds that image's row alone. Boxes are cut at the border; objects of which hardly
    anything stays are dropped.
    """
    masks, count = target["masks"], len(target["boxes"])
    if not count:
        return target
    rows, cols = masks.shape[-2:]
    sides = torch.tensor([cols, rows], device=masks.device)
    offset = placement.shift[0] * sides
    boxes = target["boxes"] * placement.zoom[0] + torch.cat([offset, offset])
    if bool(placement.is_flipped[0]):
        boxes = torch.stack([cols - boxes[:, 2], boxes[:, 1], cols - boxes[:, 0], boxes[:, 3]], 1)
    boxes = torch.minimum(boxes.clamp(min=0), torch.cat([sides, sides]))
    grid = _grid(placement, (rows, cols)).expand(count, -1, -1, -1)
    moved = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
    moved = moved[:, 0].to(masks.dtype)
    wide = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE_PX).all(dim=1)
    visible = wide & (moved > 0).flatten(1).any(dim=1)
    return {"boxes": boxes[visible], "labels": target["labels"][visible], "masks": moved[visible]}
