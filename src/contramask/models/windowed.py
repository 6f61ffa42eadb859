"""A plain encoder with windowed attention, for images of many patches: ViTDet's backbone.

Most blocks attend inside windows of the patch grid, a few to everything (2203.16527, section 3);
timm's `VisionTransformerSAM` is that network, and takes a plain encoder's weights as they are.
"""

from functools import partial

import torch
from timm.models.vision_transformer_sam import VisionTransformerSAM
from torch import Tensor, nn

from contramask.models.encoder import Size, VisionEncoder


class WindowedEncoder(VisionTransformerSAM):
    """The weights of a `VisionEncoder`, its class token left out.

    window: side of a window in patches (ViTDet: 14), grids that it does not divide are padded;
    global_blocks: 0-based blocks that attend to all patches (ViTDet: 2, 5, 8, 11 of 12);
    rel_pos: add decomposed relative positions, zero at the start.
    """

    pos_embed: nn.Parameter  # timm's may be None, ours is not
    num_prefix_tokens = 0

    def __init__(
        self, encoder: VisionEncoder, window: int, global_blocks: tuple[int, ...], rel_pos: bool
    ) -> None:
        depth = len(encoder.blocks)
        if window < 1 or not all(0 <= block < depth for block in global_blocks):
            raise ValueError(
                f"windows of {window} patches and global blocks {list(global_blocks)}: a window is "
                f"at least 1, and the encoder's blocks are 0 to {depth - 1}"
            )
        width, depth, heads = encoder.config.sizes
        super().__init__(
            img_size=encoder.image_size,  # type: ignore[arg-type]  # timm takes pairs, too
            patch_size=encoder.patch_size,
            in_chans=encoder.in_chans,
            num_classes=0,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=encoder.config.mlp_ratio,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),  # type: ignore[arg-type]
            use_rel_pos=rel_pos,
            window_size=window,
            global_attn_indexes=global_blocks,
            neck_chans=0,
        )
        self.neck = nn.Sequential()  # detectors read the map before any norm
        self.image_size, self.patch_size = encoder.image_size, encoder.patch_size
        self.grid_size: Size = encoder.grid_size
        self._take(encoder)

    def _take(self, encoder: VisionEncoder) -> None:
        rows, cols = self.grid_size
        state = {k: v for k, v in encoder.state_dict().items() if not k.startswith("norm.")}
        del state["cls_token"]
        state["pos_embed"] = state["pos_embed"][:, 1:].reshape(1, rows, cols, -1)
        lacking = self.load_state_dict(state, strict=False)
        unplanned = [k for k in lacking.missing_keys if "rel_pos" not in k]
        if unplanned or lacking.unexpected_keys:
            raise ValueError(
                f"the encoder's weights do not fit a windowed one: missing {unplanned[:3]}, "
                f"without a place {lacking.unexpected_keys[:3]}"
            )

    def tokens(self, images: Tensor) -> Tensor:
        """Patch tokens after the last block and before any norm, (B, L, D), row by row."""
        maps = self.patch_embed(images) + self.pos_embed  # (B, rows, cols, D)
        tokens: Tensor = self.blocks(maps).flatten(1, 2)
        return tokens


def even_blocks(depth: int) -> tuple[int, ...]:
    """Blocks that divide the depth evenly, the last among them: four, as in ViTDet, of 12 or more
    (2, 5, 8, 11), fewer of a shallow encoder, so that most blocks keep their windows."""
    count = max(1, min(4, depth // 3))
    ends = torch.linspace(depth / count, depth, count).round().long() - 1
    return tuple(int(end) for end in ends)
