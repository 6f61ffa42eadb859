"""CMAE: MAE plus matching a complete, slightly shifted view (Huang et al., 2207.13532).

The online branch is MAE. A second decoder turns the same visible tokens into features of all
patches; their mean, projected and predicted, must find the mean of the momentum encoder's tokens
of the target view among those of all images in the batch:

    L = w_r L_r + w_c s L_c,   L_c = -log exp(cos(q_i, k_i)/tau) / sum_j exp(cos(q_i, k_j)/tau)

with q from the online branch (with gradient), k from the momentum branch (without).

Paper and released code (ZhichengHuang/CMAE) differ; each difference is one field, the default is
the code's, the only variant with published checkpoints (`conf/paper_cmae` has the other):
mask_ratio 0.65 in cells of 2x2 patches against 0.75 of single patches; s = 2 tau against 1;
target tokens before the momentum encoder's final norm against its output (the text leaves it open).
The full paper could not be read; what is called the paper's comes from its abstract, readers'
notes and the authors' answers.
"""

from typing import Literal

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from contramask.ema import cosine_momentum, ema_update, frozen_copy
from contramask.losses import contrast_gauges, info_nce, pixel_loss
from contramask.masking import PatchMask, block_mask, check_mask, num_cells
from contramask.methods.base import Batch, StepOutput, mask_noise
from contramask.methods.pixels import PixelMethod
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import VisionEncoder
from contramask.models.heads import MLPHead
from contramask.typed import STRICT


@dataclass(frozen=True, config=STRICT)
class CMAEConfig:
    """CMAE's own settings; the defaults are those of the released ViT-B configuration."""

    name: Literal["cmae"] = "cmae"
    mask_ratio: float = Field(default=0.65, gt=0, lt=1)
    mask_block: int = Field(default=2, ge=1)  # patches per side of a masked cell; 1 in the paper
    decoder: DecoderConfig = DecoderConfig()
    feature_decoder: DecoderConfig = DecoderConfig(depth=2)
    head_hidden_dim: int = Field(default=1536, ge=2)
    head_out_dim: int = Field(default=256, ge=2)
    head_norm_eps: float = Field(default=1e-6, gt=0)  # as released; PyTorch's default is 1e-5
    temperature: float = Field(default=0.07, gt=0)
    recon_weight: float = Field(default=1.0, ge=0)
    contrast_weight: float = Field(default=1.0, ge=0)
    contrast_scale: Literal["2tau", "one"] = "2tau"  # "one": the paper's plain cross-entropy
    target_norm: Literal["none", "final"] = "none"  # "final": pool after the final norm
    momentum: float = Field(default=0.996, ge=0, le=1)
    momentum_end: float = Field(default=0.996, ge=0, le=1)  # constant, as released
    view_mode: Literal["cmae_parity", "symmetric_shift", "independent_rrc", "same_view"] = (
        "cmae_parity"
    )


class CMAE(PixelMethod):
    """Contrastive masked autoencoder.

    Batches need `view` and `target_view` (B, C, H, W), and `key` (B,) or `noise` (B, cells).
    Batch norms and negatives couple the images of a batch: gradient accumulation is no substitute
    for a large batch.
    """

    config: CMAEConfig

    def __init__(self, encoder: VisionEncoder, config: CMAEConfig) -> None:
        super().__init__(encoder, config.decoder, norm_pix_loss=True)  # the released code always
        check_mask(encoder.grid_size, encoder.patch_size, config.mask_ratio, config.mask_block)
        self.config = config
        width, grid, ratio = encoder.embed_dim, encoder.grid_size, encoder.config.mlp_ratio
        # The released feature decoder outputs p*p*3 values, which equals D only for ViT-B/16; the
        # shared projector needs D, so D it is for every size.
        self.feature_decoder = TokenDecoder(width, width, grid, config.feature_decoder, ratio)
        hidden, out, eps = config.head_hidden_dim, config.head_out_dim, config.head_norm_eps
        self.projector = MLPHead(width, hidden, out, eps)
        self.predictor = MLPHead(out, hidden, out, eps)
        self.target_encoder = frozen_copy(encoder)
        if config.target_norm == "none":
            self.target_encoder.norm = nn.Identity()
        self.target_projector = frozen_copy(self.projector)

    def draw_mask(self, batch: Batch) -> PatchMask:
        """The batch's mask: from `noise` (B, cells) if it brings some, else from the keys."""
        grid, block = self.encoder.grid_size, self.config.mask_block
        noise = mask_noise(batch, num_cells(grid, block))
        return block_mask(noise, self.config.mask_ratio, grid, block)

    @torch.no_grad()
    def target_key(self, target_view: Tensor) -> Tensor:
        """The momentum branch's projection of the mean patch token, (B, d)."""
        tokens = self.target_encoder.forward_tokens(target_view)
        return self.target_projector(tokens[:, 1:].mean(dim=1))  # type: ignore[no-any-return]

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss; terms: recon_loss, contrast_loss (before any scale)."""
        config = self.config
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)  # (B, 1+V, D)
        pred = self.pixel_decoder.predict_hidden(tokens, mask)  # (B, L-V, P)
        recon = pixel_loss(pred, self.target(batch["view"], mask.ids_hide))
        feature = self.feature_decoder.predict_mean(tokens, mask)  # (B, D)
        query = self.predictor(self.projector(feature))  # (B, d)
        key = self.target_key(batch["target_view"])
        contrast = info_nce(query, key, config.temperature, self.gather, self.rank)
        scale = 2 * config.temperature if config.contrast_scale == "2tau" else 1.0
        loss = config.recon_weight * recon + config.contrast_weight * scale * contrast
        terms = {"recon_loss": recon.detach(), "contrast_loss": contrast.detach()}
        self.latest = (query.detach(), key)
        return StepOutput(loss, terms)

    def coupling(self, labels: np.ndarray) -> str | None:
        """Negatives and batch norms."""
        return "an image's negatives, and its batch norms' statistics, are the batch's other images"

    def gauges(self) -> dict[str, Tensor]:
        """Cosines, in-batch top-1, feature spread and effective rank of the latest step."""
        return contrast_gauges(*self.latest)

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder and projector; batch-norm buffers keep their own statistics."""
        momentum = cosine_momentum(self.config.momentum, self.config.momentum_end, progress)
        ema_update(self.target_encoder, self.encoder, momentum)
        ema_update(self.target_projector, self.projector, momentum)
