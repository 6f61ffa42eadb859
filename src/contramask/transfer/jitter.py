"""Random zoom, position and mirror image for dense tasks: image, pixel classes and objects alike.

One affine map an image, drawn from the image's key, so it is the same whatever the loader does.
Large-scale jitter (Ghiasi et al., 2012.07177) is `scale: [0.1, 2.0], flip: 0.5`.
"""

from dataclasses import dataclass as plain_dataclass
from math import log2

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from contramask.data.photometric import distort
from contramask.draws import uniform
from contramask.transfer.metrics import IGNORE_INDEX
from contramask.typed import STRICT

#: Stream of random numbers (contramask.draws) this module draws from.
_STREAM = 128
Size = tuple[int, int]

#: Windows drawn at most for one image, and the grid on which their classes are counted.
ATTEMPTS, _COARSE = 10, (32, 32)
#: An object of which less than this many pixels per side stay visible is dropped.
MIN_SIDE_PX = 2.0


@dataclass(frozen=True, config=STRICT)
class JitterConfig:
    """`scale`: zoom drawn uniformly, cropped above 1 and padded below; `flip`: its probability.

    photometric: colours change, too, as `contramask.data.photometric` says.
    """

    scale: tuple[float, float] = (1.0, 1.0)
    flip: float = Field(default=0.0, ge=0, le=1)
    photometric: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> "JitterConfig":
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale is [low, high] with 0 < low <= high, not {list(self.scale)}")
        return self

    @property
    def halvings(self) -> int:
        """How often the most shrunken image is halved on its way."""
        return max(0, int(-log2(self.scale[0])))

    @property
    def is_idle(self) -> bool:
        """Whether nothing would ever move."""
        return self.scale == (1.0, 1.0) and self.flip == 0


def recolour(pixels: Tensor, key: Tensor, config: JitterConfig) -> Tensor:
    """uint8 images (B, H, W, C) in other colours where the configuration says so."""
    return distort(pixels, key) if config.photometric else pixels


@plain_dataclass(frozen=True)
class Placement:
    """Where images go: output = zoom * input + shift, both in sides of the picture; then mirrored.

    The zooms of the axes differ where the output shows a window of another aspect.
    """

    zoom: Tensor  # (B, 2), x and y
    shift: Tensor  # (B, 2), x and y
    is_flipped: Tensor  # (B,) bool

    def __getitem__(self, rows: Tensor) -> "Placement":
        return Placement(self.zoom[rows], self.shift[rows], self.is_flipped[rows])


def draw_placement(
    key: Tensor, config: JitterConfig, window: tuple[float, float] = (1.0, 1.0), attempt: int = 0
) -> Placement:
    """Draw one placement an image from its key (B,).

    window: width and height of the output in sides of the unzoomed image, (1, 1) for all of it;
    attempt: 0, 1, ... give other windows of the same zoom.
    """
    noise = uniform(key, _STREAM, 4)
    low, high = config.scale
    shown = torch.tensor(window, device=key.device)
    zoom = (low + (high - low) * noise[:, :1]) / shown
    where = noise[:, 1:3] if attempt == 0 else uniform(key, _STREAM + attempt, 2)
    # Padding (zoom < 1) and cropping (zoom > 1) share one formula: room is positive or negative.
    return Placement(zoom, (1 - zoom) * where, noise[:, 3] < config.flip)


def draw_window(
    key: Tensor,
    config: JitterConfig,
    semantic: Tensor,
    window: tuple[float, float],
    max_class_share: float,
) -> Placement:
    """Draw windows, anew where one class of `semantic` (B, H, W) fills more than the given share.

    ADE20K's protocol: at most `ATTEMPTS` draws an image, ignored pixels are not counted. The share
    is measured on a coarse grid of the window. `window` as for `draw_placement`.
    """
    placement = draw_placement(key, config, window)
    for attempt in range(1, ATTEMPTS):
        is_dull = _largest_share(place_classes(semantic, placement, _COARSE)) > max_class_share
        other = draw_placement(key, config, window, attempt)
        shift = torch.where(is_dull[:, None], other.shift, placement.shift)
        placement = Placement(placement.zoom, shift, placement.is_flipped)
    return placement


def _largest_share(semantic: Tensor) -> Tensor:
    """(B,) share of the commonest class among the counted pixels of (B, H, W)."""
    flat = semantic.flatten(1).long()
    counts = torch.zeros(len(flat), 256, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat, dtype=counts.dtype))
    counts = counts[:, :IGNORE_INDEX]
    return counts.amax(dim=1) / counts.sum(dim=1).clamp_min(1)


