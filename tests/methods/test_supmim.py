"""SupMIM: the supervised half alone, both together in each mode, and that it learns."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.draws import image_keys
from contramask.methods.mim_target import TokenTarget
from contramask.methods.supmim import SupMIM, SupMIMConfig
from contramask.models.codebook import CodebookConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer
from contramask.models.tokenizer_bundle import TokenizerBundle, describe
from contramask.train.checkpoint import Keeper, ResumeRefused
from contramask.train.optim import adamw, decay_groups
from contramask.typed import ConfigError, parse

MODES = ["dual", "shared", "split"]
SIZES = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
DECODER = {"embed_dim": 16, "depth": 1, "num_heads": 2}
DATA = {
    "classes": ["flat", "steep", "other"],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.25, 0.25, 0.25],
    "data_hash": "abc",
}


def bundle_for(images: Tensor, patch: int = 8, codes: int = 16, **settings: Any) -> TokenizerBundle:
    """An untrained tokenizer, its codes placed by k-means on images in [0, 1]: sound targets."""
    torch.manual_seed(3)
    net, book = TokenizerNetConfig(widths=(8,)), CodebookConfig(dim=6)
    made = VQTokenizer(patch, images.shape[1], codes, net, book)
    with torch.no_grad():
        made.codebook.start(made.features(made.scaled(images)).flatten(0, 1), seed=0)
    verdict = {"accepted": True, "reasons": [], "on_alarm": "stop"}
    origin = {"data_hash": "abc", "image_size": list(images.shape[2:])}
    return TokenizerBundle(made, {**describe(made), **origin, **verdict, **settings})


def unit(view: Tensor) -> Tensor:
    return (view * 0.25 + 0.5).clamp(0, 1)


def tiny(view: Tensor, sizes: EncoderConfig = SIZES, **settings: Any) -> SupMIM:
    """A small SupMIM from a fixed seed, attached to a tokenizer that fits."""
    config = parse(SupMIMConfig, {"decoder": DECODER, **settings}, "method")
    bundle = bundle_for(unit(view), sizes.patch_size) if config.needs_tokenizer else None
    torch.manual_seed(0)
    method = SupMIM(build_encoder(sizes, (view.shape[2], view.shape[3]), view.shape[1]), config)
    method.attach(DATA, bundle)
    return method


def batch_of(view: Tensor, start: int = 0) -> dict[str, Any]:
    index = torch.arange(start, start + len(view))
    slope = (view[:, 0, -1, 0] - view[:, 0, 0, 0]).abs()
    label = (slope > slope.median()).long()
    return {"view": view, "label": label, "key": image_keys(0, start, index)}


def train(method: nn.Module, slopes: Tensor, steps: int) -> list[dict[str, float]]:
    """Steps of AdamW on the same images with fresh masks; the terms of each."""
    optimizer = adamw(decay_groups(method, 0.05, "one_dim"), 2e-3)
    found = []
    for step in range(steps):
        output = method(batch_of(slopes, 1000 * step))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        found.append({"loss": float(output.loss.detach()), **dict(floats(output.terms))})
    return found


def floats(terms: dict[str, Tensor]) -> list[tuple[str, float]]:
    return [(name, float(value)) for name, value in terms.items()]


class Supervised(nn.Module):
    """The baseline, written down without any of SupMIM's code."""

    def __init__(self, encoder: VisionEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.class_head = nn.Linear(encoder.embed_dim, 3)
        nn.init.trunc_normal_(self.class_head.weight, std=0.02)
        nn.init.zeros_(self.class_head.bias)

    def forward(self, batch: dict[str, Any]) -> Any:
        tokens = self.encoder.forward_tokens(batch["view"])
        weight = torch.full(tokens[:, 1:, 0].shape, 1 / (tokens.shape[1] - 1))
        pooled = torch.einsum("bvd,bv->bd", tokens[:, 1:], weight)
        loss = F.cross_entropy(self.class_head(pooled), batch["label"], label_smoothing=0.1)
        return type("Output", (), {"loss": loss, "terms": {}})


@pytest.mark.parametrize("mode", MODES)
def test_lambda_0_is_the_supervised_baseline(slopes: Tensor, mode: str) -> None:
    torch.manual_seed(0)
    baseline = Supervised(build_encoder(SIZES, (32, 32), 3))
    expected = [row["loss"] for row in train(baseline, slopes, 8)]
    method = tiny(slopes, mode=mode, lambda_mim=0.0)
    found = train(method, slopes, 8)
    assert [row["class_loss"] for row in found] == expected
    assert [row["loss"] for row in found] == [row["class_loss"] for row in found]
    assert {n.split(".")[0] for n, _ in method.named_parameters()} == {"encoder", "class_head"}
    assert method.gauges() == {}
    assert not method.draws_pictures
    with pytest.raises(ValueError, match="supervised, as it is configured, predicts no pixels"):
        method.reconstruct(batch_of(slopes))


def test_tokens_of_others_cannot_be_drawn(tmp_path: Path) -> None:
    encoder = build_encoder(SIZES, (32, 32), 3)
    foreign = parse(SupMIMConfig, {"target": {"name": "pretrained", "path": tmp_path}}, "method")
    assert not SupMIM(encoder, foreign).draws_pictures
    assert SupMIM(encoder, SupMIMConfig()).draws_pictures


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_baseline_is_not_called_supmim(weight: float) -> None:
    method = SupMIM(build_encoder(SIZES, (32, 32), 3), SupMIMConfig(lambda_mim=weight))
    assert method.label == ("supmim" if weight else "supervised")


def test_the_supervised_half_starts_from_the_same_weights(slopes: Tensor) -> None:
    plain, dual = tiny(slopes, lambda_mim=0.0), tiny(slopes)
    batch = batch_of(slopes)
    first = plain(batch).terms["class_loss"]
    assert torch.equal(dual(batch).terms["class_loss"], first)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("style", ["drop", "replace"])
def test_the_loss_is_the_weighted_sum_and_reaches_everything(
    slopes: Tensor, mode: str, style: str
) -> None:
    share = 0.0 if (mode, style) == ("shared", "drop") else 0.25
    method = tiny(slopes, mode=mode, mask_style=style, clean_share=share, lambda_mim=0.3)
    output = method(batch_of(slopes))
    terms = output.terms
    torch.testing.assert_close(output.loss.detach(), terms["class_loss"] + 0.3 * terms["mim_loss"])
    output.loss.backward()
    trained = {n: p.grad for n, p in method.named_parameters() if p.requires_grad}
    assert {n for n, grad in trained.items() if grad is None or not grad.any()} == set()
    names = {n for n in trained if n.endswith("mask_token")}
    assert names == {"mim.mask_token" if style == "replace" else "mim.decoder.mask_token"}
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)


