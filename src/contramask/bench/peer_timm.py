"""timm's bare encoder: what the visible patches alone cost, without decoder or pixel target."""

from timm.layers.attention import Attention
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.bench.peers import PeerParts
from contramask.bench.sizes import BenchConfig
from contramask.ema import frozen_copy
from contramask.models.encoder import patchify


class TimmParts(PeerParts):
    """timm's VisionTransformer with its own patch dropout; less work than any MAE."""

    def __init__(self, config: BenchConfig) -> None:
        super().__init__()
        width, depth, heads = config.widths
        self.embed_dim, self.patch_size = width, config.patch_size
        self.encoder = VisionTransformer(
            img_size=config.image_size,
            patch_size=config.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            patch_drop_rate=config.peer_mask_ratio(),
        )
        self.head = nn.Linear(width, config.patch_size**2 * 3)

    def forward(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """How well the mean visible token tells the image's mean patch, and that token (B, D)."""
        feature = self.encoder(view)[:, 1:].mean(dim=1)
        mean_patch = patchify(view, self.patch_size).mean(dim=1)
        return F.mse_loss(self.head(feature).float(), mean_patch), feature

    def whole_encoder(self) -> nn.Module:
        """A frozen copy that drops nothing."""
        whole: nn.Module = frozen_copy(self.encoder)
        whole.patch_drop = nn.Identity()
        return whole

    def use_explicit_attention(self) -> None:
        """timm's switch, for every block."""
        for part in self.modules():
            if isinstance(part, Attention):
                part.fused_attn = False  # type: ignore[misc]  # final only for TorchScript
