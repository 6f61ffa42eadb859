"""Names of transformers' files and back."""

import pytest
import torch

from contramask.interop.transformers_names import from_transformers, to_transformers
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder

CONFIG = EncoderConfig(patch_size=4, embed_dim=24, depth=2, num_heads=3)


@pytest.mark.parametrize("kind", ["vit", "shared", "per_block"])
def test_there_and_back_is_the_same(kind: str) -> None:
    encoder: Encoder = build_encoder(CONFIG, (16, 16), 3)
    if kind != "vit":
        beit = BeitConfig(position_bias=kind)  # type: ignore[arg-type]
        encoder = build_beit(CONFIG, beit, (16, 16), 3)
    state = encoder.state_dict()
    theirs = to_transformers(state)
    back = from_transformers(theirs)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) for name in state)
    query = theirs["encoder.layer.1.attention.attention.query.weight"]
    assert torch.equal(query, state["blocks.1.attn.qkv.weight"][:24])


def test_a_name_without_a_place_is_refused_there_and_kept_back() -> None:
    with pytest.raises(ValueError, match=r"no place for the parameter 'blocks\.0\.ls1\.gamma'"):
        to_transformers({"blocks.0.ls1.gamma": torch.ones(2)})
    assert list(from_transformers({"pooler.dense.bias": torch.ones(2)})) == ["pooler.dense.bias"]
