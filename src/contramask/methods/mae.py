"""MAE: hide most patches of an image and predict their pixels (He et al., 2111.06377).

L = mean over hidden patches i of || d(e(x visible))_i - n(x_i) ||^2 / P, with n the per-patch
normalisation. Only the encoder e is kept.

Where paper and released code differ, the code (facebookresearch/mae) is followed: the number of
visible patches is rounded down, and the variance inside n is the unbiased estimator. The paper's
un-normalised target is `norm_pix_loss: false`.
"""

from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.draws import uniform
from contramask.losses import normalise_patches, pixel_loss
from contramask.masking import PatchMask, check_mask, random_mask, take_tokens
from contramask.methods.base import MASK_STREAM, Batch, Method, StepOutput
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import VisionEncoder, patchify
from contramask.typed import STRICT


@dataclass(frozen=True, config=STRICT)
class MAEConfig:
    """MAE's own settings (2111.06377, Table 1 defaults; normalised pixels as its commands use)."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    norm_pix_loss: bool = True
    decoder: DecoderConfig = DecoderConfig()
    view_mode: Literal["single"] = "single"


class MAE(Method):
    """Masked autoencoder. Batches need `view` (B, C, H, W), and `key` (B,) or `noise` (B, L)."""

    config: MAEConfig

    def __init__(self, encoder: VisionEncoder, config: MAEConfig) -> None:
        super().__init__()
        check_mask(encoder.grid_size, encoder.patch_size, config.mask_ratio)
        self.encoder = encoder
        self.config = config
        pixels = encoder.patch_size**2 * encoder.in_chans
        ratio = encoder.config.mlp_ratio
        self.pixel_decoder = TokenDecoder(
            encoder.embed_dim, pixels, encoder.grid_size, config.decoder, ratio
        )

    def draw_mask(self, batch: Batch) -> PatchMask:
        """The batch's mask: from `noise` (B, L) if it brings some, else from the images' keys."""
        noise = batch.get("noise")
        if noise is None:
            noise = uniform(batch["key"], MASK_STREAM, self.encoder.num_patches)
        return random_mask(noise, self.config.mask_ratio)

    def target(self, view: Tensor, ids: Tensor | None = None) -> Tensor:
        """What the decoder should output for every patch or for `ids` (B, n): (B, n, P)."""
        patches = patchify(view, self.encoder.patch_size)
        if ids is not None:
            patches = take_tokens(patches, ids)
        return normalise_patches(patches) if self.config.norm_pix_loss else patches

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss; terms: recon_loss."""
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)  # (B, 1+V, D)
        pred = self.pixel_decoder.predict_hidden(tokens, mask)  # (B, L-V, P)
        loss = pixel_loss(pred, self.target(batch["view"], mask.ids_hide))
        return StepOutput(loss, {"recon_loss": loss.detach()})

    @torch.no_grad()
    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions for all patches (B, L, P) and the mask (B, L), True where hidden."""
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)
        return self.pixel_decoder.predict_all(tokens, mask), mask.mask
