"""The masked pass: which patches are hidden, what leaks, and that answers meet their questions."""

from typing import Any

import pytest
import torch
from torch import Tensor

from contramask.draws import image_keys
from contramask.masking import random_mask
from contramask.methods.masked_prediction import MaskedPrediction, MaskRule
from contramask.methods.mim_target import PixelTarget, PixelTargetConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder

DROP = MaskRule(0.75, 1, "drop")
REPLACE = MaskRule(0.75, 1, "replace")
VARIED = MaskRule(0.75, 1, "replace", clean_share=0.25)
Size = tuple[int, int]


class Places(PixelTarget):
    """A target that is just the number of the patch, (B, L)."""

    def __init__(self) -> None:
        super().__init__(4, 3, PixelTargetConfig())
        self.out_dim = 5

    def of(self, view: Tensor) -> Tensor:
        length = view.shape[2] * view.shape[3] // 16
        return torch.arange(length).expand(len(view), -1)


def made(rule: MaskRule, size: Size = (16, 24)) -> tuple[VisionEncoder, MaskedPrediction]:
    torch.manual_seed(0)
    sizes = EncoderConfig(patch_size=4, embed_dim=16, depth=1, num_heads=2)
    encoder = build_encoder(sizes, size, 3)
    decoder = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
    return encoder, MaskedPrediction(encoder, rule, Places(), decoder)


def batch_of(size: Size = (16, 24), count: int = 4) -> dict[str, Any]:
    view = torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))
    return {"view": view, "key": image_keys(0, 0, torch.arange(count))}


@pytest.mark.parametrize("rule", [DROP, REPLACE, VARIED])
@pytest.mark.parametrize("size", [(16, 24), (56, 56), (64, 64)])
def test_each_hidden_patch_is_asked_for_itself(rule: MaskRule, size: Size) -> None:
    """On 14x14 and 16x16 grids, too: the answer at place i is scored with the target of place i."""
    encoder, mim = made(rule, size)
    batch = batch_of(size)
    out = mim(encoder, batch)
    pred, hidden = mim.predict_all(encoder, batch)
    assert len(out.pred) == len(out.target) == int(hidden.sum())
    start = 0
    for image in range(4):
        count = int(hidden[image].sum())
        places, answers = out.target[start : start + count], out.pred[start : start + count]
        assert sorted(places.tolist()) == hidden[image].nonzero().flatten().tolist()
        torch.testing.assert_close(answers, pred[image, places], atol=1e-5, rtol=1e-4)
        start += count


@pytest.mark.parametrize("block", [1, 2])
def test_padded_answers_hold_the_same_answers(block: int) -> None:
    """What an accelerator computes, so as not to be asked how many patches are hidden."""
    _, mim = made(MaskRule(0.75, block, "replace", clean_share=0.25))
    batch = batch_of(count=50)
    hidden = mim.draw_hidden(batch)
    states, target = torch.randn(50, 24, 16), Places().of(batch["view"])
    pred, asked, none = mim.answers(states, target, hidden)
    padded, places, weight = mim.padded_answers(states, target, hidden)
    assert none is None
    assert weight is not None
    assert int(weight.sum()) == int(hidden.sum()) < len(weight)
    assert torch.equal(padded[weight], pred)
    assert torch.equal(places[weight], asked)


