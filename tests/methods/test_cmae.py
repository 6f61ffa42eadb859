"""CMAE: both branches, what gradients reach, the moving average, its sizes, and that it learns."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contramask.draws import image_keys, uniform
from contramask.losses import info_nce
from contramask.masking import block_mask
from contramask.methods import build_method
from contramask.methods.base import MASK_STREAM, Method, StepOutput
from contramask.methods.cmae import CMAE, CMAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, build_encoder, patchify, unpatchify

SMALL: dict[str, Any] = {
    "decoder": DecoderConfig(embed_dim=16, depth=1, num_heads=2),
    "feature_decoder": DecoderConfig(embed_dim=16, depth=1, num_heads=2),
    "head_hidden_dim": 24,
    "head_out_dim": 8,
}
Size = tuple[int, int]
Training = Callable[[Method], tuple[list[StepOutput], float]]


def tiny(size: Size = (16, 24), channels: int = 3, patch: int = 4, **settings: Any) -> CMAE:
    """A small CMAE from a fixed seed, its target moved away from the online network."""
    torch.manual_seed(0)
    shape = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    encoder = build_encoder(shape, size, channels)
    method = build_method(CMAEConfig(**(SMALL | settings)), encoder)
    assert isinstance(method, CMAE)
    for parameter in [*method.target_encoder.parameters(), *method.target_projector.parameters()]:
        parameter.data += 0.05 * torch.randn_like(parameter)
    return method


def published(arch: str, **settings: Any) -> CMAE:
    """CMAE as released, around one of timm's encoders; shapes only, no memory."""
    with torch.device("meta"):
        shape = EncoderConfig(arch=arch, patch_size=16)  # type: ignore[arg-type]
        method = build_method(CMAEConfig(**settings), build_encoder(shape, (224, 224), 3))
    assert isinstance(method, CMAE)
    return method


def batch_of(size: Size = (16, 24), channels: int = 3, count: int = 6) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "view": torch.randn(count, channels, *size, generator=generator),
        "target_view": torch.randn(count, channels, *size, generator=generator),
        "key": image_keys(0, 0, torch.arange(count)),
    }


def numbers(output: StepOutput) -> dict[str, float]:
    """A step's loss and terms as plain numbers."""
    return {"loss": float(output.loss.detach())} | {k: float(v) for k, v in output.terms.items()}


def count(*modules: nn.Module) -> int:
    return sum(p.numel() for module in modules for p in module.parameters())


@pytest.mark.parametrize(
    ("arch", "online", "average"),
    [("vit_small", 56.16, 22.65), ("vit_base", 121.47, 87.38), ("vit_large", 339.76, 305.27)],
)
def test_parameter_counts_are_the_published_ones(arch: str, online: float, average: float) -> None:
    """Fixed positions are counted; so is the target's final norm, which the default leaves out."""
    method = published(arch, target_norm="final")
    target = count(method.target_encoder, method.target_projector)
    assert round((count(method) - target) / 1e6, 2) == online
    assert round(target / 1e6, 2) == average
    without = published(arch)
    left_out = target - count(without.target_encoder, without.target_projector)
    assert left_out == 2 * method.encoder.embed_dim


@pytest.mark.parametrize("arch", ["vit_small", "vit_base", "vit_large"])
def test_the_feature_decoder_is_as_wide_as_the_encoder(arch: str) -> None:
    method = published(arch)
    assert method.feature_decoder.pred.out_features == method.encoder.embed_dim
    assert method.projector.fc0.in_features == method.encoder.embed_dim
    assert method.pixel_decoder.pred.out_features == 768
    assert len(method.feature_decoder.blocks) == 2
    assert len(method.pixel_decoder.blocks) == 8


def test_17_cells_and_68_of_196_patches_are_visible() -> None:
    method = tiny((56, 56))
    mask = method.draw_mask(batch_of((56, 56)))
    assert mask.ids_keep.shape == (6, 68)
    cells = mask.mask.reshape(6, 7, 2, 7, 2).float().mean(dim=(2, 4))
    assert (cells == 0).sum(dim=(1, 2)).tolist() == [17] * 6
    assert (cells == 1).sum(dim=(1, 2)).tolist() == [32] * 6


def test_masks_come_from_the_images_keys_or_from_noise() -> None:
    method, batch = tiny(), batch_of()
    expected = block_mask(uniform(batch["key"], MASK_STREAM, 6), 0.65, (4, 6), 2)
    assert torch.equal(method.draw_mask(batch).mask, expected.mask)
    noise = torch.arange(6.0).expand(6, -1)
    assert method.draw_mask({**batch, "noise": noise}).ids_keep[0].tolist() == [
        *(0, 1, 2, 3),
        *(6, 7, 8, 9),
    ]


