"""Every method at every patch size, number of channels and shape, also large and odd ones."""

from typing import Any

import pytest
import torch
from torch import Tensor

from contramask.draws import image_keys
from contramask.methods import OFFERED, build_method, encoder_for
from contramask.methods.base import Method
from contramask.methods.cmae import CMAEConfig
from contramask.methods.cmae_mao import CMAEMaoConfig
from contramask.methods.conmim import ConMIMConfig
from contramask.methods.mae import MAEConfig
from contramask.methods.mim_target import PixelTargetConfig
from contramask.methods.supmim import SupMIMConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig

SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
HEADS: dict[str, Any] = {"head_hidden_dim": 16, "head_out_dim": 8}
METHODS: dict[str, Any] = {
    "mae": MAEConfig(decoder=SMALL),
    "cmae": CMAEConfig(decoder=SMALL, feature_decoder=SMALL, **HEADS),
    "cmae_mao": CMAEMaoConfig(decoder=SMALL, **HEADS),
    "conmim": ConMIMConfig(**HEADS),
    "supmim": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig()),
    "mao, sdmae": CMAEMaoConfig(decoder=SMALL, con_site="sdmae_branch", position="hard", **HEADS),
    "supmim, shared": SupMIMConfig(decoder=SMALL, target=PixelTargetConfig(), mode="shared"),
}
Size = tuple[int, int]
#: Image size, channels, patch size: each patch size with each number of channels, none square.
CASES = [
    ((16, 32), 1, 4),
    ((24, 16), 3, 4),
    ((16, 24), 8, 4),
    ((48, 32), 1, 8),
    ((32, 64), 3, 8),
    ((64, 48), 8, 8),
    ((64, 96), 1, 16),
    ((96, 64), 3, 16),
    ((64, 128), 8, 16),
]


def made(name: str, size: Size, channels: int, patch: int) -> Method:
    torch.manual_seed(0)
    config = METHODS[name]
    sizes = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    method = build_method(config, encoder_for(config, sizes, size, channels))
    data = {"classes": ["a", "b"], "mean": [0.5] * channels, "std": [0.25] * channels}
    method.attach(data, None)
    return method


def batch_of(size: Size, channels: int, count: int = 3) -> dict[str, Tensor]:
    views = torch.randn(2, count, channels, *size, generator=torch.Generator().manual_seed(1))
    return {
        "view": views[0],
        "target_view": views[1],
        "key": image_keys(0, 0, torch.arange(count)),
        "label": torch.arange(count) % 2,
    }


def test_no_method_is_forgotten() -> None:
    assert {config.name for config in METHODS.values()} == set(OFFERED)


@pytest.mark.parametrize(("size", "channels", "patch"), CASES)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_trains_at_any_size(name: str, size: Size, channels: int, patch: int) -> None:
    check_step(made(name, size, channels, patch), batch_of(size, channels))


@pytest.mark.parametrize("name", OFFERED)
def test_a_step_trains_at_512_px(name: str) -> None:
    check_step(made(name, (512, 512), 3, 16), batch_of((512, 512), 3, count=2))


def check_step(method: Method, batch: dict[str, Tensor]) -> None:
    """A step's loss, gauges and gradients are finite, and the encoder learns."""
    output = method(batch)
    output.loss.backward()
    method.after_step(0.5)
    assert output.loss.isfinite()
    assert all(value.isfinite() for value in method.gauges().values())
    network = getattr(method, "online_encoder", method.encoder)
    reached = network.get_parameter("blocks.0.attn.qkv.weight").grad
    assert reached is not None
    assert reached.isfinite().all()
    assert reached.any()
    tokens = method.encoder.forward_tokens(batch["view"])
    count, _, rows, cols = batch["view"].shape
    assert tokens.shape == (count, 1 + rows * cols // method.encoder.patch_size**2, 16)
