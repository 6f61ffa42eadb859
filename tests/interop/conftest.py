"""Known-answer files of our own making: what our methods compute, under the official names."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from timm.models.beit import gen_relative_position_index
from torch import Tensor

from contramask.methods.base import Method
from contramask.methods.cmae import CMAE, CMAEConfig
from contramask.methods.conmim import ConMIM, ConMIMConfig
from contramask.methods.mae import MAE, MAEConfig
from contramask.models.beit import build_beit
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, build_encoder

TEXTS = {
    "mae": "img 16 patch 4 encoder 16x2 heads 2 decoder 8x1 heads 2 mlp 4 norm_pix True "
    "mask_ratio 0.75",
    "cmae": "img 16 patch 4 encoder 16x2 heads 2 pixel dec 8x2 heads 2 feature dec 8x1 heads 4 "
    "projector 16-12-6 predictor 6-12-6, mask 0.65 in 2x2 units, tau 0.2, weights 1, 1",
    "conmim": "img 16 patch 4 encoder 16x2 heads 2, projector 12-12-6, temp 0.2",
}
#: No two MLPs are of one ratio: the sizes come from the weights.
ENCODER = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2, mlp_ratio=3)
#: Our names inside a transformer, and those of the CMAE code.
CMAE_PARTS = [
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"encoder\.norm\.", "encoder.ln1."),
    (r"decoder\.norm\.", "decoder.ln1."),
    (r"\.norm([12])\.", r".ln\1."),
    (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
    (r"\.mlp\.fc2\.", ".ffn.layers.1."),
    (r"encoder\.blocks\.", "encoder.layers."),
    (r"decoder\.(blocks|embed|pos_embed|pred)", r"decoder.decoder_\1"),
    (r"^encoder\.", "backbone."),
    (r"^target_encoder\.", "target_backbone."),
    (r"^predictor\.", "head.predictor."),
]


def official_mae(name: str) -> str:
    """Our name of an MAE parameter, as the official code's."""
    name = name.removeprefix("encoder.")
    return re.sub(r"^pixel_decoder\.(?!mask_token)", "decoder_", name).removeprefix(
        "pixel_decoder."
    )


def official_cmae(name: str) -> str:
    """Our name of a CMAE parameter, as the official code's."""
    for pattern, replacement in CMAE_PARTS:
        name = re.sub(pattern, replacement, name)
    return name


#: Our names in ConMIM, and those of its code.
CONMIM_PARTS = [
    (r"^projector\.", "online.projectors."),
    (r"^target_projector\.", "target.projectors."),
    (r"^target_encoder\.", "target."),
    (r"^online_encoder\.", "online."),
    (r"^mask_token", "online.mask_token"),
]
CONMIM_LAYERS = {"fc0": "0", "bn0": "1", "fc1": "3", "bn1": "4", "fc2": "6", "bn2": "7"}


def official_conmim(name: str) -> str:
    """Our name of a ConMIM parameter, as the official code's."""
    for pattern, replacement in CONMIM_PARTS:
        name = re.sub(pattern, replacement, name)
    return re.sub(r"projectors\.(\w+)", lambda m: f"projectors.{CONMIM_LAYERS[m[1]]}", name)


def perturb(method: Method) -> None:
    """Move every weight, so that nothing hides behind an initial value."""
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)


def answers_of_mae() -> dict[str, Tensor]:
    """Everything an MAE file holds, computed by our MAE."""
    small = DecoderConfig(embed_dim=8, depth=1, num_heads=2, mlp_ratio=2)
    method = MAE(build_encoder(ENCODER, (16, 16), 3), MAEConfig(decoder=small))
    perturb(method)
    batch = {"view": torch.randn(3, 3, 16, 16), "noise": torch.rand(3, 16)}
    pred, mask = method.reconstruct(batch)
    loss = method(batch).loss
    loss.backward()
    known = {"input": batch["view"], "noise": batch["noise"], "pred": pred, "loss": loss[None]}
    known["mask"] = mask.float()
    known |= {f"model.{official_mae(n)}": v for n, v in method.state_dict().items()}
    for name in ("encoder.blocks.1.attn.qkv.weight", "pixel_decoder.mask_token"):
        known[f"grad.{official_mae(name)}"] = gradient(method, name)
    return known


