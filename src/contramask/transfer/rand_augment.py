"""RandAugment (1909.13719) as MAE's fine-tuning uses it: timm's, image by image."""

import random
import re

import numpy as np
import torch
from PIL import Image
from timm.data.auto_augment import rand_augment_transform
from torch import Tensor

#: The kinds of setting a recipe such as `rand-m9-mstd0.5-inc1` may hold.
_FORM = "rand-m9-mstd0.5-inc1: `rand`, then any of m, n, p, mstd, mmax, inc with a number"


def check_recipe(recipe: str) -> str:
    """The recipe, if timm can read all of it; raises `ValueError` else."""
    RandAugment(recipe, (0, 0, 0), size=32)
    if not re.fullmatch(r"rand(-[a-z]+[0-9.]+)*", recipe):  # timm passes over what has no number
        raise ValueError(f"{recipe!r} is no recipe timm can read; one is {_FORM}")
    return recipe


class RandAugment:
    """Alters each image of a batch by operations of its own, drawn from the image's key.

    recipe: timm's text; grey: the value 0-255 of each channel that fills what moves in; size: the
    shorter side in px, to which shifts are measured. Works on three-channel images only, on the
    processor: the operations are Pillow's. Raises `ValueError` for a recipe timm cannot read.
    """

    def __init__(self, recipe: str, grey: tuple[int, ...], size: int) -> None:
        if len(grey) != 3:
            raise ValueError(
                f"rand_augment needs images of three channels, these have {len(grey)}; set "
                "finetune.rand_augment to null"
            )
        # As timm's own loader; without an interpolation it would draw one, MAE's is bicubic.
        bicubic = Image.Resampling.BICUBIC
        hyper = {
            "translate_const": int(size * 0.45),
            "img_mean": grey,
            "interpolation": bicubic,
        }
        try:
            self.transform = rand_augment_transform(recipe, hyper)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"{recipe!r} is no recipe timm can read; one is {_FORM}") from error

    def __call__(self, pixels: Tensor, key: Tensor) -> Tensor:
        """Pixels 0..255 (B, 3, H, W), keys (B,) from `draws.image_keys`: the same, altered."""
        images = pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        altered = [self._one(image, int(k)) for image, k in zip(images, key.tolist(), strict=True)]
        stacked = torch.from_numpy(np.stack(altered)).to(pixels.device)
        return stacked.permute(0, 3, 1, 2).to(pixels.dtype)

    def _one(self, image: np.ndarray, key: int) -> np.ndarray:
        random.seed(key)  # timm draws from both global generators
        np.random.seed(key % 2**32)
        return np.asarray(self.transform(Image.fromarray(image)))
