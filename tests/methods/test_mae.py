"""MAE: its arithmetic on fixed tensors, what it may see, its sizes, and that it learns."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from contramask.draws import image_keys, uniform
from contramask.masking import random_mask, take_tokens
from contramask.methods import build_method
from contramask.methods.base import MASK_STREAM, Method, StepOutput
from contramask.methods.mae import MAE, MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, build_encoder, patchify, unpatchify

DECODER = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
Size = tuple[int, int]
Training = Callable[[Method], tuple[list[StepOutput], float]]


def tiny(size: Size = (16, 24), channels: int = 3, patch: int = 4, **settings: object) -> MAE:
    """A small MAE from a fixed seed."""
    torch.manual_seed(0)
    shape = EncoderConfig(patch_size=patch, embed_dim=16, depth=1, num_heads=2)
    config = MAEConfig(decoder=DECODER, **settings)  # type: ignore[arg-type]
    method = build_method(config, build_encoder(shape, size, channels))
    assert isinstance(method, MAE)
    return method


def constant(method: MAE, value: float) -> MAE:
    """The method with a decoder that answers `value` for every pixel."""
    torch.nn.init.zeros_(method.pixel_decoder.pred.weight)
    torch.nn.init.constant_(method.pixel_decoder.pred.bias, value)
    return method


def batch_of(size: Size = (16, 24), channels: int = 3, count: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "view": torch.randn(count, channels, *size, generator=generator),
        "key": image_keys(0, 0, torch.arange(count)),
    }


@pytest.mark.parametrize(
    ("arch", "millions"), [("vit_small", 47.58), ("vit_base", 111.91), ("vit_large", 329.54)]
)
def test_parameter_counts_are_the_published_ones(arch: str, millions: float) -> None:
    """MMPretrain's numbers; they include the fixed positions of encoder and decoder."""
    with torch.device("meta"):
        shape = EncoderConfig(arch=arch, patch_size=16)  # type: ignore[arg-type]
        method = build_method(MAEConfig(), build_encoder(shape, (224, 224), 3))
    assert round(sum(p.numel() for p in method.parameters()) / 1e6, 2) == millions


def test_49_of_196_patches_are_visible() -> None:
    method = tiny((56, 56))
    mask = method.draw_mask(batch_of((56, 56)))
    assert mask.ids_keep.shape == (3, 49)


def test_a_grid_too_small_for_the_ratio_is_refused_when_the_method_is_built() -> None:
    with pytest.raises(
        ValueError, match=r"4x12 px .* ratio of 0\.75 leaves 0 of 3 patches visible"
    ):
        tiny((4, 12))


def test_a_constant_prediction_costs_what_algebra_says() -> None:
    """Normalised patches have mean 0 and mean square (P - 1) / P, since the variance is unbiased.

    So predicting c costs c^2 + (P - 1) / P, whatever the image: with P = 48 and c = 0.5, 1.229167.
    With the biased variance it would be 1.25.
    """
    loss = constant(tiny(), 0.5)(batch_of()).loss
    assert float(loss.detach()) == pytest.approx(0.25 + 47 / 48, abs=1e-4)


def test_plain_pixels_by_hand() -> None:
    """Four 2x2 patches of values 1, 2, 3, 4; the noise hides the second and the third."""
    method = constant(tiny((4, 4), 1, 2, mask_ratio=0.5, norm_pix_loss=False), 2.0)
    values = torch.tensor([[[1.0], [2.0], [3.0], [4.0]]]).expand(1, 4, 4)
    batch = {
        "view": unpatchify(values, (2, 2), 2),
        "noise": torch.tensor([[0.1, 0.8, 0.9, 0.2]]),
    }
    assert float(method(batch).loss.detach()) == pytest.approx(((2 - 2) ** 2 + (3 - 2) ** 2) / 2)


def test_the_target_is_normalised_or_plain_as_configured() -> None:
    view = batch_of()["view"]
    plain = tiny(norm_pix_loss=False).target(view)
    assert torch.equal(plain, patchify(view, 4))
    normalised = tiny().target(view)
    assert normalised.mean(dim=-1).abs().max() < 1e-5
    torch.testing.assert_close(normalised.var(dim=-1), torch.ones(3, 24), rtol=1e-4, atol=1e-4)


