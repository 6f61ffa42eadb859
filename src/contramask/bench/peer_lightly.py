"""lightly's MAE parts, put together as its own MAE example does."""

import warnings
from functools import partial
from typing import Any

from lightly.models import utils
from lightly.models.modules import MAEDecoderTIMM, MaskedVisionTransformerTIMM
from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.bench.peers import PeerParts
from contramask.bench.sizes import BenchConfig
from contramask.ema import frozen_copy
from contramask.losses import normalise_patches
from contramask.methods.cmae import CMAEConfig


class LightlyParts(PeerParts):
    """Encoder, decoder and masking of the package; the pixel target is normalised as MAE's."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        width, depth, heads = config.widths
        self.embed_dim, self.patch_size = width, config.patch_size
        self.mask_ratio = config.peer_mask_ratio()
        vit = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        )
        self.encoder = MaskedVisionTransformerTIMM(vit=vit)
        self.decoder = _decoder(config, config.decoder[1])
        self.feature_decoder: Any = None
        method = config.method_config()
        if isinstance(method, CMAEConfig):
            self.feature_decoder = _decoder(config, method.feature_decoder.depth)
            self.feature_decoder.decoder_pred = nn.Linear(config.decoder[0], width)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel loss, and the feature decoder's mean output (B, D)."""
        size = (len(view), self.encoder.sequence_length)
        keep, hide = utils.random_token_mask(size, self.mask_ratio, device=view.device)
        tokens = self.encoder.encode(images=view, idx_keep=keep)
        decoded = _decode(self.decoder, tokens, keep, size)
        pred = self.decoder.predict(utils.get_at_index(decoded, hide))
        # The mask counts the class token, patches do not.
        patches = utils.get_at_index(utils.patchify(view, self.patch_size), hide - 1)
        loss = F.mse_loss(pred, normalise_patches(patches))
        if self.feature_decoder is None:
            return loss, tokens[:, 0]
        states = _decode(self.feature_decoder, tokens, keep, size)
        feature: Tensor = self.feature_decoder.predict(states[:, 1:]).mean(dim=1)
        return loss, feature

    def whole_encoder(self) -> nn.Module:
        """A frozen copy; it returns tokens when nothing is masked."""
        copied: nn.Module = frozen_copy(self.encoder)
        return copied

    def use_explicit_attention(self) -> None:
        """timm's switch, for every block."""
        for part in self.modules():
            if isinstance(part, Attention):
                part.fused_attn = False  # type: ignore[misc]  # final only for TorchScript


def _decoder(config: BenchConfig, depth: int) -> MAEDecoderTIMM:
    width, _, heads = config.decoder
    with warnings.catch_warnings():  # it will get another name in lightly 1.7
        warnings.simplefilter("ignore")
        return MAEDecoderTIMM(
            num_patches=config.num_patches,
            patch_size=config.patch_size,
            embed_dim=config.widths[0],
            decoder_embed_dim=width,
            decoder_depth=depth,
            decoder_num_heads=heads,
            mlp_ratio=4.0,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        )


def _decode(decoder: MAEDecoderTIMM, tokens: Tensor, keep: Tensor, size: tuple[int, int]) -> Tensor:
    """The example's steps: embed, put mask tokens in the gaps, run the blocks."""
    seen = decoder.embed(tokens)
    gaps = utils.repeat_token(decoder.mask_token, size)
    states: Tensor = decoder.decode(utils.set_at_index(gaps, keep, seen.type_as(gaps)))
    return states
