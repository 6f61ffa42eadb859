"""Views of whole batches, made on the device: crop, flip and resize as two matrix products.

An antialiased bicubic resize of any crop is linear and separable, so a view is
W_rows @ image @ W_cols^T with one pair of small matrices an image; flips and pixel shifts only
reorder their rows. Equals torchvision's antialiased bicubic within 0.01 of 255.
"""

from dataclasses import field
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.colour import ColourConfig, alter_colours
from contramask.data.config import ScaleRange
from contramask.data.crops import contrastive_crop, crop_inside, full_boxes, random_resized_crop
from contramask.data.transforms import OwnTransforms
from contramask.draws import uniform
from contramask.typed import STRICT

Size = tuple[int, int]
Positive = Annotated[float, Field(gt=0)]

_REFERENCE = 224  # the view size in pixels that configured lengths refer to

# Numbers of the random streams; one purpose each, so that none shifts another.
_CROP, _FLIP, _SHIFT, _COLOUR, _SECOND_CROP, _SECOND_FLIP, _ONLINE_SHIFT = range(7)

ViewMode = Literal[
    "single", "cmae_parity", "symmetric_shift", "independent_rrc", "same_view", "weak_strong"
]


@dataclass(frozen=True, config=STRICT)
class ViewConfig:
    """How images are cropped and altered; defaults are MAE's and CMAE's for ImageNet photographs.

    `pixel_shift` and `master_size` are for an output of 224 px and scale with the real one.
    `transforms` are the user's own albumentations; everything else here is not used then.
    """

    crop: Literal["random_resized", "full_box", "boxes", "inside_boxes"] = "random_resized"
    crop_scale: ScaleRange = (0.2, 1.0)  # share of the image's area
    crop_ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)  # width by height
    box_alpha: float = Field(default=0.6, ge=0.05, le=2)  # Beta(alpha, alpha) of ContrastiveCrop
    box_margin: float = Field(default=0.5, ge=0)  # for `inside_boxes`
    flip: float = Field(default=0.5, ge=0, le=1)  # probability
    pixel_shift: int = Field(default=31, ge=0)  # 0..p px, inclusive
    master_size: int = Field(default=256, ge=_REFERENCE)
    colour: ColourConfig = field(default_factory=ColourConfig)
    transforms: OwnTransforms = None

    @model_validator(mode="after")
    def _fits(self) -> "ViewConfig":
        room = self.master_size - _REFERENCE
        if self.pixel_shift > room:
            raise ValueError(
                f"pixel_shift {self.pixel_shift} is more than master_size {self.master_size} leaves"
                f" around a view of {_REFERENCE}: at most {room}; enlarge master_size"
            )
        if self.crop_ratio[0] > self.crop_ratio[1]:
            raise ValueError(f"crop_ratio is written [low, high], not {list(self.crop_ratio)}")
        if self.transforms is not None and self.crop != "random_resized":
            raise ValueError(
                f"crop: {self.crop} places crops by boxes, which `transforms` know nothing of; "
                "leave one of the two out"
            )
        return self

    @property
    def needs_boxes(self) -> bool:
        """Whether crops are placed by a box set."""
        return self.crop in ("boxes", "inside_boxes")


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


def window(weights: Tensor, offset: Tensor, size: int) -> Tensor:
    """Rows offset .. offset + size of each matrix (B, M, in): (B, size, in)."""
    ids = offset[:, None] + torch.arange(size, device=weights.device)
    return weights.gather(1, ids[..., None].expand(-1, -1, weights.shape[-1]))


def to_float(images: Tensor) -> Tensor:
    """uint8 (B, H, W, C) to float32 (B, C, H, W), still in 0..255."""
    return images.permute(0, 3, 1, 2).float()


def whole_images(images: Tensor, size: Size) -> Tensor:
    """Whole uint8 images (B, H, W, C), resized if need be, float (B, C, *size) in 0..255."""
    pixels = to_float(images)
    if tuple(pixels.shape[2:]) == tuple(size):
        return pixels
    count, device = len(pixels), pixels.device
    still = torch.zeros(count, dtype=torch.bool, device=device)
    in_size = (pixels.shape[2], pixels.shape[3])
    return apply_weights(pixels, *crop_weights(full_boxes(count, device), in_size, size, still))


