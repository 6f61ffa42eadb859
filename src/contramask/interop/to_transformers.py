"""A folder that transformers' `from_pretrained` reads: ViTModel, or BeitModel for BEiT encoders."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from contramask.interop.to_safetensors import write_state
from contramask.interop.transformers_names import to_transformers
from contramask.models.beit import BeitEncoder
from contramask.models.bundle import EncoderBundle

STEM, SUFFIX, IS_FILE = "model", ".safetensors", False
_BICUBIC = 3  # of Pillow


def write(bundle: EncoderBundle, file: Path) -> None:
    """Write the folder, if it can be compared afterwards.

    Raises `ValueError` when transformers is not installed.
    """
    if importlib.util.find_spec("transformers") is None:
        raise ValueError(
            "to check what it writes, this format needs the package transformers, which is not "
            "installed. Install it with: uv sync --extra transformers"
        )
    write_files(bundle, file)


def write_files(bundle: EncoderBundle, file: Path) -> None:
    """Write model.safetensors, config.json and preprocessor_config.json; needs no transformers."""
    write_state(to_transformers(bundle.encoder.state_dict()), bundle, file)
    _write_json(file.parent / "config.json", model_config(bundle))
    _write_json(file.parent / "preprocessor_config.json", _preprocessing(bundle))


def features(bundle: EncoderBundle, file: Path, images: Tensor) -> Tensor:
    """Tokens (B, 1+L, D) after the final norm.

    Raises `ValueError` if the model lacks a weight or the file holds one it does not know.
    """
    import transformers

    kind = getattr(transformers, _class_name(bundle))
    model, info = kind.from_pretrained(
        file.parent, add_pooling_layer=False, output_loading_info=True
    )
    wrong = {name: sorted(keys) for name, keys in info.items() if keys}
    if wrong:
        raise ValueError(f"transformers does not load {file} exactly: {wrong}")
    tokens: Tensor = model.eval()(images).last_hidden_state
    return tokens


def usage(bundle: EncoderBundle, file: Path) -> list[str]:
    """How to load it."""
    name = _class_name(bundle)
    return [
        f'model = transformers.{name}.from_pretrained("{file.parent}", add_pooling_layer=False)',
        "tokens = model(images).last_hidden_state",
    ]


def model_config(bundle: EncoderBundle) -> dict[str, Any]:
    """What config.json holds."""
    encoder = bundle.encoder
    width, depth, heads = encoder.config.sizes
    rows, cols = encoder.image_size
    config: dict[str, Any] = {
        "architectures": [_class_name(bundle)],
        "model_type": "vit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": heads,
        "intermediate_size": int(width * encoder.config.mlp_ratio),
        "hidden_act": "gelu",
        "layer_norm_eps": encoder.norm.eps,
        "image_size": rows if rows == cols else [rows, cols],
        "patch_size": encoder.patch_size,
        "num_channels": encoder.in_chans,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if not isinstance(encoder, BeitEncoder):
        return {**config, "qkv_bias": True}
    shared = encoder.beit.position_bias == "shared"
    kind = {
        "model_type": "beit",
        "layer_scale_init_value": encoder.beit.layer_scale,
        "use_absolute_position_embeddings": encoder.beit.absolute_positions,
        "use_relative_position_bias": not shared,
        "use_shared_relative_position_bias": shared,
        "use_mask_token": False,
        "use_mean_pooling": False,
    }
    return {**config, **kind}


def _class_name(bundle: EncoderBundle) -> str:
    return "BeitModel" if isinstance(bundle.encoder, BeitEncoder) else "ViTModel"


def _preprocessing(bundle: EncoderBundle) -> dict[str, Any]:
    """The image processor that resizes and crops as our own evaluation does for square encoders."""
    rows, cols = bundle.encoder.image_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": max(rows, cols)},
        "resample": _BICUBIC,
        "do_center_crop": True,
        "crop_size": {"height": rows, "width": cols},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": bundle.manifest["mean"],
        "image_std": bundle.manifest["std"],
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