def test_a_grid_that_cells_do_not_cover_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="grid of 4x5 patches cannot be covered by cells of 2x2"):
        tiny((16, 20))
    with pytest.raises(ValueError, match=r"8x8 px .* ratio of 0\.65 leaves 0 of 1 cells of 2x2"):
        tiny((8, 8))


def test_every_online_parameter_gets_a_gradient_and_no_other() -> None:
    method = tiny()
    method(batch_of()).loss.backward()
    fixed = {name for name, p in method.named_parameters() if not p.requires_grad}
    assert {name for name in fixed if not name.endswith("pos_embed")} == {
        name for name, _ in method.named_parameters() if name.startswith("target_")
    } - {"target_encoder.pos_embed"}
    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == (name not in fixed), name


def test_keys_pass_no_gradient_even_to_a_target_that_would_take_it() -> None:
    frozen, free = tiny(), tiny()
    free.target_encoder.requires_grad_(True)
    free.target_projector.requires_grad_(True)
    assert not free.targets(free.read(batch_of()))[0].requires_grad
    for method in (frozen, free):
        method(batch_of()).loss.backward()
    for (name, one), two in zip(frozen.named_parameters(), free.parameters(), strict=True):
        if name.startswith("target_"):
            assert two.grad is None, name
        else:
            assert one.grad is two.grad is None or torch.equal(one.grad, two.grad), name


