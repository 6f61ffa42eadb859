"""The decoder: order of tokens, what its shortcuts commute with, sizes."""

import pytest
import torch
from timm.layers.drop import DropPath
from torch import Tensor

from contramask.masking import PatchMask, random_mask, take_tokens
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import sincos_positions

CONFIG = DecoderConfig(embed_dim=16, depth=2, num_heads=2)


def decoder(out_dim: int = 12) -> TokenDecoder:
    """A small decoder with every weight moved off its initial value."""
    torch.manual_seed(0)
    built = TokenDecoder(8, out_dim, (3, 4), CONFIG)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def tokens_and_mask() -> tuple[Tensor, PatchMask]:
    mask = random_mask(torch.rand(2, 12), 0.6)  # 4 visible, 8 hidden
    return torch.randn(2, 5, 8), mask


def by_the_paper(built: TokenDecoder, tokens: Tensor, mask: PatchMask) -> Tensor:
    """MAE's order of work: append mask tokens, un-shuffle, add positions, decode, (B, L, out)."""
    embedded = built.embed(tokens)
    filled = torch.cat([embedded[:, 1:], built.mask_token.expand(2, 8, -1)], dim=1)
    restore = torch.cat([mask.ids_keep, mask.ids_hide], dim=1).argsort(dim=1)
    states = torch.cat([embedded[:, :1], take_tokens(filled, restore)], dim=1) + built.pos_embed
    out: Tensor = built.pred(built.norm(built.blocks(states)))
    return out[:, 1:]


def test_all_predictions_equal_the_papers_order_of_work() -> None:
    built, (tokens, mask) = decoder(), tokens_and_mask()
    expected = by_the_paper(built, tokens, mask)
    torch.testing.assert_close(built.predict_all(tokens, mask), expected, rtol=1e-4, atol=1e-5)


def test_where_nothing_was_dropped_the_mask_token_is_not_needed() -> None:
    built = decoder()
    tokens, ids = torch.randn(2, 13, 8), torch.arange(12).expand(2, -1)
    everything = PatchMask(ids, ids[:, :0], torch.zeros(2, 12, dtype=torch.bool))
    expected = built(tokens, everything)
    built.register_parameter("mask_token", None)
    torch.testing.assert_close(built.complete(tokens), expected)


def test_hidden_predictions_are_those_of_the_hidden_patches() -> None:
    built, (tokens, mask) = decoder(), tokens_and_mask()
    hidden = built.predict_hidden(tokens, mask)
    assert hidden.shape == (2, 8, 12)
    expected = take_tokens(built.predict_all(tokens, mask), mask.ids_hide)
    torch.testing.assert_close(hidden, expected, rtol=1e-5, atol=1e-6)


def test_the_mean_prediction_is_the_mean_over_all_patches_without_the_class_token() -> None:
    built, (tokens, mask) = decoder(), tokens_and_mask()
    expected = built.predict_all(tokens, mask).mean(dim=1)
    torch.testing.assert_close(built.predict_mean(tokens, mask), expected, rtol=1e-4, atol=1e-5)


def test_the_hidden_loss_gives_visible_and_class_outputs_no_gradient() -> None:
    built, (tokens, mask) = decoder(), tokens_and_mask()
    states: list[Tensor] = []

    def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        states.append(output)

    built.norm.register_forward_hook(keep)
    built.predict_hidden(tokens, mask).square().mean().backward()
    assert states[0].shape == (2, 8, 16)  # not even computed


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "explicit"])
@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_leaving_unread_tokens_out_of_the_last_block_changes_nothing(
    fused: bool, drop_path: float
) -> None:
    built, (tokens, mask) = decoder(), tokens_and_mask()
    for block in built.blocks:
        block.attn.fused_attn = fused
        block.drop_path1 = block.drop_path2 = DropPath(drop_path)
    results = []
    for states in (built.predict_hidden, lambda *given: built.pred(built(*given)[:, 5:])):
        torch.manual_seed(1)
        built.zero_grad()
        out = states(tokens, mask)
        out.square().mean().backward()
        gradients = {name: p.grad for name, p in built.named_parameters() if p.requires_grad}
        results.append((out, gradients))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_positions_are_fixed_and_the_mask_token_is_small_noise() -> None:
    torch.manual_seed(0)
    built = TokenDecoder(8, 12, (3, 4), DecoderConfig(embed_dim=64, depth=1, num_heads=2))
    assert [n for n, p in built.named_parameters() if not p.requires_grad] == ["pos_embed"]
    assert torch.equal(built.pos_embed, sincos_positions(64, (3, 4)))
    assert float(built.mask_token.detach().std()) == pytest.approx(0.02, rel=0.4)
    assert built.norm.eps == 1e-6
    assert built.blocks[0].norm1.eps == 1e-6


def test_defaults_are_maes() -> None:
    with torch.device("meta"):
        built = TokenDecoder(768, 768, (14, 14), DecoderConfig())
    count = sum(p.numel() for p in built.parameters())
    assert round(count / 1e6, 2) == 26.11
    assert len(built.blocks) == 8
    assert built.blocks[0].attn.num_heads == 16


def test_a_width_that_heads_cannot_share_is_refused() -> None:
    text = r"width 16 is not divisible by 3 heads; change decoder\.embed_dim or decoder\.num_heads"
    with pytest.raises(ValueError, match=text):
        TokenDecoder(8, 12, (3, 4), DecoderConfig(embed_dim=16, num_heads=3))
