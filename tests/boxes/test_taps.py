"""What is read from inside the blocks is what the blocks compute."""

import pytest
import torch
from torch import Tensor

from contramask.boxes.taps import read_taps
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder

CONFIG = EncoderConfig(patch_size=4, embed_dim=32, depth=3, num_heads=2)
KINDS = ["vit", "beit", "beit_per_block"]


def encoder_of(kind: str) -> Encoder:
    torch.manual_seed(0)
    if kind == "vit":
        encoder: Encoder = build_encoder(CONFIG, (16, 24), 3)
    else:
        encoder = build_beit(CONFIG, BeitConfig(), (16, 24), 3)
        table = encoder.rel_pos_bias.relative_position_bias_table
        torch.nn.init.normal_(table)
        for block in encoder.blocks:
            torch.nn.init.normal_(block.attn.q_bias)
        if kind == "beit_per_block":
            encoder = encoder.unshared()
    return encoder.eval()


def view() -> Tensor:
    return torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_those_of_the_encoder(kind: str) -> None:
    encoder = encoder_of(kind)
    with torch.inference_mode():
        last = read_taps(encoder, view(), {3}, False)[3]
        torch.testing.assert_close(last.tokens, encoder.tokens(view()))
        torch.testing.assert_close(last.normed, encoder.forward_tokens(view()))
    assert last.keys.shape == (2, 24, 32)
    assert last.attention == ()


@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_what_the_block_weighs_its_values_with(kind: str) -> None:
    encoder = encoder_of(kind)
    block = encoder.blocks[2]
    seen = {}
    block.attn.register_forward_pre_hook(lambda _, inputs: seen.update(x=inputs[0]))
    block.attn.proj.register_forward_pre_hook(lambda _, inputs: seen.update(mixed=inputs[0]))
    with torch.inference_mode():
        taps = read_taps(encoder, view(), {1, 3}, True)
        weight, bias = block.attn.qkv.weight[64:], block.attn.qkv.bias
        bias = block.attn.v_bias if bias is None else bias[64:]
        values = torch.nn.functional.linear(seen["x"], weight, bias)
        values = values.reshape(2, 25, 2, 16).transpose(1, 2)
        mixed = seen["mixed"].reshape(2, 25, 2, 16).transpose(1, 2)
        # The class token's output is its attention to itself and to the patches.
        rows = taps[3].class_attention
        rows = torch.cat([1 - rows.sum(dim=2, keepdim=True), rows], dim=2)
        torch.testing.assert_close((rows[:, :, None] @ values)[:, :, 0], mixed[:, :, 0])
    assert len(taps[1].attention) == 1
    assert len(taps[3].attention) == 3
    torch.testing.assert_close(taps[3].attention[2][:, 0, 1:], taps[3].class_attention.mean(dim=1))
    for weights in taps[3].attention:
        torch.testing.assert_close(weights.sum(dim=2), torch.ones(2, 25))


def test_keys_are_the_blocks_own() -> None:
    encoder = encoder_of("vit")
    seen = {}
    encoder.blocks[1].attn.qkv.register_forward_hook(lambda *all_: seen.update(out=all_[2]))
    with torch.inference_mode():
        keys = read_taps(encoder, view(), {2}, False)[2].keys
    torch.testing.assert_close(keys, seen["out"][:, 1:, 32:64])


def test_blocks_that_are_not_there_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has blocks 1 to 3, not \[4\]"):
        read_taps(encoder_of("vit"), view(), {2, 4}, False)
    with pytest.raises(ValueError, match="has blocks 1 to 3"):
        read_taps(encoder_of("vit"), view(), {0}, False)