class ViewMaker:
    """Turns a uint8 batch into the views a method trains on, normalised, on the batch's device."""

    def __init__(
        self, config: ViewConfig, mode: ViewMode, size: Size, mean: list[float], std: list[float]
    ) -> None:
        self.config, self.mode, self.size = config, mode, size
        self.mean = torch.tensor(mean).reshape(-1, 1, 1) * 255
        self.std = torch.tensor(std).reshape(-1, 1, 1) * 255
        self.master = (_scaled(config.master_size, size[0]), _scaled(config.master_size, size[1]))
        # The room can be smaller than the scaled shift: by rounding, or on the shorter side.
        room = min(self.master[0] - size[0], self.master[1] - size[1])
        self.shift = min(_scaled(config.pixel_shift, max(size)), room)

    def __call__(self, images: Tensor, key: Tensor, boxes: Tensor | None) -> dict[str, Any]:
        """Views of uint8 images (B, H, W, C): `view` and, for paired modes, `target_view`.

        key is (B,) from `draws.image_keys`; boxes (B, 4) are needed by the box policies.
        """
        pixels = to_float(images)
        if self.mode == "single":
            return {"view": self.normalise(self._crop(pixels, key, boxes, _CROP, _FLIP))}
        if self.mode == "independent_rrc":
            view = self._crop(pixels, key, boxes, _CROP, _FLIP)
            target = self._crop(pixels, key, boxes, _SECOND_CROP, _SECOND_FLIP)
        elif self.mode == "weak_strong":  # one plain crop; only colours tell the views apart
            view = target = self._crop(pixels, key, boxes, _CROP, _FLIP)
        else:
            view, target = self._shifted_pair(pixels, key, boxes)
        target = alter_colours(target, self.config.colour, key, _COLOUR, self.size)
        return {"view": self.normalise(view), "target_view": self.normalise(target)}

    def ready(self, views: Tensor, key: Tensor, boxes: Tensor | None) -> dict[str, Any]:
        """The same of views that the user's transforms made, uint8 (1 or 2, B, H, W, C)."""
        names = ("view", "target_view")
        return {n: self.normalise(to_float(v)) for n, v in zip(names, views, strict=False)}

    def normalise(self, pixels: Tensor) -> Tensor:
        """(x - mean) / std per channel, pixels in 0..255."""
        return (pixels - self.mean.to(pixels.device)) / self.std.to(pixels.device)

    def to_pixels(self, view: Tensor) -> Tensor:
        """Undo `normalise`: uint8 (B, H, W, C), for pictures."""
        pixels = view.float() * self.std.to(view.device) + self.mean.to(view.device)
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _boxes(self, key: Tensor, boxes: Tensor | None, stream: int, size: Size) -> Tensor:
        config = self.config
        scale, ratio = config.crop_scale, config.crop_ratio
        if config.crop == "random_resized":
            return random_resized_crop(key, stream, size, scale, ratio)
        if config.crop == "full_box":
            whole = full_boxes(len(key), key.device)
            return contrastive_crop(key, stream, size, whole, scale, ratio, config.box_alpha)
        if boxes is None:
            raise ValueError(f"views.crop={config.crop} needs a box set; run `crop_boxes` first")
        if config.crop == "boxes":
            return contrastive_crop(key, stream, size, boxes, scale, ratio, config.box_alpha)
        return crop_inside(key, stream, size, boxes, scale, ratio, config.box_margin)

    def _crop(
        self, pixels: Tensor, key: Tensor, boxes: Tensor | None, crop: int, flip: int
    ) -> Tensor:
        return apply_weights(pixels, *self._weights(pixels, key, boxes, (crop, flip), self.size))

    def _weights(
        self,
        pixels: Tensor,
        key: Tensor,
        boxes: Tensor | None,
        streams: tuple[int, int],
        out_size: Size,
    ) -> tuple[Tensor, Tensor]:
        in_size = (pixels.shape[2], pixels.shape[3])
        crops = self._boxes(key, boxes, streams[0], in_size)
        flip = uniform(key, streams[1], 1)[:, 0] < self.config.flip
        return crop_weights(crops, in_size, out_size, flip)

    def _shifted_pair(
        self, pixels: Tensor, key: Tensor, boxes: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """CMAE's pixel shift: two windows of one enlarged, flipped master crop.

        `cmae_parity`: the online window is the upper left corner, the target's is shifted by
        0..p px down and right (the released code); `symmetric_shift`: both are shifted;
        `same_view`: neither.
        """
        rows, cols = self._weights(pixels, key, boxes, (_CROP, _FLIP), self.master)
        online = torch.zeros(len(key), 2, dtype=torch.int64, device=key.device)
        target = online
        if self.mode != "same_view":
            target = self._offsets(key, _SHIFT)
        if self.mode == "symmetric_shift":
            online = self._offsets(key, _ONLINE_SHIFT)
        height, width = self.size

        def cut(offset: Tensor) -> Tensor:
            return apply_weights(
                pixels, window(rows, offset[:, 0], height), window(cols, offset[:, 1], width)
            )

        return cut(online), cut(target)

    def _offsets(self, key: Tensor, stream: int) -> Tensor:
        """Uniform whole offsets 0..shift inclusive, (B, 2)."""
        return (uniform(key, stream, 2) * (self.shift + 1)).long().clamp_max(self.shift)


def _scaled(value_at_224: int, size: int) -> int:
    return round(value_at_224 * size / _REFERENCE)
