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

from dataclasses import dataclass as plain_dataclass
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn

from contramask.ema import cosine_momentum, ema_update, frozen_copy
from contramask.losses import contrast_gauges, info_nce, pixel_loss
from contramask.masking import PatchMask, block_mask, check_mask, num_cells
from contramask.methods.base import Batch, StepOutput, mask_noise
from contramask.methods.coupled import CoupledMethod, Tensors
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


@plain_dataclass(frozen=True)
class _Reading:
    """Both views, and the online one's visible tokens (B, 1+V, D)."""

    view: Tensor
    target_view: Tensor
    mask: PatchMask
    tokens: Tensor


class CMAE(PixelMethod, CoupledMethod[_Reading]):
    """Contrastive masked autoencoder.

    Batches need `view` and `target_view` (B, C, H, W), and `key` (B,) or `noise` (B, cells).
    The reconstruction is each image's own; in negatives and batch norms images meet.
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

    def read(self, batch: Batch) -> _Reading:
        """The visible patches' tokens, which both decoders read."""
        mask = self.draw_mask(batch)
        tokens = self.encoder.forward_tokens(batch["view"], mask.ids_keep)  # (B, 1+V, D)
        return _Reading(batch["view"], batch["target_view"], mask, tokens)

    def own_loss(self, reading: _Reading) -> StepOutput:
        """MAE's, w_r L_r; terms: recon_loss (before its weight)."""
        pred = self.pixel_decoder.predict_hidden(reading.tokens, reading.mask)  # (B, L-V, P)
        recon = pixel_loss(pred, self.target(reading.view, reading.mask.ids_hide))
        return StepOutput(self.config.recon_weight * recon, {"recon_loss": recon.detach()})

    def features(self, reading: _Reading) -> Tensors:
        """The mean of the feature decoder's outputs, (B, D)."""
        return (self.feature_decoder.predict_mean(reading.tokens, reading.mask),)

    @torch.no_grad()
    def targets(self, reading: _Reading) -> Tensors:
        """The momentum encoder's mean patch token of the complete target view, (B, D)."""
        tokens = self.target_encoder.forward_tokens(reading.target_view)
        return (tokens[:, 1:].mean(dim=1),)

    def joint_loss(self, features: Tensors, targets: Tensors) -> StepOutput:
        """w_c s L_c; terms: contrast_loss (before any scale)."""
        config = self.config
        query = self.predictor(self.projector(features[0]))  # (B, d)
        with torch.no_grad():
            key = self.target_projector(targets[0])  # (B, d)
        contrast = info_nce(query, key, config.temperature, self.gather, self.rank)
        self.latest = (query.detach(), key)
        scale = 2 * config.temperature if config.contrast_scale == "2tau" else 1.0
        loss = config.contrast_weight * scale * contrast
        return StepOutput(loss, {"contrast_loss": contrast.detach()})

    def gauges(self) -> dict[str, Tensor]:
        """Cosines, in-batch top-1, feature spread and effective rank of the latest step."""
        return contrast_gauges(*self.latest)

    def after_step(self, progress: float) -> None:
        """Move the momentum encoder and projector; batch-norm buffers keep their own statistics."""
        momentum = cosine_momentum(self.config.momentum, self.config.momentum_end, progress)
        ema_update(self.target_encoder, self.encoder, momentum)
        ema_update(self.target_projector, self.projector, momentum)