@pytest.mark.parametrize("rule", [DROP, REPLACE, VARIED])
def test_hidden_pixels_reach_no_answer(rule: MaskRule) -> None:
    encoder, mim = made(rule)
    batch = batch_of()
    pred, hidden = mim.predict_all(encoder, batch)
    pixels = hidden.reshape(4, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    other = {**batch, "view": torch.where(pixels, 9.0, batch["view"])}
    assert torch.equal(mim.predict_all(encoder, other)[0], pred)
    seen = {**batch, "view": torch.where(pixels, batch["view"], 9.0)}
    assert not torch.allclose(mim.predict_all(encoder, seen)[0], pred)


@pytest.mark.parametrize("rule", [DROP, REPLACE])
def test_only_hidden_places_have_a_gradient(rule: MaskRule) -> None:
    """The last layer's outputs at visible places are not even computed in the loss."""
    encoder, mim = made(rule)
    batch = batch_of()
    outputs: list[Tensor] = []
    mim.decoder.pred.register_forward_hook(lambda _module, _given, out: outputs.append(out))
    mim(encoder, batch).pred.sum().backward()
    hidden = mim.draw_hidden(batch)
    assert sum(out.shape[:-1].numel() for out in outputs) == int(hidden.sum())


def test_dropping_and_replacing_hide_the_same_patches() -> None:
    drop, replace = (made(rule)[1].draw_hidden(batch_of()) for rule in (DROP, REPLACE))
    assert torch.equal(drop, replace)
    assert drop.sum(dim=1).tolist() == [18] * 4  # 24 - floor(24 / 4)


def test_forced_noise_decides() -> None:
    noise = torch.rand(4, 24, generator=torch.Generator().manual_seed(5))
    _, mim = made(DROP)
    batch = {**batch_of(), "noise": noise}
    assert torch.equal(mim.draw_mask(batch).mask, random_mask(noise, 0.75).mask)


def test_images_differ_in_how_much_is_hidden() -> None:
    _, mim = made(VARIED)
    batch = batch_of(count=4000)
    share = mim.draw_hidden(batch).float().mean(dim=1)
    clean = (share == 0).float().mean()
    # A quarter by choice, and those of the rest whose ratio is below one patch of 24.
    assert float(clean) == pytest.approx(0.25 + 0.75 / 24 / 0.75, abs=0.03)
    assert 0.7 < float(share.max()) < 0.75
    assert float(share[share > 0].mean()) == pytest.approx(0.39, abs=0.02)
    assert torch.equal(mim.draw_hidden(batch).float().mean(dim=1), share)


def test_the_largest_noise_is_hidden_where_ratios_differ() -> None:
    _, mim = made(VARIED)
    noise = torch.arange(24.0).expand(3, 24) / 24
    draws = torch.tensor([[0.5, 0.9], [0.99, 0.2], [0.99, 0.3]])
    hidden = mim.draw_hidden({"noise": noise, "ratio_noise": draws})
    assert hidden.sum(dim=1).tolist() == [9, 0, 17]
    assert hidden[0].nonzero().flatten().tolist() == list(range(15, 24))


def test_cells_are_hidden_whole() -> None:
    _, mim = made(MaskRule(0.75, 2, "replace", clean_share=0.0))
    hidden = mim.draw_hidden(batch_of(count=50)).reshape(50, 2, 2, 3, 2)
    cells = hidden.permute(0, 1, 3, 2, 4).flatten(3).sum(dim=-1)
    assert set(cells.flatten().tolist()) == {0, 4}


@pytest.mark.parametrize("rule", [REPLACE, VARIED])
def test_a_replaced_patch_is_a_mask_token_that_is_told_its_place(rule: MaskRule) -> None:
    encoder, mim = made(rule)
    batch = batch_of()
    fed: list[Tensor] = []
    encoder.blocks.register_forward_pre_hook(lambda _blocks, given: fed.append(given[0]))
    mim(encoder, batch)
    mim.predict_all(encoder, batch)
    hidden = mim.draw_hidden(batch)[..., None]
    plain = encoder.embed(batch["view"])
    blanks = mim.mask_token + encoder.pos_embed[:, 1:]
    for tokens in fed:
        assert torch.equal(tokens[:, :1], plain[:, :1])
        assert torch.equal(tokens[:, 1:], torch.where(hidden, blanks, plain[:, 1:]))
    assert len(fed) == 2


def test_visible_tokens_are_told_from_blanks() -> None:
    encoder, mim = made(REPLACE)
    out = mim(encoder, batch_of())
    assert out.tokens.shape == (4, 25, 16)
    assert torch.equal(out.visible, ~mim.draw_hidden(batch_of()))
    encoder, mim = made(DROP)
    out = mim(encoder, batch_of())
    assert out.tokens.shape == (4, 7, 16)
    assert bool(out.visible.all())
