"""ConMIM: recognise each hidden patch among all patches of its own image (Yi et al., 2205.09616).

The online encoder reads a view with most patches replaced by a mask token; a momentum encoder reads
the complete view with stronger colours. With q_j the online projection of hidden patch j (with
gradient) and k_i the momentum projection of patch i of the same image (without), unit length both:

    L = mean over hidden patches j of -log exp(q_j k_j / tau) / sum_i exp(q_j k_i / tau)

i over all L patches, hidden or not. Nothing else is trained: no pixels, no class token, no other
images as negatives. Positions must not answer the question, hence BEiT's encoder with relative
biases. A loss of ln L is collapse; a start slightly above ln L and a plateau there are normal.

Where paper and released code (TencentARC/ConMIM) differ, the code is followed: a projector of three
layers on both sides (the formulas have none) and a momentum that rises to 1 along a cosine. The
mask is that of its published command, cells of 32 px; the code's default is BEiT's 38 % of blocks.
The target encoder is what is kept; class tokens are never trained: read out the mean patch.
"""

import logging
import math
from dataclasses import dataclass as plain_dataclass
from typing import Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.ema import cosine_momentum, ema_update, frozen_copy
from contramask.masking import PatchMask, block_mask, check_mask, num_cells, take_tokens
from contramask.methods.base import Batch, StepOutput, mask_noise
from contramask.methods.coupled import CoupledMethod, Tensors
from contramask.models.beit import BeitConfig, BeitEncoder
from contramask.models.projector import TokenProjector
from contramask.typed import STRICT

log = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT)
class ConMIMConfig:
    """ConMIM's own settings; the defaults are the released code's with its published command."""

    name: Literal["conmim"] = "conmim"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    mask_block: int = Field(default=2, ge=1)  # patches per side of a cell: 32 px at patch size 16
    beit: BeitConfig = BeitConfig()
    head_hidden_dim: int = Field(default=4096, ge=2)
    head_out_dim: int = Field(default=256, ge=2)
    temperature: float = Field(default=0.1, gt=0)
    # `per_position` takes each place's batch mean off the keys: for absolute positions only.
    key_centering: Literal["none", "per_position"] = "none"
    momentum: float = Field(default=0.996, ge=0, le=1)
    momentum_end: float = Field(default=1.0, ge=0, le=1)
    export: Literal["target", "online"] = "target"
    view_mode: Literal["weak_strong"] = "weak_strong"


@plain_dataclass(frozen=True)
class _Reading:
    """The momentum branch's view, the mask, and all online tokens (B, 1+L, D)."""

    target_view: Tensor
    mask: PatchMask
    tokens: Tensor