def test_in_dual_mode_the_classifier_sees_the_complete_image(slopes: Tensor) -> None:
    method, batch = tiny(slopes), batch_of(slopes)
    other = {**batch, "noise": torch.rand(64, 16)}
    one, two = method(batch).terms, method(other).terms
    assert torch.equal(one["class_loss"], two["class_loss"])
    assert not torch.equal(one["mim_loss"], two["mim_loss"])


def test_in_split_mode_each_image_serves_one_task(slopes: Tensor) -> None:
    method, batch = tiny(slopes, mode="split", split_share=0.25), batch_of(slopes)
    before = method(batch).terms
    labels = batch["label"].clone()
    labels[:16] = 2  # nobody asks for these
    assert torch.equal(method({**batch, "label": labels}).terms["class_loss"], before["class_loss"])
    view = batch["view"].clone()
    view[16:] = view[16:].flip(3)  # nor for the tokens of these
    after = method({**batch, "view": view}).terms
    assert torch.equal(after["mim_loss"], before["mim_loss"])
    assert not torch.equal(after["class_loss"], before["class_loss"])


def test_in_shared_mode_hidden_patches_reach_neither_loss(slopes: Tensor) -> None:
    method, batch = tiny(slopes, mode="shared"), batch_of(slopes)
    assert method.mim is not None
    hidden = method.mim.draw_hidden(batch).reshape(64, 1, 4, 4)
    pixels = hidden.repeat_interleave(8, 2).repeat_interleave(8, 3)
    painted = {**batch, "view": torch.where(pixels, 5.0, batch["view"])}
    before, after = method(batch).terms, method(painted).terms
    assert torch.equal(before["class_loss"], after["class_loss"])
    assert not torch.equal(before["mim_loss"], after["mim_loss"])  # the targets did change