def test_each_loss_term_trains_its_own_decoder_and_both_train_the_encoder() -> None:
    for weights, decoder, other in [
        ({"recon_weight": 0}, "feature_decoder", "pixel_decoder"),
        ({"contrast_weight": 0}, "pixel_decoder", "feature_decoder"),
    ]:
        method = tiny(**weights)
        method(batch_of()).loss.backward()
        assert method.get_parameter("encoder.cls_token").grad.any()  # type: ignore[union-attr]
        assert method.get_parameter(f"{decoder}.mask_token").grad.any()  # type: ignore[union-attr]
        assert not method.get_parameter(f"{other}.mask_token").grad.any()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "scale"),
    [
        ({}, 0.14),
        ({"temperature": 0.2}, 0.4),
        ({"contrast_scale": "one"}, 1.0),
        ({"contrast_scale": "one", "contrast_weight": 0.5}, 0.5),
    ],
)
def test_the_loss_is_the_weighted_sum_of_its_terms(settings: dict[str, Any], scale: float) -> None:
    got = numbers(tiny(**settings, recon_weight=2.0)(batch_of()))
    assert set(got) == {"loss", "recon_loss", "contrast_loss"}
    expected = 2 * got["recon_loss"] + scale * got["contrast_loss"]
    assert got["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_contrast_loss_is_made_of_projected_mean_features() -> None:
    method, batch = tiny(), batch_of()
    mask = method.draw_mask(batch)
    features = method.feature_decoder.predict_all(
        method.encoder.forward_tokens(batch["view"], mask.ids_keep), mask
    )
    query = method.predictor(method.projector(features.mean(dim=1)))
    tokens = method.target_encoder.tokens(batch["target_view"])  # before the final norm
    key = method.target_projector(tokens[:, 1:].mean(dim=1))  # without the class token
    expected = info_nce(query, key, 0.07, lambda keys: keys, 0)
    assert numbers(method(batch))["contrast_loss"] == pytest.approx(
        float(expected.detach()), rel=1e-4
    )


def test_the_reconstruction_loss_is_maes() -> None:
    method, batch = tiny(), batch_of()
    pred, mask = method.reconstruct(batch)
    error = (pred - method.target(batch["view"])).square().mean(dim=-1)
    assert numbers(method(batch))["recon_loss"] == pytest.approx(float(error[mask].mean()))
    nn.init.zeros_(method.pixel_decoder.pred.weight)
    nn.init.constant_(method.pixel_decoder.pred.bias, 0.5)
    # Normalised patches of P values have mean 0 and mean square (P - 1) / P.
    assert numbers(method(batch))["recon_loss"] == pytest.approx(0.25 + 47 / 48, abs=1e-4)


def test_each_view_feeds_its_own_branch() -> None:
    method, batch = tiny(), batch_of()
    before, mask = numbers(method(batch)), method.draw_mask(batch).mask
    other = numbers(method({**batch, "target_view": batch["view"]}))
    assert other["recon_loss"] == before["recon_loss"]
    assert other["contrast_loss"] != before["contrast_loss"]
    patches = patchify(batch["view"], 4)
    patches[mask] += torch.randn(patches[mask].shape)
    changed = numbers(method({**batch, "view": unpatchify(patches, (4, 6), 4)}))
    assert changed["recon_loss"] != before["recon_loss"]
    assert changed["contrast_loss"] == before["contrast_loss"]  # hidden pixels are not seen


def test_the_target_leaves_out_the_final_norm_by_default() -> None:
    without, final = tiny(), tiny(target_norm="final")
    assert "norm.weight" not in dict(without.target_encoder.named_parameters())
    assert "norm.weight" in dict(final.target_encoder.named_parameters())
    images = batch_of()["target_view"]
    encoder = without.target_encoder
    assert torch.equal(encoder.forward_tokens(images), encoder.tokens(images))
    tokens = final.target_encoder.norm(final.target_encoder.tokens(images))
    found = final.targets(final.read(batch_of()))[0]
    torch.testing.assert_close(found, tokens[:, 1:].mean(dim=1))


def test_the_target_starts_as_a_copy() -> None:
    torch.manual_seed(0)
    shape = EncoderConfig(patch_size=4, embed_dim=16, depth=1, num_heads=2)
    method = CMAE(build_encoder(shape, (16, 24), 3), CMAEConfig(**SMALL))
    for name, parameter in method.named_parameters():
        online = method.get_parameter(name.removeprefix("target_"))
        assert torch.equal(parameter, online), name


def test_after_a_step_the_target_is_the_closed_form() -> None:
    method = tiny(momentum=0.9, momentum_end=0.9)
    before = {name: p.clone() for name, p in method.named_parameters()}
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
    method(batch_of()).loss.backward()
    optimizer.step()
    method.after_step(0.3)
    for name, parameter in method.named_parameters():
        if name.startswith("target_"):
            online = method.get_parameter(name.removeprefix("target_"))
            torch.testing.assert_close(parameter, 0.9 * before[name] + 0.1 * online)


def test_momentum_one_freezes_the_target_and_the_schedule_ends_there() -> None:
    method = tiny(momentum=0.5, momentum_end=1.0)
    before = {name: p.clone() for name, p in method.named_parameters()}
    method.after_step(1.0)
    assert all(torch.equal(p, before[name]) for name, p in method.named_parameters())
    method.after_step(0.0)
    moved = method.get_parameter("target_projector.fc0.weight")
    name = "projector.fc0.weight"
    torch.testing.assert_close(moved, 0.5 * before[f"target_{name}"] + 0.5 * before[name])


def test_the_target_projector_keeps_batch_statistics_of_its_own() -> None:
    method = tiny()
    method(batch_of())
    mean = method.target_projector.bn0.running_mean.clone()
    assert not torch.equal(mean, method.projector.bn0.running_mean)
    method.after_step(0.5)
    assert torch.equal(method.target_projector.bn0.running_mean, mean)


def test_keys_of_other_processes_join_as_negatives_in_rank_order() -> None:
    method, batch = tiny(), batch_of()
    alone = numbers(method(batch))["contrast_loss"]
    query, key = method.latest
    before = torch.nn.functional.normalize(torch.randn(6, 8), dim=1)
    method.gather, method.rank = lambda keys: torch.cat([before, keys]), 1
    together = numbers(method(batch))["contrast_loss"]
    assert together > alone
    expected = info_nce(query, key, 0.07, lambda keys: torch.cat([before, keys]), 1)
    assert together == pytest.approx(float(expected), rel=1e-5)


def test_bf16_autocast_changes_little() -> None:
    method, batch = tiny(), batch_of()
    exact = numbers(method(batch))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = numbers(method(batch))
    assert rounded["recon_loss"] == pytest.approx(exact["recon_loss"], rel=0.02)
    assert rounded["contrast_loss"] == pytest.approx(exact["contrast_loss"], rel=0.1)


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("patch", [8, 16, 4])
def test_every_size_channel_count_and_patch_size_trains(
    size: Size, channels: int, patch: int
) -> None:
    block = 1 if size[0] // patch == 2 else 2  # a grid of 2x2 is a single cell
    method = tiny(size, channels, patch, mask_block=block)
    output = method(batch_of(size, channels, 2))
    output.loss.backward()
    assert output.loss.isfinite()
    assert method.encoder.cls_token.grad is not None


def test_80_steps_learn_the_slopes_without_collapse(train_80_steps: Training) -> None:
    torch.manual_seed(0)
    shape = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    part = DecoderConfig(embed_dim=32, depth=1, num_heads=2)
    config = CMAEConfig(decoder=part, feature_decoder=part, head_hidden_dim=64, head_out_dim=32)
    method = build_method(config, build_encoder(shape, (32, 32), 3))
    outputs, spread = train_80_steps(method)
    last = numbers(outputs[-1])
    assert last["recon_loss"] < 0.1  # predicting without looking costs 0.995
    assert last["contrast_loss"] < 1.5  # chance: ln 64 = 4.2
    assert spread > 0.3
    gauges = method.gauges()
    assert gauges["contrast_top1"] > 0.5
    assert gauges["feature_std"] > 0.5
    assert gauges["effective_rank"] > 8
