"""The encoder families: one type for both, and the plain description each is built again from."""

from dataclasses import asdict
from typing import Any

from timm.layers.drop import DropPath
from torch import nn

from contramask.models.beit import BeitConfig, BeitEncoder, build_beit
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.typed import parse

#: What methods train, bundles hold and transfer uses; both offer the same interface.
Encoder = VisionEncoder | BeitEncoder


def describe(encoder: Encoder) -> dict[str, Any]:
    """The sizes from which the encoder can be built again, as plain values."""
    width, depth, heads = encoder.config.sizes
    sizes = {
        "image_size": list(encoder.image_size),
        "in_chans": encoder.in_chans,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "patch_size": encoder.patch_size,
        "config": asdict(encoder.config),
    }
    if isinstance(encoder, BeitEncoder):
        return {"kind": "beit", **sizes, "beit": asdict(encoder.beit)}
    return {"kind": "vit", **sizes}


def rebuild(arch: dict[str, Any]) -> Encoder:
    """A freshly initialised encoder of the sizes that `describe` wrote down.

    Raises `ConfigError` for a description this version cannot read.
    """
    config = parse(EncoderConfig, arch["config"], "manifest.arch.config")
    rows, cols = arch["image_size"]
    if arch.get("kind", "vit") == "beit":
        beit = parse(BeitConfig, arch["beit"], "manifest.arch.beit")
        return build_beit(config, beit, (rows, cols), arch["in_chans"])
    return build_encoder(config, (rows, cols), arch["in_chans"])


def for_tuning(encoder: Encoder) -> Encoder:
    """A copy to fine-tune, every parameter trained: fixed positions are freed.

    BEiT's shared position bias becomes each block's own, as BEiT and ConMIM fine-tune.
    """
    if isinstance(encoder, BeitEncoder):
        return encoder.unshared()
    copy = encoder.resized(encoder.image_size)
    copy.pos_embed.requires_grad_(True)
    return copy


def set_drop_path(blocks: nn.Sequential | nn.ModuleList, rate: float) -> None:
    """Stochastic depth rising linearly from 0 to `rate` over an encoder's blocks."""
    for number, block in enumerate(blocks):
        probability = rate * number / max(len(blocks) - 1, 1)
        block.drop_path1 = DropPath(probability) if probability else nn.Identity()
        block.drop_path2 = DropPath(probability) if probability else nn.Identity()
