"""Predicting hidden patches as a task beside another one: mask, encode, decode, score."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from contramask.draws import uniform
from contramask.masking import (
    PatchMask,
    block_mask,
    check_mask,
    num_cells,
    num_visible,
    take_tokens,
)
from contramask.methods.base import Batch, mask_noise
from contramask.methods.mim_target import PixelTarget, TokenTarget
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import VisionEncoder

_RATIO_STREAM = 76  # of random numbers: how much is hidden, where images differ in that


@dataclass(frozen=True)
class MaskRule:
    """Which patches are hidden, and what the encoder gets in their place.

    `drop`: nothing, and equally many are hidden in all images. `replace`: a mask token; with a
    `clean_share`, each image has a ratio of its own, uniform from 0 to `ratio`, and that share of
    the images stays complete.
    """

    ratio: float
    block: int  # patches per side of a masked cell
    style: Literal["drop", "replace"]
    clean_share: float | None = None  # None: equally many are hidden in all images

    def check(self, encoder: VisionEncoder) -> None:
        """Raise `ValueError` if no such mask fits the encoder's grid."""
        visible_of = num_visible if self.clean_share is None else _fewest_visible
        check_mask(encoder.grid_size, encoder.patch_size, self.ratio, self.block, visible_of)


@dataclass(frozen=True)
class MaskedPass:
    """tokens (B, 1+V, D), which of the V to pool (B, V), predictions and targets of M patches.

    weight (M,) is 1 for patches that are hidden and 0 for others; None: all are.
    """

    tokens: Tensor
    visible: Tensor
    pred: Tensor
    target: Tensor
    weight: Tensor | None = None

    @property
    def count(self) -> Tensor:
        """How many patches were hidden, (), known without waiting for the device."""
        if self.weight is not None:
            return self.weight.sum()
        return torch.full((), len(self.target), device=self.target.device)