def test_in_shared_mode_mask_tokens_are_not_pooled(slopes: Tensor) -> None:
    method, batch = tiny(slopes, mode="shared"), batch_of(slopes)
    pooled: list[Tensor] = []
    method.class_head.register_forward_pre_hook(lambda _head, given: pooled.append(given[0]))
    method(batch)
    assert method.mim is not None
    masked, hidden = method.mim(method.encoder, batch), method.mim.draw_hidden(batch)
    assert 0 < hidden.sum() < hidden.numel()
    means = [
        tokens[1:][~away].mean(dim=0) for tokens, away in zip(masked.tokens, hidden, strict=True)
    ]
    torch.testing.assert_close(pooled[0], torch.stack(means))


def test_the_classifier_reads_the_altered_view_and_tokens_the_true_one(slopes: Tensor) -> None:
    method, batch = tiny(slopes, view_mode="weak_strong"), batch_of(slopes)
    plain = method(batch).terms
    altered = method({**batch, "target_view": -slopes}).terms
    assert torch.equal(plain["mim_loss"], altered["mim_loss"])
    assert not torch.equal(plain["class_loss"], altered["class_loss"])


@pytest.mark.parametrize("mode", MODES)
def test_images_without_a_label_teach_no_class(slopes: Tensor, mode: str) -> None:
    method, batch = tiny(slopes, mode=mode), batch_of(slopes)
    none = {**batch, "label": torch.full((64,), -1)}
    output = method(none)
    assert float(output.terms["class_loss"]) == 0
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in method.parameters() if p.grad is not None)
    assert float(method.class_head.weight.grad.abs().sum()) == 0


def test_the_class_loss_is_a_mean_over_labelled_images(slopes: Tensor) -> None:
    method, batch = tiny(slopes), batch_of(slopes)
    some = {**batch, "label": torch.where(torch.arange(64) < 40, batch["label"], -1)}
    whole = method({k: v[:40] for k, v in batch.items()}).terms
    part = method(some).terms
    torch.testing.assert_close(part["class_loss"], whole["class_loss"])
    torch.testing.assert_close(part["class_top1"], whole["class_top1"])


@pytest.mark.parametrize("pool", ["avg", "cls"])
def test_what_the_class_head_reads(slopes: Tensor, pool: str) -> None:
    method = tiny(slopes, pool=pool).eval()
    tokens = method.encoder.forward_tokens(slopes)
    feature = tokens[:, 0] if pool == "cls" else tokens[:, 1:].mean(dim=1)
    torch.testing.assert_close(method.classify(slopes), method.class_head(feature))