class ConMIM(CoupledMethod[_Reading]):
    """Denoising contrast between the patches of one image.

    Batches need `view` and `target_view` (B, C, H, W) of the same crop, and `key` (B,) or `noise`
    (B, cells). Images meet in the projectors' batch norms, not as negatives.
    """

    config: ConMIMConfig
    gauges_read_weights = True

    def __init__(self, encoder: BeitEncoder, config: ConMIMConfig) -> None:
        super().__init__()
        grid, block = encoder.grid_size, config.mask_block
        check_mask(grid, encoder.patch_size, config.mask_ratio, block, _visible_of)
        if config.beit.absolute_positions and config.key_centering == "none":
            log.warning(
                "absolute positions can answer ConMIM's question without looking at the image; "
                "watch the gauge `shortcut`, or set key_centering to per_position"
            )
        self.config, self.branch = config, config.export
        width = encoder.embed_dim
        self.online_encoder = encoder
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.mask_token, std=0.02, a=-0.02, b=0.02)
        self.projector = TokenProjector(width, config.head_hidden_dim, config.head_out_dim)
        self.target_encoder = frozen_copy(encoder)
        self.target_projector = frozen_copy(self.projector)

    @property
    def encoder(self) -> BeitEncoder:  # type: ignore[override]  # chosen by config.export
        """The network that gets exported."""
        return self.target_encoder if self.branch == "target" else self.online_encoder

    def draw_mask(self, batch: Batch) -> PatchMask:
        """The batch's mask: from `noise` (B, cells) if it brings some, else from the keys."""
        grid, block = self.online_encoder.grid_size, self.config.mask_block
        cells = num_cells(grid, block)
        hidden = cells - _visible_of(cells, self.config.mask_ratio)
        # Half a cell less than the share, so that `block_mask`, which rounds too, cannot miss it.
        return block_mask(mask_noise(batch, cells), (hidden - 0.5) / cells, grid, block)

    def read(self, batch: Batch) -> _Reading:
        """All patches' tokens, hidden ones made of a mask token."""
        mask = self.draw_mask(batch)
        tokens = self.online_encoder.forward_masked(batch["view"], mask.mask, self.mask_token)
        return _Reading(batch["target_view"], mask, tokens)

    def features(self, reading: _Reading) -> Tensors:
        """The online tokens: the projector's batch norms read every one."""
        return (reading.tokens,)

    @torch.no_grad()
    def targets(self, reading: _Reading) -> Tensors:
        """The momentum encoder's tokens (B, 1+L, D), and which patches are hidden (B, M)."""
        tokens = self.target_encoder.forward_tokens(reading.target_view)
        return tokens, reading.mask.ids_hide

    def queries(self, tokens: Tensor) -> Tensor:
        """Online projections of all patches, (B, L, d), of which only hidden ones are asked."""
        return self.projector(tokens)[:, 1:]  # type: ignore[no-any-return]

    @torch.no_grad()
    def keys(self, tokens: Tensor) -> Tensor:
        """Momentum projections of all patches, (B, L, d)."""
        keys: Tensor = self.target_projector(tokens)[:, 1:]
        if self.config.key_centering == "per_position":
            return keys - self.gather(keys.mean(dim=0, keepdim=True)).mean(dim=0, keepdim=True)
        return keys

    def joint_loss(self, features: Tensors, targets: Tensors) -> StepOutput:
        """The whole loss; terms: contrast_loss."""
        tokens, ids_hide = targets
        query, key = take_tokens(self.queries(features[0]), ids_hide), self.keys(tokens)
        loss = patch_info_nce(query, key, ids_hide, self.config.temperature)
        self.latest = (query.detach(), key, ids_hide)
        return StepOutput(loss, {"contrast_loss": loss.detach()})

    def after_step(self, progress: float) -> None:
        """Move the momentum networks; batch-norm buffers keep their own statistics."""
        momentum = cosine_momentum(self.config.momentum, self.config.momentum_end, progress)
        ema_update(self.target_encoder, self.online_encoder, momentum)
        ema_update(self.target_projector, self.projector, momentum)

    @torch.no_grad()
    def gauges(self) -> dict[str, Tensor]:
        """Those of `patch_gauges` for the latest step, and target_distance, relative to online."""
        gauges = patch_gauges(*self.latest, self.config.temperature)
        online, target = (
            torch.cat([p.flatten() for p in network.parameters()])
            for network in (self.online_encoder, self.target_encoder)
        )
        return {**gauges, "target_distance": (target - online).norm() / online.norm()}


def _visible_of(cells: int, mask_ratio: float) -> int:
    """The released code rounds the number of hidden cells up."""
    return cells - math.ceil(cells * mask_ratio)


def patch_info_nce(query: Tensor, key: Tensor, ids_hide: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding each hidden patch's key among those of its image (2205.09616).

    query (B, M, d) are patches number ids_hide (B, M); key (B, L, d). Neither need be normalised;
    no gradient flows through keys.
    """
    return _cross_entropy(_logits(query, key, temperature), ids_hide)


@torch.no_grad()
def patch_gauges(
    query: Tensor, key: Tensor, ids_hide: Tensor, temperature: float
) -> dict[str, Tensor]:
    """Numbers that tell recognising content from looking up positions, and learning from collapse.

    The loss is taken once more with each image's keys exchanged for another image's. content_gain
    is how much worse that is: the part owed to content. shortcut is how much better than ln L it
    still is: the part that needs no image at all. match_top1 and match_top1_other are the shares of
    queries nearest to the right place's key; key_cosine is the mean between an image's keys (above
    0.9: collapse); feature_std as in `losses.contrast_gauges`.
    """
    own = _logits(query, key, temperature)
    other = _logits(query, key.roll(1, dims=0), temperature)
    length, width = key.shape[1:]
    unit = F.normalize(key.float(), dim=-1)
    other_loss = _cross_entropy(other, ids_hide)
    together = (unit.sum(dim=1).square().sum(dim=-1) - length) / max(length * (length - 1), 1)
    return {
        "content_gain": other_loss - _cross_entropy(own, ids_hide),
        "shortcut": math.log(length) - other_loss,
        "match_top1": (own.argmax(dim=-1) == ids_hide).float().mean(),
        "match_top1_other": (other.argmax(dim=-1) == ids_hide).float().mean(),
        "key_cosine": together.mean(),
        "feature_std": unit.flatten(0, 1).std(dim=0).mean() * width**0.5,
    }


def _logits(query: Tensor, key: Tensor, temperature: float) -> Tensor:
    """Cosines over temperature, (B, M, L), in float32: bf16 would round them by some hundredths."""
    with torch.autocast(query.device.type, enabled=False):
        query = F.normalize(query.float(), dim=-1)
        key = F.normalize(key.detach().float(), dim=-1)
        return query @ key.transpose(1, 2) / temperature


def _cross_entropy(logits: Tensor, ids_hide: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), ids_hide.flatten())