def answers_of_cmae() -> dict[str, Tensor]:
    """Everything a CMAE file holds, computed by our CMAE."""
    config = CMAEConfig(
        decoder=DecoderConfig(embed_dim=8, depth=2, num_heads=2, mlp_ratio=4),
        feature_decoder=DecoderConfig(embed_dim=8, depth=1, num_heads=4),
        head_hidden_dim=12,
        head_out_dim=6,
        temperature=0.2,
    )
    method = CMAE(build_encoder(ENCODER, (16, 16), 3), config)
    perturb(method)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    views = {"view": torch.randn(4, 3, 16, 16), "target_view": torch.randn(4, 3, 16, 16)}
    batch = {**views, "noise": torch.rand(4, 4)}
    output = method(batch)
    output.loss.backward()
    known = {
        "input": batch["view"],
        "input_target": batch["target_view"],
        "noise_units": batch["noise"],
        "mask": method.draw_mask(batch).mask.float(),
        "target_latent": method.target_encoder.tokens(batch["target_view"]),
        "loss_rc": output.terms["recon_loss"][None],
        "loss_ct": 0.4 * output.terms["contrast_loss"][None],
    }
    known |= {f"model.{official_cmae(name)}": value for name, value in state.items()}
    for name in ("encoder.blocks.0.attn.qkv.weight", "feature_decoder.mask_token"):
        known[f"grad.{official_cmae(name)}"] = gradient(method, name)
    return known


def answers_of_conmim() -> dict[str, Tensor]:
    """Everything a ConMIM file holds, computed by our ConMIM; its mask is of single patches."""
    config = ConMIMConfig(mask_block=1, head_hidden_dim=12, head_out_dim=6, temperature=0.2)
    method = ConMIM(build_beit(ENCODER, config.beit, (16, 16), 3), config)
    perturb(method)
    state = {name: value.clone() for name, value in method.state_dict().items()}
    views = {"view": torch.randn(4, 3, 16, 16), "target_view": torch.randn(4, 3, 16, 16)}
    batch = {**views, "noise": torch.rand(4, 16)}
    reading = method.read(batch)
    loss = method(batch).loss
    loss.backward()
    known = {
        "input": batch["view"],
        "input_aug": batch["target_view"],
        "mask": reading.mask.mask.float(),
        "loss": loss[None],
        "feat": method.queries(reading.tokens),
        "feat_full": method.keys(method.targets(reading)[0]),
        "online.rel_pos_bias.relative_position_index": gen_relative_position_index((4, 4)),
    }
    known |= {official_conmim(name): value for name, value in state.items()}
    for name in ("online_encoder.blocks.0.attn.qkv.weight", "mask_token", "projector.fc0.weight"):
        official = official_conmim(name).removeprefix("online.")
        known[f"grad.{official}"] = gradient(method, name)
    return known


ANSWERS = {"mae": answers_of_mae, "cmae": answers_of_cmae, "conmim": answers_of_conmim}


def gradient(method: Method, name: str) -> Tensor:
    """The gradient a parameter got."""
    grad = method.get_parameter(name).grad
    assert grad is not None
    return grad


@pytest.fixture
def write_answer(tmp_path: Path) -> Callable[[str], Path]:
    """A function that writes the known-answer file of a method and returns its path."""

    def write(kind: str) -> Path:
        torch.manual_seed(0)
        tensors = ANSWERS[kind]()
        plain = {name: value.detach().contiguous().clone() for name, value in tensors.items()}
        path = tmp_path / f"{kind}.safetensors"
        save_file(plain, path, metadata={"config": TEXTS[kind], "source": "a test"})
        return path

    return write


@pytest.fixture
def official_names() -> dict[str, Callable[[str], str]]:
    """By method, from our name of a parameter to the official code's."""
    return {"mae": official_mae, "cmae": official_cmae, "conmim": official_conmim}
