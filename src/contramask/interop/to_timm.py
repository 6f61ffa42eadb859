"""A state dict that `timm.create_model` loads strictly."""

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import load_file
from torch import Tensor

from contramask.interop import to_safetensors
from contramask.models.beit import BeitEncoder
from contramask.models.bundle import EncoderBundle
from contramask.models.encoder import ARCHITECTURES

STEM, SUFFIX, IS_FILE = "encoder", ".safetensors", True


def write(bundle: EncoderBundle, file: Path) -> None:
    """Write the weights (float32): our encoders are timm's own classes, so no key changes."""
    to_safetensors.write(bundle, file)


def features(bundle: EncoderBundle, file: Path, images: Tensor) -> Tensor:
    """Tokens (B, 1+L, D) after the final norm, from timm's model.

    Raises `ValueError` if its own output is not the class token.
    """
    name, sizes = timm_model(bundle)
    model: Any = timm.create_model(name, **sizes).eval()
    model.load_state_dict(load_file(file), strict=True)
    tokens: Tensor = model.forward_features(images)
    if not tokens[:, 0].equal(model(images)):
        raise ValueError(f"timm's {name} puts out something else than the class token")
    return tokens


def usage(bundle: EncoderBundle, file: Path) -> list[str]:
    """The two lines that load it; `model(images)` is then the class token."""
    name, sizes = timm_model(bundle)
    given = "".join(f", {key}={value!r}" for key, value in sizes.items())
    return [
        f'model = timm.create_model("{name}"{given})',
        f'model.load_state_dict(safetensors.torch.load_file("{file}"), strict=True)',
    ]


def timm_model(bundle: EncoderBundle) -> tuple[str, dict[str, Any]]:
    """The name and keyword arguments with which `timm.create_model` builds this encoder.

    A model timm knows needs no sizes; any other is a known one with all of its sizes replaced.
    """
    encoder = bundle.encoder
    width, depth, heads = encoder.config.sizes
    sizes: dict[str, Any] = {
        "img_size": encoder.image_size,
        "patch_size": encoder.patch_size,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": encoder.config.mlp_ratio,
    }
    others: dict[str, Any] = {"num_classes": 0}
    if encoder.in_chans != 3:
        others = {"in_chans": encoder.in_chans, **others}
    if isinstance(encoder, BeitEncoder):
        shared = encoder.beit.position_bias == "shared"
        kind = {
            "init_values": encoder.beit.layer_scale,
            "use_abs_pos_emb": encoder.beit.absolute_positions,
            "use_rel_pos_bias": not shared,
            "use_shared_rel_pos_bias": shared,
            "global_pool": "token",
        }
        return "beit_base_patch16_224", {**sizes, **kind, **others}
    for arch, known in ARCHITECTURES.items():
        name = f"{arch}_patch{encoder.patch_size}_{encoder.image_size[0]}"
        is_plain = encoder.config.mlp_ratio == 4 and len(set(encoder.image_size)) == 1
        if known == (width, depth, heads) and is_plain and timm.is_model(name):
            return name, others
    return "vit_base_patch16_224", {**sizes, **others}
