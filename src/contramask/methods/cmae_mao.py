"""CMAE-Mao: MAE with a small decoder and two tasks for the encoder itself (Mao et al., 2205.10546).

A reconstruction, never a reproduction: the paper's body could not be read and its code was never
published. Certain from the abstract: the decoder shrinks; the encoder gets contrastive learning
and the prediction of token positions; ContrastiveCrop cuts the input. The forms below are those of
the same author's SDMAE code and of MoCo-v3, on which it builds:

    L = sum_v L_rec(v) + w_pos sum_v L_pos(v) + w_con 2T (C(q_1, k_2) + C(q_2, k_1))

over two views v, cropped independently by the crop policy of `pretrain.views`; C is the in-batch
cross-entropy at temperature T, its keys k from a moving average and without gradient.

What SDMAE does otherwise inside the method can be set: norm_pix_loss false, decoder.num_heads 16,
position_loss mse_onehot with position_weight 1, con_site sdmae_branch with head_out_dim 768 (for
ViT-B), temperature 1, momentum and momentum_end 0.999. What cannot: its branch reads pixels, its
position head starts at random (`models.branches` and `models.position` say why ours do not), and
its views are the corner of an image and an altered random crop; cmae_parity comes nearest. Not the
paper of the same short name by Huang et al.: `cmae`.
"""

from dataclasses import dataclass as plain_dataclass
from typing import Literal

import torch
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from contramask.draws import uniform
from contramask.ema import cosine_momentum, ema_update, frozen_copy
from contramask.losses import contrast_gauges, info_nce, pixel_loss
from contramask.masking import PatchMask, check_mask, num_visible, random_mask, take_tokens
from contramask.methods.base import MASK_STREAM, Batch, StepOutput, mask_noise
from contramask.methods.coupled import CoupledMethod, Tensors
from contramask.methods.pixels import PixelMethod
from contramask.models.branches import ClassProjector, DecoderBranch, MomentumBranch
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import VisionEncoder
from contramask.models.position import (
    POSITION_LOSSES,
    PositionHead,
    forward_unplaced,
    position_gauges,
)
from contramask.typed import STRICT

_MASK_STREAMS = {"noise": MASK_STREAM, "target_noise": 70}
_PLACES_STREAM, _TARGET_PLACES_STREAM = 71, 72
_UNPLACED_SHARE = 0.5  # of the visible tokens, in the hard arm of the position task


@dataclass(frozen=True, config=STRICT)
class CMAEMaoConfig:
    """CMAE-Mao's own settings; sizes are for ViT-B, and every default is our reading."""

    name: Literal["cmae_mao"] = "cmae_mao"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    masks: Literal["shared", "own"] = "shared"  # both views hide the same patches, or each its own
    decoder: DecoderConfig = DecoderConfig(embed_dim=128, depth=1, num_heads=4)
    recon_views: Literal["both", "first"] = "both"
    norm_pix_loss: bool = True
    #: Asked of all visible tokens, or, harder, of tokens that were not told theirs.
    position: Literal["visible", "hard", "none"] = "visible"
    position_loss: Literal["ce", "mse_onehot"] = "ce"
    position_weight: float = Field(default=0.1, ge=0)
    con_site: Literal["encoder_cls", "sdmae_branch", "none"] = "encoder_cls"
    key_input: Literal["masked", "full"] = "masked"  # what the moving average of the encoder reads
    contrast_weight: float = Field(default=0.1, ge=0)
    temperature: float = Field(default=0.2, gt=0)
    head_hidden_dim: int = Field(default=4096, ge=2)
    head_out_dim: int = Field(default=256, ge=2)
    momentum: float = Field(default=0.99, ge=0, le=1)
    momentum_end: float = Field(default=1.0, ge=0, le=1)  # equal to momentum: constant
    freeze_patch_embed: bool = True  # MoCo-v3's trick: a fixed random patch projection
    view_mode: Literal["independent_rrc", "cmae_parity", "symmetric_shift", "single"] = (
        "independent_rrc"
    )

    @model_validator(mode="after")
    def _fits(self) -> "CMAEMaoConfig":
        if self.view_mode == "single" and self.con_site != "none":
            raise ValueError(
                f"con_site {self.con_site} needs two views and view_mode single makes one; set "
                "con_site to none, or view_mode to independent_rrc"
            )
        if self.con_site == "sdmae_branch" and self.key_input == "full":
            raise ValueError(
                "con_site sdmae_branch has no encoder of its own to read full images with; set "
                "key_input to masked, or con_site to encoder_cls"
            )
        return self


