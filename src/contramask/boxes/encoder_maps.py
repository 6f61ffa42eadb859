"""Where the object may be, by a trained encoder: the first principal component of its tokens.

The published rule, a sum over channels, is empty on a ViT: after the final norm it is the same for
every token (method notes, F2). What separates object from background there is a direction of its
own in each image.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from contramask.boxes.heatmaps import Producer, stretch
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle
from contramask.models.family import Encoder

_FLAT = 1.0  # grey levels of 255: an image with less contrast shows no object


def encoder_maps(bundle: EncoderBundle) -> Producer:
    """A producer of `pc1` maps by this encoder, on an accelerator where there is one.

    Each map is the mean over the image and its mirror image. Raises `ValueError`, at its first
    batch, for images with another number of channels than the encoder's.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder = bundle.encoder.eval().to(device)
    mean, std = (
        torch.tensor(bundle.manifest[name], device=device).reshape(-1, 1, 1) * 255
        for name in ("mean", "std")
    )

    @torch.inference_mode()
    def producer(images: np.ndarray, grid: int) -> np.ndarray:
        if images.shape[-1] != encoder.in_chans:
            raise ValueError(
                f"the encoder reads {encoder.in_chans} channels and the images have "
                f"{images.shape[-1]}; give crop_boxes.encoder one that was trained on such images"
            )
        pixels = whole_images(torch.tensor(images, device=device), encoder.image_size)
        view = (pixels - mean) / std
        both = first_component(encoder, view) + first_component(encoder, view.flip(3)).flip(2)
        maps = F.interpolate(both[:, None], (grid, grid), mode="bilinear", antialias=True)[:, 0]
        contrast = (pixels.amax((1, 2, 3)) - pixels.amin((1, 2, 3))) >= _FLAT
        return stretch((maps * contrast[:, None, None]).cpu().numpy())

    return producer


def first_component(encoder: Encoder, view: Tensor) -> Tensor:
    """Each patch token's place along its image's first component, (B, rows, cols) in [0, 1].

    Tokens are centred within the image; the sign is chosen so that the border is low. What an
    image of the mean colour gives is taken off first: a trained encoder's tokens tell above all
    where they are, and their first component would, too.
    """
    blank = encoder.forward_tokens(torch.zeros_like(view[:1]))
    tokens = (encoder.forward_tokens(view) - blank)[:, 1:].float()
    tokens = tokens - tokens.mean(dim=1, keepdim=True)  # (B, L, D)
    _, vectors = torch.linalg.eigh(tokens @ tokens.transpose(1, 2))  # ascending
    maps = vectors[..., -1].reshape(-1, *encoder.grid_size)
    border = torch.ones(encoder.grid_size, dtype=torch.bool, device=maps.device)
    border[1:-1, 1:-1] = False
    turned = maps[:, border].mean(dim=1) > maps.mean(dim=(1, 2))
    maps = torch.where(turned[:, None, None], -maps, maps)
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12)