def test_the_loss_ignores_the_targets_of_visible_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = tiny(), batch_of()
    asked: list[Tensor] = []

    def target(view: Tensor, ids: Tensor | None = None) -> Tensor:
        assert ids is not None
        asked.append(ids)
        return MAE.target(method, view, ids)

    honest = float(method(batch).loss.detach())
    monkeypatch.setattr(method, "target", target)
    assert float(method(batch).loss.detach()) == honest
    assert torch.equal(asked[0], method.draw_mask(batch).ids_hide)


def test_targets_of_some_patches_are_those_of_all_picked() -> None:
    method, batch = tiny(), batch_of()
    ids = method.draw_mask(batch).ids_hide
    expected = take_tokens(method.target(batch["view"]), ids)
    assert torch.equal(method.target(batch["view"], ids), expected)


def test_hidden_pixels_change_the_target_but_never_the_prediction() -> None:
    method, batch = tiny(), batch_of()
    before, mask = method.reconstruct(batch)
    patches = patchify(batch["view"], 4)
    patches[mask] = torch.randn(patches[mask].shape)
    changed = {**batch, "view": unpatchify(patches, (4, 6), 4)}
    assert torch.equal(method.reconstruct(changed)[0], before)
    assert float(method(changed).loss.detach()) != float(method(batch).loss.detach())


def test_the_training_loss_is_that_of_the_reconstruction() -> None:
    method, batch = tiny(), batch_of()
    pred, mask = method.reconstruct(batch)
    error = (pred - method.target(batch["view"])).square().mean(dim=-1)
    torch.testing.assert_close(error[mask].mean(), method(batch).loss.detach())
    assert mask.float().mean() == 0.75
    assert not pred.requires_grad


def test_masks_come_from_the_images_keys() -> None:
    method, batch = tiny(), batch_of()
    expected = random_mask(uniform(batch["key"], MASK_STREAM, 24), 0.75)
    assert torch.equal(method.draw_mask(batch).mask, expected.mask)
    torch.manual_seed(1)
    first = float(method(batch).loss.detach())
    torch.manual_seed(2)
    assert float(method(batch).loss.detach()) == first


def test_noise_that_is_brought_along_wins_over_keys() -> None:
    method, batch = tiny(), batch_of()
    noise = torch.arange(24.0).expand(3, -1)
    mask = method.draw_mask({**batch, "noise": noise})
    assert mask.ids_keep.tolist() == [[0, 1, 2, 3, 4, 5]] * 3


def test_the_step_output_is_a_loss_and_its_detached_term() -> None:
    output = tiny()(batch_of())
    assert output.loss.requires_grad
    assert set(output.terms) == {"recon_loss"}
    assert not output.terms["recon_loss"].requires_grad
    assert output.terms["recon_loss"] == output.loss.detach()


def test_the_online_encoder_is_exported_and_nothing_is_left_to_gauge() -> None:
    method = tiny()
    method.after_step(1.0)
    assert method.branch == "online"
    assert method.gauges() == {}


def test_every_trained_parameter_gets_a_gradient() -> None:
    method = tiny()
    method(batch_of()).loss.backward()
    for name, parameter in method.named_parameters():
        reached = parameter.grad is not None and bool(parameter.grad.any())
        assert reached == parameter.requires_grad, name


@pytest.mark.parametrize("size", [(64, 64), (96, 160), (32, 32)])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("patch", [8, 16, 4])
def test_every_size_channel_count_and_patch_size_trains(
    size: Size, channels: int, patch: int
) -> None:
    method = tiny(size, channels, patch)
    output = method(batch_of(size, channels, 2))
    output.loss.backward()
    assert output.loss.isfinite()
    assert method.encoder.cls_token.grad is not None
    pred, mask = method.reconstruct(batch_of(size, channels, 2))
    length = (size[0] // patch) * (size[1] // patch)
    assert pred.shape == (2, length, patch * patch * channels)
    assert mask.shape == (2, length)


def test_80_steps_learn_the_slopes_without_collapse(train_80_steps: Training) -> None:
    torch.manual_seed(0)
    shape = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    config = MAEConfig(decoder=DecoderConfig(embed_dim=32, depth=1, num_heads=2))
    outputs, spread = train_80_steps(build_method(config, build_encoder(shape, (32, 32), 3)))
    assert outputs[0].loss > 1
    assert outputs[-1].loss < 0.1  # predicting without looking costs 0.995
    assert spread > 0.3