@plain_dataclass(frozen=True)
class _Reading:
    """One view as the online encoder read it."""

    view: Tensor  # (B, C, H, W)
    mask: PatchMask
    tokens: Tensor  # (B, 1+V, D), normed
    asked: Tensor  # (B, A, D) the tokens that are asked for their place
    places: Tensor  # (B, A) the true answers
    states: Tensor | None  # (B, 1+L, width) of all patches, where the contrast reads the decoder


class CMAEMao(PixelMethod, CoupledMethod[list[_Reading]]):
    """Small-decoder MAE with contrast and token positions on the encoder.

    Batches need `view` and (unless view_mode is `single`) `target_view` (B, C, H, W), and `key`
    (B,); `noise` and `target_noise` (B, L) force the masks. Images meet in the contrast, in
    negatives and batch norms. With position `hard`, a random half of the visible tokens is encoded
    without position embedding, in the one pass that serves all losses, and only they are asked.
    """

    config: CMAEMaoConfig

    def __init__(self, encoder: VisionEncoder, config: CMAEMaoConfig) -> None:
        super().__init__(encoder, config.decoder, config.norm_pix_loss)
        _check_sizes(encoder, config)
        self.config, width = config, encoder.embed_dim
        if config.freeze_patch_embed:
            encoder.patch_embed.requires_grad_(False)
        if config.position != "none":
            self.position_head = PositionHead(width, encoder.num_patches)
        hidden, out = config.head_hidden_dim, config.head_out_dim
        if config.con_site == "encoder_cls":
            self.contrast = MomentumBranch(ClassProjector(width, hidden, out), hidden, out)
            self.target_encoder = frozen_copy(encoder)
        elif config.con_site == "sdmae_branch":
            branch = DecoderBranch(config.decoder.embed_dim, encoder, hidden, out)
            self.contrast = MomentumBranch(branch, hidden, out)
        self.latest: dict[str, tuple[Tensor, Tensor]] = {}

    def draw_mask(self, batch: Batch, name: str = "noise") -> PatchMask:
        """A mask: from the batch's noise (B, L) of that name if it brings some, else the keys."""
        noise = mask_noise(batch, self.encoder.num_patches, name, _MASK_STREAMS[name])
        return random_mask(noise, self.config.mask_ratio)

    @property
    def is_coupled(self) -> bool:
        """Only where there is a contrastive task."""
        return self.config.con_site != "none"

    def read(self, batch: Batch) -> list[_Reading]:
        """All views through the online encoder, each once for all losses."""
        mask = self.draw_mask(batch)
        readings = [self._read(batch["view"], mask, batch, _PLACES_STREAM)]
        if self.config.view_mode != "single":
            if self.config.masks == "own":
                mask = self.draw_mask(batch, "target_noise")
            target = self._read(batch["target_view"], mask, batch, _TARGET_PLACES_STREAM)
            readings.append(target)
        return readings

    def _read(self, view: Tensor, mask: PatchMask, batch: Batch, stream: int) -> _Reading:
        ids = mask.ids_keep  # (B, V)
        if self.config.position == "hard":
            told = random_mask(uniform(batch["key"], stream, ids.shape[1]), _UNPLACED_SHARE)
            tokens = forward_unplaced(self.encoder, view, ids, told.mask)
            asked = take_tokens(tokens[:, 1:], told.ids_hide)
            places = ids.gather(1, told.ids_hide)
        else:
            tokens = self.encoder.forward_tokens(view, ids)
            asked, places = tokens[:, 1:], ids
        at_decoder = self.config.con_site == "sdmae_branch"
        states = self.pixel_decoder(tokens, mask) if at_decoder else None
        return _Reading(view, mask, tokens, asked, places, states)

    def recon_loss(self, reading: _Reading) -> Tensor:
        """MAE's loss of one view."""
        mask, states = reading.mask, reading.states
        if states is None:
            states = self.pixel_decoder.hidden(reading.tokens, mask)
        pred = self.pixel_decoder.pred(states[:, -mask.ids_hide.shape[1] :])  # (B, L-V, P)
        return pixel_loss(pred, self.target(reading.view, mask.ids_hide))

    def position_loss(self, reading: _Reading) -> Tensor:
        """The loss of naming the places of one view's asked tokens."""
        logits = self.position_head(reading.asked)  # (B, A, L)
        self.latest["position"] = (logits.detach(), reading.places)
        return POSITION_LOSSES[self.config.position_loss](logits, reading.places)

    def own_loss(self, reading: list[_Reading]) -> StepOutput:
        """sum_v L_rec(v) + w_pos sum_v L_pos(v); terms: recon_loss, position_loss, means over v."""
        config = self.config
        shown = reading if config.recon_views == "both" else reading[:1]
        recon = torch.stack([self.recon_loss(each) for each in shown])
        loss, terms = recon.sum(), {"recon_loss": recon.detach().mean()}
        if config.position != "none":
            position = torch.stack([self.position_loss(each) for each in reading])
            loss = loss + config.position_weight * position.sum()
            terms["position_loss"] = position.detach().mean()
        return StepOutput(loss, terms)

    def features(self, reading: list[_Reading]) -> Tensors:
        """What queries are made of, (B, D) for both views."""
        return tuple(self.contrast.pool(self._site(each)) for each in reading)

    @torch.no_grad()
    def targets(self, reading: list[_Reading]) -> Tensors:
        """What keys are made of, (B, D) for both views."""
        return tuple(self.contrast.target_pool(self._target_site(each)) for each in reading)

    def _site(self, reading: _Reading) -> Tensor:
        return reading.tokens if reading.states is None else reading.states

    @torch.no_grad()
    def _target_site(self, reading: _Reading) -> Tensor:
        """The target encoder always knows all positions, also in the hard arm."""
        if reading.states is not None:
            return reading.states
        ids = reading.mask.ids_keep if self.config.key_input == "masked" else None
        return self.target_encoder.forward_tokens(reading.view, ids)

    def joint_loss(self, features: Tensors, targets: Tensors) -> StepOutput:
        """w_con 2T (C(q_1, k_2) + C(q_2, k_1)); terms: contrast_loss, the mean of both C."""
        config = self.config
        queries = [self.contrast.query(each) for each in features]  # (B, d)
        keys = [self.contrast.key(each) for each in targets]
        self.latest["contrast"] = (queries[0].detach(), keys[1])
        temperature, gather, rank = config.temperature, self.gather, self.rank
        contrast = torch.stack(
            [info_nce(queries[i], keys[1 - i], temperature, gather, rank) for i in (0, 1)]
        )
        loss = config.contrast_weight * 2 * temperature * contrast.sum()
        return StepOutput(loss, {"contrast_loss": contrast.detach().mean()})

    def gauges(self) -> dict[str, Tensor]:
        """Cosines, in-batch top-1, feature spread; position accuracy beside that of guessing."""
        gauges: dict[str, Tensor] = {}
        if "contrast" in self.latest:
            gauges |= contrast_gauges(*self.latest["contrast"])
        if "position" in self.latest:
            gauges |= position_gauges(*self.latest["position"])
        return gauges

    def after_step(self, progress: float) -> None:
        """Move the targets; with `sdmae_branch` the encoder has none."""
        config = self.config
        if not self.is_coupled:
            return
        momentum = cosine_momentum(config.momentum, config.momentum_end, progress)
        self.contrast.update(momentum)
        if config.con_site == "encoder_cls":
            ema_update(self.target_encoder, self.encoder, momentum)


def _check_sizes(encoder: VisionEncoder, config: CMAEMaoConfig) -> None:
    """Raise `ValueError` if masks, or the tokens the hard arm asks, do not fit the grid."""
    check_mask(encoder.grid_size, encoder.patch_size, config.mask_ratio)
    patches = encoder.num_patches
    visible = num_visible(patches, config.mask_ratio)
    if config.position == "hard" and visible < 2:
        raise ValueError(
            f"position hard asks one half of the visible patches and tells the other half theirs, "
            f"but a mask ratio of {config.mask_ratio} leaves {visible} of {patches} patches "
            "visible; set pretrain.method.position to visible, a lower pretrain.method.mask_ratio, "
            "larger views (pretrain.image_size) or smaller patches (pretrain.encoder.patch_size)"
        )