def test_gauges_are_gradient_norms_at_the_last_block(slopes: Tensor) -> None:
    few = batch_of(slopes[:20])  # all of them are in the sample
    method = tiny(slopes, lambda_mim=0.5)
    terms = method(few)
    assert method.mim is not None
    found = method.gauges()
    last = list(method.encoder.blocks[-1].parameters())
    logits, label, masked = method._both(method.mim, few)
    class_loss = F.cross_entropy(logits, label, label_smoothing=0.1)
    mim_loss, _ = method.mim.target.score(masked.pred, masked.target)
    for name, loss in (("grad_class", class_loss), ("grad_mim", 0.5 * mim_loss)):
        gradient = torch.autograd.grad(loss, last, retain_graph=True)
        norm = torch.cat([g.flatten() for g in gradient]).norm()
        torch.testing.assert_close(found[name], norm)
    assert float(found["grad_ratio"]) == pytest.approx(
        float(found["grad_mim"] / found["grad_class"])
    )
    gain = found["token_entropy"] - terms.terms["token_nll"]
    torch.testing.assert_close(found["token_gain"], gain)
    assert all(p.grad is None for p in method.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_it_learns_both_and_leaves_the_tokenizer_alone(slopes: Tensor, mode: str) -> None:
    """Classes and tokens: in 100 steps the gain over token frequencies passes half a nat."""
    method = tiny(slopes[:32], mode=mode, clean_share=0.1)
    assert method.mim is not None
    assert isinstance(method.mim.target, TokenTarget)
    tokenizer = method.mim.target.tokenizer
    before = {k: v.clone() for k, v in tokenizer.state_dict().items()}
    curve = train(method.train(), slopes[:32], 100)
    assert curve[-1]["class_loss"] < 0.7 * curve[0]["class_loss"]
    gauges = dict(floats(method.gauges()))
    assert gauges["token_gain"] > 0.5
    assert gauges["token_drift"] < 0.1
    assert all(torch.equal(tokenizer.state_dict()[k], v) for k, v in before.items())


def test_what_is_exported_is_a_plain_vision_transformer(slopes: Tensor) -> None:
    method = tiny(slopes, mode="shared")  # the one with a mask token
    plain = VisionTransformer(
        img_size=32, patch_size=8, num_classes=0, embed_dim=32, depth=2, num_heads=2
    )
    plain.load_state_dict(method.encoder.state_dict())
    torch.testing.assert_close(
        plain.forward_features(slopes), method.encoder.forward_tokens(slopes)
    )


@pytest.mark.parametrize(
    ("size", "channels", "patch"), [((16, 24), 1, 4), ((24, 24), 5, 6), ((28, 42), 3, 14)]
)
@pytest.mark.parametrize("target", ["vq", "pixels"])
def test_any_grid_patch_size_and_channels(
    size: tuple[int, int], channels: int, patch: int, target: str
) -> None:
    view = torch.randn(8, channels, *size, generator=torch.Generator().manual_seed(0))
    sizes = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    data = {**DATA, "mean": [0.5] * channels, "std": [0.25] * channels}
    config = parse(SupMIMConfig, {"decoder": DECODER, "target": {"name": target}}, "method")
    method = SupMIM(build_encoder(sizes, size, channels), config)
    method.attach(data, bundle_for(unit(view), patch, codes=4))
    batch = {**batch_of(view), "label": torch.zeros(8, dtype=torch.int64)}
    output = method(batch)
    output.loss.backward()
    assert torch.isfinite(output.loss)
    pred, hidden = method.reconstruct(batch)
    patches = size[0] * size[1] // patch**2
    assert pred.shape == (8, patches, patch**2 * channels)
    assert hidden.shape == (8, patches)


def test_pixels_need_no_tokenizer(slopes: Tensor) -> None:
    method = tiny(slopes, target={"name": "pixels"})
    assert not method.config.needs_tokenizer
    assert method.ingredients == {}
    assert set(method(batch_of(slopes)).terms) == {"class_loss", "class_top1", "mim_loss"}
    assert set(method.gauges()) == {"grad_class", "grad_mim", "grad_ratio"}


def attached(data: dict[str, Any], bundle: TokenizerBundle | None) -> SupMIM:
    method = SupMIM(build_encoder(SIZES, (32, 32), 3), SupMIMConfig())
    method.attach(data, bundle)
    return method


def test_what_does_not_fit_is_refused_before_training(slopes: Tensor) -> None:
    fits = bundle_for(unit(slopes))
    with pytest.raises(ValueError, match="learns from classes and these images have none"):
        attached({**DATA, "classes": []}, fits)
    with pytest.raises(ValueError, match="run the stage tokenizer first"):
        attached(DATA, None)
    with pytest.raises(ValueError, match=r"no tokenizer .*mae needs none"):
        attached(DATA, TokenizerBundle.skipped("mae needs none"))
    with pytest.raises(ValueError, match="was refused: too few codes"):
        attached(DATA, bundle_for(unit(slopes), accepted=False, reasons=["too few codes"]))
    with pytest.raises(ValueError, match="data_hash abc then, xyz now"):
        attached({**DATA, "data_hash": "xyz"}, fits)
    with pytest.raises(ValueError, match="patch_size 4 then, 8 now"):
        attached(DATA, bundle_for(unit(slopes), patch=4))


def test_masks_that_do_not_fit_are_refused_when_the_method_is_built() -> None:
    def built(side: int, **settings: Any) -> None:
        sizes = EncoderConfig(patch_size=16, embed_dim=16, depth=1, num_heads=2)
        config = parse(SupMIMConfig, settings, "pretrain.method")
        SupMIM(build_encoder(sizes, (side, side), 3), config)

    with pytest.raises(ValueError, match="grid of 3x3 patches cannot be covered by cells of 2x2"):
        built(48, mask_block=2)
    with pytest.raises(ValueError, match=r"ratio of 0\.75 leaves 0 of 1 cells of 2x2 patches"):
        built(32, mask_block=2)
    # Where each image has a ratio of its own, below 0.75 of a single cell nothing is ever hidden.
    with pytest.raises(ValueError, match=r"ratio of 0\.75 leaves 1 of 1 cells of 2x2 patches"):
        built(32, mask_block=2, mode="shared")
    built(48, mask_block=2, lambda_mim=0.0)  # hides nothing
    built(32, mode="shared")


def test_another_tokenizer_is_no_continuation(slopes: Tensor, tmp_path: Path) -> None:
    one = attached(DATA, bundle_for(unit(slopes)))
    two = attached(DATA, bundle_for(unit(slopes), codes=17))
    keeper = Keeper(tmp_path, {"seed": 0, **one.ingredients})
    keeper.save({"step": 3})
    assert Keeper(tmp_path, {"seed": 0, **one.ingredients}).load(torch.device("cpu"))
    with pytest.raises(ResumeRefused, match=r"tokenizer: '[0-9a-f]{16}' in the checkpoint"):
        Keeper(tmp_path, {"seed": 0, **two.ingredients}).load(torch.device("cpu"))


def test_a_saved_state_restores_the_gauges_memory(slopes: Tensor) -> None:
    one, two = tiny(slopes), tiny(slopes)
    one(batch_of(slopes))
    two.load_state_dict(one.state_dict())
    two(batch_of(slopes, 64))
    one(batch_of(slopes, 64))
    assert dict(floats(one.gauges())) == dict(floats(two.gauges()))


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"mode": "both"}, "mode: given 'both'"),
        ({"target": {"name": "vq", "norm_pix_loss": True}}, "there is no such key"),
        ({"target": {"name": "dvae"}}, "does not exist; allowed here: vq, pixels, pretrained"),
        ({"target": {"name": "pretrained"}}, "path: this key is required"),
        ({"lambda_mim": -1}, "greater than or equal to 0"),
        (
            {"mode": "shared", "mask_style": "drop"},
            r"clean_share 0\.25 leaves images complete.*set clean_share to 0, or mask_style to",
        ),
    ],
)
def test_mistakes_are_explained(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        parse(SupMIMConfig, values, "pretrain.method")
