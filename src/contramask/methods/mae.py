"""MAE: hide most patches of an image and predict their pixels (He et al., 2111.06377).

L = mean over hidden patches i of || d(e(x visible))_i - n(x_i) ||^2 / P, with n the per-patch
normalisation. Only the encoder e is kept.

Where paper and released code differ, the code (facebookresearch/mae) is followed: the number of
visible patches is rounded down, and the variance inside n is the unbiased estimator. The paper's
un-normalised target is `norm_pix_loss: false`.
"""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.losses import pixel_loss
from contramask.masking import PatchMask, check_mask, random_mask
from contramask.methods.base import Batch, StepOutput, mask_noise
from contramask.methods.pixels import PixelMethod
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import VisionEncoder
from contramask.typed import STRICT


@dataclass(frozen=True, config=STRICT)
class MAEConfig:
    """MAE's own settings (2111.06377, Table 1 defaults; normalised pixels as its commands use)."""

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    norm_pix_loss: bool = True
    decoder: DecoderConfig = DecoderConfig()
    view_mode: Literal["single"] = "single"


class MAE(PixelMethod):
    """Masked autoencoder. Batches need `view` (B, C, H, W), and `key` (B,) or `noise` (B, L)."""

    config: MAEConfig

    def __init__(self, encoder: VisionEncoder, config: MAEConfig) -> None:
        super().__init__(encoder, config.decoder, config.norm_pix_loss)
        check_mask(encoder.grid_size, encoder.patch_size, config.mask_ratio)
        self.config = config

    def draw_mask(self, batch: Batch) -> PatchMask:
        """The batch's mask: from `noise` (B, L) if it brings some, else from the images' keys."""
        return random_mask(mask_noise(batch, self.encoder.num_patches), self.config.mask_ratio)

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss; terms: recon_loss."""
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)  # (B, 1+V, D)
        pred = self.pixel_decoder.predict_hidden(tokens, mask)  # (B, L-V, P)
        loss = pixel_loss(pred, self.target(batch["view"], mask.ids_hide))
        return StepOutput(loss, {"recon_loss": loss.detach()})
