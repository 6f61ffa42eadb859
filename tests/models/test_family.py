"""Encoders of both families: described as plain values, and built again from them."""

import json

import pytest
import torch

from contramask.models.beit import BeitConfig, BeitEncoder, build_beit
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.family import Encoder, describe, for_tuning, rebuild
from contramask.typed import ConfigError

TINY = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)


def of_kind(kind: str) -> Encoder:
    torch.manual_seed(5)
    if kind == "beit":
        return build_beit(TINY, BeitConfig(layer_scale=0.2), (16, 24), 5)
    return build_encoder(TINY, (16, 24), 5)


@pytest.mark.parametrize(("kind", "built"), [("vit", VisionEncoder), ("beit", BeitEncoder)])
def test_an_encoder_is_built_again_from_its_description(kind: str, built: type) -> None:
    encoder = of_kind(kind)
    arch = json.loads(json.dumps(describe(encoder)))
    assert (arch["kind"], arch["image_size"], arch["in_chans"]) == (kind, [16, 24], 5)
    assert (arch["embed_dim"], arch["depth"], arch["num_heads"]) == (16, 2, 2)
    torch.manual_seed(5)
    again = rebuild(arch)
    assert isinstance(again, built)
    assert describe(again) == arch
    state = encoder.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


def test_a_description_without_a_kind_is_a_plain_vision_transformer() -> None:
    arch = describe(of_kind("vit"))
    arch.pop("kind")
    assert isinstance(rebuild(arch), VisionEncoder)


def test_an_unknown_key_is_refused() -> None:
    arch = describe(of_kind("beit"))
    arch["beit"]["layerscale"] = 1.0
    with pytest.raises(ConfigError, match=r"manifest\.arch\.beit\.layerscale: there is no such"):
        rebuild(arch)


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_a_copy_to_fine_tune_computes_the_same_and_trains_everything(kind: str) -> None:
    encoder, images = of_kind(kind), torch.randn(2, 5, 16, 24)
    for parameter in encoder.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    encoder.requires_grad_(False)  # as a target network's is
    copy = for_tuning(encoder)
    torch.testing.assert_close(copy.tokens(images), encoder.tokens(images))
    assert all(p.requires_grad for p in copy.parameters())
    copy.cls_token.data += 1
    assert not torch.equal(copy.cls_token, encoder.cls_token)
    tables = [name for name, _ in copy.named_parameters() if name.endswith("bias_table")]
    assert len(tables) == (2 if kind == "beit" else 0)
