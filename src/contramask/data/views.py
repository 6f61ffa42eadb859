"""Views of whole batches, made on the device: where each image is cut, mirrored and coloured."""

from dataclasses import field
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.data.colour import ColourConfig, alter_colours
from contramask.data.config import ScaleRange
from contramask.data.crops import contrastive_crop, crop_inside, full_boxes, random_resized_crop
from contramask.data.resize import Size, cut_for, to_float, window
from contramask.data.transforms import OwnTransforms
from contramask.draws import uniform
from contramask.typed import STRICT

Positive = Annotated[float, Field(gt=0)]

_REFERENCE = 224  # the view size in pixels that configured lengths refer to

# Numbers of the random streams; one purpose each, so that none shifts another.
_CROP, _FLIP, _SHIFT, _COLOUR, _SECOND_CROP, _SECOND_FLIP, _ONLINE_SHIFT = range(7)
_FIRST, _SECOND = (_CROP, _FLIP), (_SECOND_CROP, _SECOND_FLIP)

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


def whole_images(images: Tensor, size: Size) -> Tensor:
    """Whole uint8 images (B, H, W, C), resized if need be, float (B, C, *size) in 0..255."""
    if tuple(images.shape[1:3]) == tuple(size):
        return to_float(images)
    count, device = len(images), images.device
    still = torch.zeros(count, dtype=torch.bool, device=device)
    return cut_for(device)(images, full_boxes(count, device), size, still).float()


class Places(NamedTuple):
    """Where a batch is cut: boxes (B, 4) in [0, 1], which are mirrored (B,), and the size in px."""

    boxes: Tensor
    flip: Tensor
    size: Size


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
        cut = cut_for(images.device)
        places = self.cuts(key, boxes, (images.shape[1], images.shape[2]))
        return self._finished([cut(images, p.boxes, p.size, p.flip) for p in places], key)

    def cuts(self, key: Tensor, boxes: Tensor | None, in_size: Size) -> list[Places]:
        """What is to be cut out of images of `in_size`, as many times as `cut_shape` says."""
        streams = (_FIRST, _SECOND) if self.mode == "independent_rrc" else (_FIRST,)
        return [self._place(key, boxes, s, in_size, self.cut_shape[1:]) for s in streams]

    @property
    def cut_shape(self) -> tuple[int, int, int]:
        """Pictures that are cut out of an image for its views, and their rows and columns."""
        count = 2 if self.mode == "independent_rrc" else 1
        plain = self.mode in ("single", "independent_rrc", "weak_strong")
        return (count, *(self.size if plain else self.master))

    def from_cuts(self, pixels: Tensor, key: Tensor, boxes: Tensor | None) -> dict[str, Any]:
        """The views of what was cut elsewhere at `cuts`, uint8 (count, B, H, W, C)."""
        return self._finished([one.permute(0, 3, 1, 2) for one in pixels], key)

    def _finished(self, cuts: list[Tensor], key: Tensor) -> dict[str, Any]:
        """Shifts, colours, normalisation of what was cut, each (B, C, H, W) in 0..255."""
        view, target = cuts[0], cuts[-1]
        if self.mode == "single":
            return {"view": self.normalise(view)}
        # With weak_strong, one plain crop, only colours tell the views apart.
        if self.mode not in ("independent_rrc", "weak_strong"):
            view, target = self._shifted_pair(view, key)
        target = alter_colours(target, self.config.colour, key, _COLOUR, self.size)
        return {"view": self.normalise(view), "target_view": self.normalise(target)}

    def crop(self, images: Tensor, key: Tensor) -> Tensor:
        """The view of `single` mode before it is normalised: float (B, C, *size) in 0..255."""
        place = self._place(key, None, _FIRST, (images.shape[1], images.shape[2]), self.size)
        return cut_for(images.device)(images, place.boxes, place.size, place.flip).float()

    def ready(self, views: Tensor, key: Tensor, boxes: Tensor | None) -> dict[str, Any]:
        """The same of views that the user's transforms made, uint8 (1 or 2, B, H, W, C)."""
        names = ("view", "target_view")
        return {
            n: self.normalise(v.permute(0, 3, 1, 2)) for n, v in zip(names, views, strict=False)
        }

    def normalise(self, pixels: Tensor) -> Tensor:
        """(x - mean) / std per channel, pixels in 0..255, of any number type."""
        if self.mean.device != pixels.device:  # once, not at every step
            self.mean, self.std = self.mean.to(pixels.device), self.std.to(pixels.device)
        plain = torch.contiguous_format  # crops can have their channels innermost
        copied = pixels.to(torch.float32, copy=True, memory_format=plain)
        return copied.sub_(self.mean).div_(self.std)

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

    def _place(
        self,
        key: Tensor,
        boxes: Tensor | None,
        streams: tuple[int, int],
        in_size: Size,
        size: Size,
    ) -> Places:
        """Crops, mirrored at random, that become `size`; streams: of crop and flip."""
        crops = self._boxes(key, boxes, streams[0], in_size)
        return Places(crops, uniform(key, streams[1], 1)[:, 0] < self.config.flip, size)

    def _shifted_pair(self, master: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """CMAE's pixel shift: two windows of one enlarged, flipped master crop.

        `cmae_parity`: the online window is the upper left corner, the target's is shifted by
        0..p px down and right (the released code); `symmetric_shift`: both are shifted;
        `same_view`: neither.
        """
        corner = master[:, :, : self.size[0], : self.size[1]]
        if self.mode == "same_view":
            return corner, corner
        target = window(master, self._offsets(key, _SHIFT), self.size)
        if self.mode == "symmetric_shift":
            return window(master, self._offsets(key, _ONLINE_SHIFT), self.size), target
        return corner, target

    def _offsets(self, key: Tensor, stream: int) -> Tensor:
        """Uniform whole offsets 0..shift inclusive, (B, 2)."""
        return (uniform(key, stream, 2) * (self.shift + 1)).long().clamp_max(self.shift)


def _scaled(value_at_224: int, size: int) -> int:
    return round(value_at_224 * size / _REFERENCE)
