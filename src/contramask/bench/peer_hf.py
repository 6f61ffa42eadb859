"""transformers' ViTMAEForPreTraining."""

import copy
from typing import Any

from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining
from transformers.models.vit_mae.modeling_vit_mae import ViTMAEDecoder

from contramask.bench.peers import PeerParts
from contramask.bench.sizes import BenchConfig
from contramask.ema import frozen_copy
from contramask.methods.cmae import CMAEConfig


class HFParts(PeerParts):
    """Encoder, decoder, masking and loss of `ViTMAEForPreTraining`."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        self.embed_dim = config.widths[0]
        settings = _settings(config)
        self.model = ViTMAEForPreTraining(settings)
        self.encoder = self.model.vit
        self.encoder.register_forward_hook(self._remember)
        self.feature_decoder: Any = None
        method = config.method_config()
        if isinstance(method, CMAEConfig):
            shallow = copy.deepcopy(settings)
            shallow.decoder_num_hidden_layers = method.feature_decoder.depth
            self.feature_decoder = ViTMAEDecoder(shallow, config.num_patches)
            self.feature_decoder.decoder_pred = nn.Linear(
                shallow.decoder_hidden_size, self.embed_dim
            )

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """The pixel loss, and the feature decoder's mean output (B, D)."""
        loss = self.model(view).loss
        seen = self.seen
        if self.feature_decoder is None:
            return loss, seen.last_hidden_state[:, 0]
        features = self.feature_decoder(seen.last_hidden_state, seen.ids_restore).logits
        return loss, features.mean(dim=1)

    def whole_encoder(self) -> Any:
        """A frozen copy that hides nothing."""
        whole: Any = frozen_copy(self.encoder)
        whole._forward_hooks.clear()
        whole.config.mask_ratio = 0.0
        return whole

    def read(self, encoder: nn.Module, view: Tensor) -> Tensor:
        """The encoder's last states."""
        tokens: Tensor = encoder(view).last_hidden_state
        return tokens

    def _remember(self, encoder: nn.Module, given: Any, seen: Any) -> None:
        """The model's output tells its loss, not the tokens the decoder read."""
        self.seen = seen

    def use_explicit_attention(self) -> None:
        """The package's own eager attention."""
        for part in self.modules():
            settings = getattr(part, "config", None)
            if isinstance(settings, ViTMAEConfig):
                settings._attn_implementation = "eager"


def _settings(config: BenchConfig) -> ViTMAEConfig:
    width, depth, heads = config.widths
    decoder_width, decoder_depth, decoder_heads = config.decoder
    return ViTMAEConfig(
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        decoder_hidden_size=decoder_width,
        decoder_num_hidden_layers=decoder_depth,
        decoder_num_attention_heads=decoder_heads,
        decoder_intermediate_size=4 * decoder_width,
        mask_ratio=config.peer_mask_ratio(),
        norm_pix_loss=True,
        attn_implementation="sdpa",
    )