class MaskedPrediction(nn.Module):
    """A decoder, a target and, if patches are replaced, a mask token; the encoder is lent.

    Batches need `view` (B, C, H, W), and `key` (B,) or `noise` (B, cells) and, if images differ in
    their ratio, `ratio_noise` (B, 2).
    """

    def __init__(
        self,
        encoder: VisionEncoder,
        rule: MaskRule,
        target: TokenTarget | PixelTarget,
        decoder: DecoderConfig,
    ) -> None:
        super().__init__()
        self.rule, self.target, self.grid_size = rule, target, encoder.grid_size
        width, ratio = encoder.embed_dim, encoder.config.mlp_ratio
        self.decoder = TokenDecoder(width, target.out_dim, encoder.grid_size, decoder, ratio)
        if rule.style == "replace":
            # The decoder gets a token of every patch: one of its own would only be decayed.
            self.decoder.register_parameter("mask_token", None)
            self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
            nn.init.normal_(self.mask_token, std=0.02)

    def draw_mask(self, batch: Batch) -> PatchMask:
        """A mask that hides equally many patches of each image: from `noise`, or from the keys."""
        return block_mask(self._noise(batch), self.rule.ratio, self.grid_size, self.rule.block)

    def draw_hidden(self, batch: Batch) -> Tensor:
        """What is hidden in each image, (B, L) bool, as the rule says."""
        rule = self.rule
        if rule.clean_share is None:
            return self.draw_mask(batch).mask
        noise, draws = self._noise(batch), batch.get("ratio_noise")
        if draws is None:
            draws = uniform(batch["key"], _RATIO_STREAM, 2)
        share = torch.where(draws[:, 1] < rule.clean_share, 0, draws[:, 0] * rule.ratio)
        count = (share * noise.shape[1]).long()
        rank = noise.argsort(dim=1, stable=True).argsort(dim=1)
        rows, cols = (side // rule.block for side in self.grid_size)
        cells = (rank >= noise.shape[1] - count[:, None]).reshape(-1, rows, cols)
        hidden = cells.repeat_interleave(rule.block, 1).repeat_interleave(rule.block, 2)
        return hidden.flatten(1)

    def forward(self, encoder: VisionEncoder, batch: Batch) -> MaskedPass:
        """Encode the masked view and predict its hidden patches."""
        view = batch["view"]
        target = self.target.of(view)  # (B, L) or (B, L, P)
        if self.rule.clean_share is None:
            return self._forward_even(encoder, view, target, self.draw_mask(batch))
        hidden = self.draw_hidden(batch)
        tokens = self._encode_replaced(encoder, view, hidden)  # (B, 1+L, D)
        states = self.decoder.complete(tokens)[:, 1:]
        answers = self.answers if hidden.device.type == "cpu" else self.padded_answers
        return MaskedPass(tokens, ~hidden, *answers(states, target, hidden))

    def answers(
        self, states: Tensor, target: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Predictions and targets of the patches `hidden` (B, L), of which there are M in all.

        An accelerator would be waited for, to know M.
        """
        return self.decoder.pred(states[hidden]), target[hidden], None

    def padded_answers(
        self, states: Tensor, target: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """The same of as many patches an image as can be hidden at most, and their weights."""
        cells, block = num_cells(self.grid_size, self.rule.block), self.rule.block
        most = min(int(self.rule.ratio * cells) + 1, cells) * block**2
        ids = hidden.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        row = torch.arange(len(ids), device=ids.device)[:, None]
        pred = self.decoder.pred(take_tokens(states, ids).flatten(0, 1))
        return pred, target[row, ids].flatten(0, 1), hidden.gather(1, ids).flatten()

    def _forward_even(
        self, encoder: VisionEncoder, view: Tensor, target: Tensor, mask: PatchMask
    ) -> MaskedPass:
        """Where all images hide equally many patches: nothing waits for the device."""
        row = torch.arange(len(view), device=view.device)[:, None]
        asked = target[row, mask.ids_hide].flatten(0, 1)
        if self.rule.style == "drop":
            tokens = encoder.forward_tokens(view, mask.ids_keep)  # (B, 1+V, D)
            pred = self.decoder.predict_hidden(tokens, mask).flatten(0, 1)
            visible = torch.ones_like(mask.ids_keep, dtype=torch.bool)
            return MaskedPass(tokens, visible, pred, asked)
        tokens = self._encode_replaced(encoder, view, mask.mask)  # (B, 1+L, D)
        states = take_tokens(self.decoder.complete(tokens)[:, 1:], mask.ids_hide)
        return MaskedPass(tokens, ~mask.mask, self.decoder.pred(states.flatten(0, 1)), asked)

    def predict_all(self, encoder: VisionEncoder, batch: Batch) -> tuple[Tensor, Tensor]:
        """The decoder's outputs for every patch (B, L, out) and what was hidden (B, L)."""
        if self.rule.style == "drop":
            mask = self.draw_mask(batch)
            tokens = encoder.forward_tokens(batch["view"], mask.ids_keep)
            return self.decoder.predict_all(tokens, mask), mask.mask
        hidden = self.draw_hidden(batch)
        tokens = self._encode_replaced(encoder, batch["view"], hidden)
        return self.decoder.pred(self.decoder.complete(tokens)[:, 1:]), hidden

    def _encode_replaced(self, encoder: VisionEncoder, view: Tensor, hidden: Tensor) -> Tensor:
        """Tokens (B, 1+L, D) of a view with a mask token, told its place, for hidden patches."""
        tokens = encoder.embed(view)
        blank = (self.mask_token + encoder.pos_embed[:, 1:]).to(tokens.dtype)
        patches = torch.where(hidden[..., None], blank, tokens[:, 1:])
        tokens = encoder.blocks(torch.cat([tokens[:, :1], patches], dim=1))
        return encoder.norm(tokens)  # type: ignore[no-any-return]

    def _noise(self, batch: Batch) -> Tensor:
        return mask_noise(batch, num_cells(self.grid_size, self.rule.block))


def _fewest_visible(cells: int, mask_ratio: float) -> int:
    """Of an image whose own ratio lies below `mask_ratio`."""
    return cells - (math.ceil(cells * mask_ratio) - 1)
