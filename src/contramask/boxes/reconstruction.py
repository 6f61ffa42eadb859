"""Which patches are hard to guess from the others: the heat map `rec_err` of a masked autoencoder.

Objects and their edges are, plain backgrounds are not; textures are, too. It
needs the pixel decoder of the pre-training, which an exported encoder does not contain.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from contramask.draws import image_keys, uniform
from contramask.losses import normalise_patches
from contramask.masking import PatchMask, random_mask
from contramask.models.encoder import patchify
from contramask.models.family import Encoder
from contramask.models.pixel_decoder import PixelDecoder

#: A normalised view (B, C, H, W) and a mask -> predictions for all patches (B, L, P).
Predict = Callable[[Tensor, PatchMask], Tensor]

_MASKS = 4  # random masks an image; its mirror image gets as many


def reconstruction_errors(
    encoder: Encoder, pixels: PixelDecoder, view: Tensor, key: Tensor
) -> Tensor:
    """Mean squared error of each patch over the random masks that hid it, (B, L).

    view (B, C, H, W) is normalised; key (B,) int64 fixes the masks, which are of single patches and
    of the ratio in training. A patch that no mask hid has the mean error of its image.
    """
    target = patchify(view, encoder.patch_size)
    if pixels.norm_pix_loss:
        target = normalise_patches(target)

    def predict(images: Tensor, mask: PatchMask) -> Tensor:
        tokens = encoder.forward_tokens(images, mask.ids_keep)
        return pixels.decoder.predict_all(tokens, mask)

    return hidden_errors(predict, view, target, key, pixels.mask_ratio)


def hidden_errors(
    predict: Predict, view: Tensor, target: Tensor, key: Tensor, mask_ratio: float
) -> Tensor:
    """`reconstruction_errors` of any predictor; target (B, L, P) is what it should say."""
    count, length = target.shape[:2]
    total = torch.zeros(count, length, device=view.device)
    times = torch.zeros_like(total)
    for stream in range(_MASKS):
        mask = random_mask(uniform(key, stream, length), mask_ratio)
        error = (predict(view, mask).float() - target).square().mean(dim=2)
        total += torch.where(mask.mask, error, 0)
        times += mask.mask
    mean = total.sum(dim=1, keepdim=True) / times.sum(dim=1, keepdim=True)
    return torch.where(times > 0, total / times.clamp_min(1), mean)


def content_keys(images: Tensor) -> Tensor:
    """A random key (B,) int64 for each uint8 image (B, H, W, C), fixed by its pixels.

    The same for an image and its mirror image, and whatever else is in the batch.
    """
    levels = images.flatten(1).to(torch.int64)
    return image_keys(0, 0, levels.sum(dim=1) * 65_521 + levels.square().sum(dim=1))
