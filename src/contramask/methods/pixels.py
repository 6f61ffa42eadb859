"""What MAE and its descendants share: a decoder that paints the patches the encoder did not see."""

from abc import abstractmethod

import torch
from torch import Tensor

from contramask.losses import normalise_patches
from contramask.masking import PatchMask, take_tokens
from contramask.methods.base import Batch, Method
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import VisionEncoder, patchify


class PixelMethod(Method):
    """A method that predicts pixels of hidden patches, which are dropped from its encoder.

    norm_pix_loss: whether a patch is to be predicted in its own mean and deviation.
    """

    encoder: VisionEncoder
    draws_pictures = True

    def __init__(self, encoder: VisionEncoder, decoder: DecoderConfig, norm_pix_loss: bool) -> None:
        super().__init__()
        self.encoder, self.norm_pix_loss = encoder, norm_pix_loss
        width, grid, ratio = encoder.embed_dim, encoder.grid_size, encoder.config.mlp_ratio
        pixels = encoder.patch_size**2 * encoder.in_chans  # P
        self.pixel_decoder = TokenDecoder(width, pixels, grid, decoder, ratio)

    @abstractmethod
    def draw_mask(self, batch: Batch) -> PatchMask:
        """The mask of the batch's `view`."""

    def target(self, view: Tensor, ids: Tensor | None = None) -> Tensor:
        """What the decoder should output for every patch or for `ids` (B, n): (B, n, P)."""
        patches = patchify(view, self.encoder.patch_size)
        if ids is not None:  # only what is asked for is normalised
            patches = take_tokens(patches, ids)
        return normalise_patches(patches) if self.norm_pix_loss else patches

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions for all patches (B, L, P) and the mask (B, L), True where hidden."""
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)
        return self.pixel_decoder.predict_all(tokens, mask), mask.mask