def _grid(placement: Placement, size: Size) -> Tensor:
    """Where each output pixel comes from, (B, rows, cols, 2) in -1..1 as grid_sample reads it."""
    rows, cols = size
    device = placement.zoom.device
    x = (torch.arange(cols, device=device) + 0.5) / cols  # (cols,)
    y = (torch.arange(rows, device=device) + 0.5) / rows
    x = torch.where(placement.is_flipped[:, None], 1 - x, x)  # (B, cols)
    x = (x - placement.shift[:, :1]) / placement.zoom[:, :1]
    y = (y - placement.shift[:, 1:]) / placement.zoom[:, 1:]
    x, y = x[:, None, :].expand(-1, rows, -1), y[:, :, None].expand(-1, -1, cols)
    return torch.stack([x, y], dim=-1) * 2 - 1


def place_images(
    images: Tensor, placement: Placement, size: Size | None = None, halvings: int = 0
) -> Tensor:
    """Move normalised images (B, C, H, W) into (B, C, *size); outside is 0, the mean colour.

    An image that shrinks by half or more is sampled from a halved one, up to `halvings` times: a
    sampled grid alone would skip pixels.
    """
    size = size or (images.shape[2], images.shape[3])
    grid = _grid(placement, size)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    grown = torch.tensor([size[1] / images.shape[3], size[0] / images.shape[2]])
    level = -(placement.zoom * grown.to(placement.zoom)).amin(dim=1).log2().ceil()  # (B,)
    for number in range(1, halvings + 1):
        images = F.avg_pool2d(images, 2, ceil_mode=True, count_include_pad=False)
        smaller = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
        moved = torch.where((level >= number)[:, None, None, None], smaller, moved)
    inside = (grid.abs() <= 1).all(dim=-1)
    return moved * inside[:, None]


def place_classes(semantic: Tensor, placement: Placement, size: Size | None = None) -> Tensor:
    """Move pixel classes uint8 (B, H, W) into (B, *size), nearest pixel; outside is ignored."""
    grid = _grid(placement, size or (semantic.shape[1], semantic.shape[2]))
    shifted = semantic[:, None].float() - IGNORE_INDEX  # outside is sampled as 0
    moved = F.grid_sample(shifted, grid, mode="nearest", align_corners=False)
    return (moved[:, 0] + IGNORE_INDEX).round().to(torch.uint8)


def place_objects(target: dict[str, Tensor], placement: Placement, size: Size) -> dict[str, Tensor]:
    """Move the objects (boxes (N, 4) px, labels (N,), masks (N, *size) where known) of one image.

    `placement` holds that image's row alone. A moved mask is cut at the border and its box drawn
    around what is left of it, as detectron2 does; without masks the box itself is cut. Objects of
    which nothing stays, or hardly anything, are dropped.
    """
    if not len(target["boxes"]):
        return target
    moved = {}
    if "masks" in target:
        moved["masks"] = _placed_masks(target["masks"], placement)
        moved["boxes"] = boxes_around(moved["masks"])
    else:
        moved["boxes"] = _placed_boxes(target["boxes"], placement, size)
    sides = moved["boxes"][:, 2:] - moved["boxes"][:, :2]
    visible = (sides >= MIN_SIDE_PX).all(dim=1)
    return {name: value[visible] for name, value in {**target, **moved}.items()}


def _placed_masks(masks: Tensor, placement: Placement) -> Tensor:
    grid = _grid(placement, (masks.shape[1], masks.shape[2])).expand(len(masks), -1, -1, -1)
    moved = F.grid_sample(masks[:, None].float(), grid, mode="nearest", align_corners=False)
    return moved[:, 0].to(masks.dtype)


def _placed_boxes(boxes: Tensor, placement: Placement, size: Size) -> Tensor:
    rows, cols = size
    sides = torch.tensor([cols, rows], device=boxes.device)
    offset = placement.shift[0] * sides
    boxes = boxes * placement.zoom[0].repeat(2) + torch.cat([offset, offset])
    if bool(placement.is_flipped[0]):
        boxes = torch.stack([cols - boxes[:, 2], boxes[:, 1], cols - boxes[:, 0], boxes[:, 3]], 1)
    return torch.minimum(boxes.clamp(min=0), torch.cat([sides, sides]))


def boxes_around(masks: Tensor) -> Tensor:
    """The tightest half-open boxes (N, 4) px around masks (N, H, W), inside out around none."""
    corners = []
    for dim in (1, 2):  # over the rows: which columns are seen; over the columns: which rows
        seen = (masks > 0).any(dim=dim)  # (N, W), then (N, H)
        places = torch.arange(seen.shape[1], device=masks.device)
        corners.append(torch.where(seen, places, seen.shape[1]).amin(dim=1))
        corners.append(torch.where(seen, places + 1, 0).amax(dim=1))
    x0, x1, y0, y1 = corners
    return torch.stack([x0, y0, x1, y1], dim=1).float()
