"""CMAE-Mao: the parts of the loss, what each reads, and what no gradient may reach."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from contramask.draws import image_keys
from contramask.losses import info_nce
from contramask.methods.base import Batch, StepOutput
from contramask.methods.cmae_mao import CMAEMao, CMAEMaoConfig
from contramask.methods.mae import MAE, MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.typed import ConfigError, parse

SIZE = (16, 24)
DECODER = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
SITES = ["encoder_cls", "sdmae_branch"]
#: Nothing but MAE is left.
BARE = {"view_mode": "single", "con_site": "none", "position": "none", "freeze_patch_embed": False}


def encoder(size: tuple[int, int] = SIZE, in_chans: int = 3) -> VisionEncoder:
    """Patches of 4x4 px, 40 wide: neither 4*4*3 nor 4*4."""
    config = EncoderConfig(patch_size=4, embed_dim=40, depth=2, num_heads=2)
    return build_encoder(config, size, in_chans)


def method(size: tuple[int, int] = SIZE, **settings: Any) -> CMAEMao:
    torch.manual_seed(0)
    settings = {"decoder": DECODER, "head_hidden_dim": 32, "head_out_dim": 8, **settings}
    return CMAEMao(encoder(size), CMAEMaoConfig(**settings)).train()


def moved(model: CMAEMao) -> CMAEMao:
    """The method with every weight off its initial value: the position head starts at zero."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def batch(count: int = 8, size: tuple[int, int] = SIZE, in_chans: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    views = torch.randn(2, count, in_chans, *size, generator=generator)
    key = image_keys(0, 0, torch.arange(count))
    return {"view": views[0], "target_view": views[1], "key": key}


def swapped(given: Batch) -> Batch:
    return {**given, "view": given["target_view"], "target_view": given["view"]}


def stepped(model: CMAEMao, given: Batch) -> StepOutput:
    output: StepOutput = model(given)
    output.loss.backward()  # type: ignore[no-untyped-call]
    return output


def grads(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


# The whole


def test_without_its_additions_it_is_mae() -> None:
    ours, given = method(**BARE), batch()
    torch.manual_seed(0)
    mae = MAE(encoder(), MAEConfig(decoder=DECODER)).train()
    expected = mae(given)
    expected.loss.backward()
    output = stepped(ours, given)
    assert torch.equal(output.loss, expected.loss)
    assert output.terms.keys() == expected.terms.keys()
    theirs = grads(mae)
    assert grads(ours).keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in grads(ours).items())
    for one, two in zip(ours.reconstruct(given), mae.reconstruct(given), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("site", SITES)
def test_the_loss_is_the_weighted_sum_over_both_views(site: str) -> None:
    model = method(con_site=site, position_weight=0.3, contrast_weight=0.7, temperature=0.3)
    output = model(batch())
    terms = output.terms
    expected = (
        2 * terms["recon_loss"]
        + 0.3 * 2 * terms["position_loss"]
        + 0.7 * (2 * 0.3) * 2 * terms["contrast_loss"]
    )
    torch.testing.assert_close(output.loss.detach(), expected)
    assert list(terms) == ["recon_loss", "position_loss", "contrast_loss"]
    assert not any(value.requires_grad for value in terms.values())


@pytest.mark.parametrize("site", SITES)
def test_the_start_is_that_of_knowing_nothing(site: str) -> None:
    terms = method(con_site=site, temperature=0.2, head_out_dim=256)(batch(count=8)).terms
    assert float(terms["position_loss"]) == pytest.approx(math.log(24), rel=1e-4)
    # Random cosines deviate by 1/16 in 256 dimensions, logits by 0.3, means of 16 losses by 0.08.
    assert float(terms["contrast_loss"]) == pytest.approx(math.log(8), abs=0.3)
    assert 0.5 < float(terms["recon_loss"]) < 3


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize(("size", "in_chans"), [((16, 16), 1), ((24, 12), 3), ((12, 20), 5)])
def test_any_grid_and_number_of_channels(site: str, size: tuple[int, int], in_chans: int) -> None:
    torch.manual_seed(0)
    config = CMAEMaoConfig(decoder=DECODER, head_hidden_dim=32, head_out_dim=8, con_site=site)
    model, given = CMAEMao(encoder(size, in_chans), config), batch(4, size, in_chans)
    assert torch.isfinite(stepped(model, given).loss)
    assert all(bool(torch.isfinite(value).all()) for value in grads(model).values())
    pred, mask = model.reconstruct(given)
    places = size[0] * size[1] // 16
    assert pred.shape == (4, places, 16 * in_chans)
    assert mask.sum(dim=1).tolist() == [places - places // 4] * 4


@pytest.mark.parametrize("site", SITES)
def test_runs_in_bf16(site: str) -> None:
    model = method(con_site=site, position="hard")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch())
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert all(bool(torch.isfinite(value).all()) for value in grads(model).values())


def test_equal_batches_give_equal_steps_and_a_used_method_can_be_copied() -> None:
    model, given = method(position="hard", masks="own"), batch()
    first = model(given).loss
    assert torch.equal(copy.deepcopy(model)(given).loss, first)
    other = {**given, "key": given["key"] + 1}
    assert not torch.equal(model(other).loss, first)


def test_the_exported_encoder_carries_none_of_it() -> None:
    model = method()
    fresh = encoder()
    fresh.load_state_dict(model.encoder.state_dict())
    assert model.branch == "online"


# Masks and reconstruction


def test_both_views_hide_the_same_patches() -> None:
    one, two = method().read(batch())
    assert torch.equal(one.mask.mask, two.mask.mask)
    assert torch.equal(one.places, two.places)
    assert one.mask.mask.sum(dim=1).tolist() == [18] * 8  # of 24


def test_masks_of_their_own_differ_and_can_be_forced() -> None:
    model, given = method(masks="own"), batch()
    one, two = model.read(given)
    assert not torch.equal(one.mask.mask, two.mask.mask)
    shared = method().read(given)[0]
    assert torch.equal(one.mask.mask, shared.mask.mask)
    noise = torch.arange(24.0).expand(8, -1)
    one, two = model.read({**given, "noise": noise, "target_noise": -noise})
    assert one.mask.ids_keep[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert two.mask.ids_keep[0].tolist() == [23, 22, 21, 20, 19, 18]


@pytest.mark.parametrize("norm", [True, False])
def test_both_views_are_reconstructed(norm: bool) -> None:
    settings = {"con_site": "none", "position": "none", "norm_pix_loss": norm}
    model, given = method(**settings), batch()
    mae = MAE(model.encoder, MAEConfig(decoder=DECODER, norm_pix_loss=norm))
    mae.pixel_decoder = model.pixel_decoder
    parts = [mae(given).loss, mae(swapped(given)).loss]
    torch.testing.assert_close(model(given).loss, parts[0] + parts[1])
    first = method(**settings, recon_views="first")
    torch.testing.assert_close(first(given).loss, parts[0])


# Positions


def test_the_visible_tokens_are_asked_for_their_own_places() -> None:
    reading = method().read(batch())[0]
    assert torch.equal(reading.places, reading.mask.ids_keep)
    assert torch.equal(reading.asked, reading.tokens[:, 1:])


def test_the_mse_arm_has_sdmaes_value() -> None:
    model = method(position_loss="mse_onehot", position_weight=1.0)
    head = model.position_head
    torch.nn.init.constant_(head.get_parameter("1.bias"), 1 / 24)  # predicts 1/L everywhere
    terms = model(batch()).terms
    assert float(terms["position_loss"]) == pytest.approx((1 / 24) * (1 - 1 / 24), rel=1e-4)


def test_the_hard_arm_asks_half_of_the_visible_tokens_and_hides_their_positions() -> None:
    model = method(**{**BARE, "position": "hard"})
    given = batch(count=1)
    before = model.read(given)[0]
    assert before.asked.shape == (1, 3, 40)  # of 6 visible
    assert set(before.places[0].tolist()) < set(before.mask.ids_keep[0].tolist())
    table = model.encoder.pos_embed.data  # class token first
    places = 1 + before.places[0]
    table[:, places] = table[:, places.roll(1)]
    after = model.read(given)[0]
    assert torch.equal(after.tokens, before.tokens)
    told = [place for place in before.mask.ids_keep[0].tolist() if place not in before.places[0]]
    table[:, 1 + told[0]] = table[:, 1 + told[1]]
    assert not torch.allclose(model.read(given)[0].tokens, before.tokens, atol=1e-3)


def test_the_hard_arm_needs_two_visible_patches_and_says_so_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"leaves 1 of 4 patches visible; set .*position to visible"
    ):
        method((8, 8), position="hard")
    with pytest.raises(ValueError, match=r"ratio of 0\.75 leaves 0 of 3 patches visible"):
        method((4, 12))
    model = method((8, 16), position="hard")  # two of eight: one is asked
    assert model.read(batch(size=(8, 16)))[0].asked.shape == (8, 1, 40)
    assert torch.isfinite(method((8, 8))(batch(size=(8, 8))).loss)


def test_views_are_asked_about_other_tokens_in_the_hard_arm() -> None:
    one, two = method(position="hard").read(batch())
    assert torch.equal(one.mask.ids_keep, two.mask.ids_keep)
    assert not torch.equal(one.places, two.places)


# Contrast


@pytest.mark.parametrize("site", SITES)
def test_the_contrast_is_symmetric(site: str) -> None:
    model, given = method(con_site=site), batch()
    one, two = model(given).terms, model(swapped(given)).terms
    torch.testing.assert_close(one["contrast_loss"], two["contrast_loss"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_the_contrast_of_known_queries_and_keys(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, count, temperature = method(con_site=site, temperature=0.5), 8, 0.5
    monkeypatch.setattr(model.contrast, "query", lambda tokens: 3 * torch.eye(count))
    monkeypatch.setattr(model.contrast, "key", lambda tokens: torch.eye(count))
    right = math.exp(1 / temperature)
    expected = -math.log(right / (right + count - 1))
    terms = model(batch(count)).terms
    assert float(terms["contrast_loss"]) == pytest.approx(expected, rel=1e-5)
    assert float(model.gauges()["contrast_top1"]) == 1


def branches(model: CMAEMao, given: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """Queries and keys of both views, (B, d) each, written out."""
    views, contrast = model.read(given), model.contrast
    if model.config.con_site == "encoder_cls":
        seen = [each.tokens for each in views]
        aimed = [model.target_encoder.forward_tokens(v.view, v.mask.ids_keep) for v in views]
    else:
        seen = aimed = [model.pixel_decoder(v.tokens, v.mask) for v in views]
    online, target = contrast.projector, contrast.target_projector
    queries = [contrast.predictor(online.head(online.pool(each))) for each in seen]
    return queries, [target.head(target.pool(each)) for each in aimed]


@pytest.mark.parametrize("site", SITES)
def test_queries_meet_the_keys_of_the_other_view(site: str) -> None:
    model, given = method(con_site=site), batch()
    queries, keys = branches(model, given)
    losses = [info_nce(queries[i], keys[1 - i], 0.2, model.gather, 0).detach() for i in (0, 1)]
    torch.testing.assert_close(model(given).terms["contrast_loss"], torch.stack(losses).mean())


@pytest.mark.parametrize("site", SITES)
def test_keys_of_other_processes_are_negatives_in_rank_order(site: str) -> None:
    model, given = method(con_site=site), batch()
    queries, keys = branches(model, given)
    others = torch.nn.functional.normalize(torch.randn(8, 8), dim=1)
    model.gather, model.rank = lambda keys: torch.cat([others, keys]), 1
    first, second = (
        torch.stack(
            [info_nce(queries[i], keys[1 - i], 0.2, model.gather, rank) for i in (0, 1)]
        ).mean()
        for rank in (1, 0)
    )
    found = model(given).terms["contrast_loss"]
    torch.testing.assert_close(found, first.detach())
    assert float((second - first).detach().abs()) > 0.01  # another rank would be told apart


@pytest.mark.parametrize(("key_input", "reads_hidden"), [("masked", False), ("full", True)])
def test_what_the_keys_see(key_input: str, reads_hidden: bool) -> None:
    model, given = method(key_input=key_input), batch()
    given["noise"] = torch.arange(24.0).expand(8, -1)  # the last row of patches is hidden
    before = model(given).terms["contrast_loss"]
    given["target_view"] = given["target_view"].clone()
    given["target_view"][:, :, 12:] = torch.randn(8, 3, 4, 24)
    changed = not torch.equal(model(given).terms["contrast_loss"], before)
    assert changed == reads_hidden


@pytest.mark.parametrize("site", SITES)
def test_gradients_reach_all_that_is_trained_and_no_target(site: str) -> None:
    """Also with targets that would take one."""
    model = moved(method(con_site=site))
    expected = {name for name, p in model.named_parameters() if p.requires_grad}
    targets = {name for name, _ in model.named_parameters() if "target_" in name}
    assert targets
    assert not expected & targets
    for name in targets:
        model.get_parameter(name).requires_grad_(True)
    reading = model.read(batch())[0]
    if reading.states is not None:
        assert reading.states.requires_grad  # by the online decoder
    aimed = model.targets([reading])[0]
    assert not aimed.requires_grad
    assert not model.contrast.key(aimed).requires_grad
    stepped(model, batch())
    found = grads(model)
    assert found.keys() == expected
    assert [name for name, value in found.items() if not value.any()] == []
    assert all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.parametrize("position", ["visible", "hard"])
def test_the_position_alone_teaches_the_encoder(position: str) -> None:
    model = moved(method(con_site="none", position=position))
    for reading in model.read(batch()):
        model.zero_grad()
        model.position_loss(reading).backward()  # type: ignore[no-untyped-call]
        reached = {name for name, value in grads(model).items() if value.any()}
        assert {"encoder.cls_token", "encoder.blocks.0.attn.qkv.weight"} < reached
        assert not [name for name in reached if name.startswith("pixel_decoder")]


@pytest.mark.parametrize("site", SITES)
def test_the_contrast_alone_teaches_the_encoder(site: str) -> None:
    model = method(con_site=site, position="none")
    readings = model.read(batch())
    joint = model.joint_loss(model.features(readings), model.targets(readings))
    joint.loss.backward()
    gradient = model.encoder.get_parameter("blocks.0.attn.qkv.weight").grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


def test_targets_follow_in_closed_form_along_a_cosine() -> None:
    model = method(momentum=0.9, momentum_end=1.0)
    start = model.target_encoder.cls_token.clone()
    with torch.no_grad():
        model.encoder.cls_token += 1
    model.after_step(0.0)
    torch.testing.assert_close(model.target_encoder.cls_token, start + 0.1)
    model.after_step(0.5)  # momentum 0.95
    torch.testing.assert_close(model.target_encoder.cls_token, start + (1 - 0.9 * 0.95))
    before = model.target_encoder.cls_token.clone()
    model.after_step(1.0)
    assert torch.equal(model.target_encoder.cls_token, before)


def test_only_the_branch_of_sdmae_has_a_target() -> None:
    model = method(con_site="sdmae_branch", momentum=0.999, momentum_end=0.999)
    targets = {name.split(".")[1] for name, _ in model.named_parameters() if "target_" in name}
    assert targets == {"target_projector"}
    weight = model.contrast.target_projector.get_parameter("embed.weight")
    start = weight.clone()
    with torch.no_grad():
        model.contrast.projector.get_parameter("embed.weight").add_(1)
    for progress in (0.1, 0.9):
        model.after_step(progress)
    torch.testing.assert_close(weight, start + (1 - 0.999**2))


# The rest


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_patch_projection_gets_no_gradient(frozen: bool) -> None:
    model = method(freeze_patch_embed=frozen)
    stepped(model, batch())
    reached = [name for name in grads(model) if name.startswith("encoder.patch_embed")]
    assert reached == (
        [] if frozen else [f"encoder.patch_embed.proj.{n}" for n in ("weight", "bias")]
    )


def test_gauges_tell_about_what_is_trained() -> None:
    everything, bare = method(), method(**BARE)
    for model in (everything, bare):
        model(batch())
    names = everything.gauges().keys()
    assert {"positive_cosine", "negative_cosine", "contrast_top1", "feature_std"} < names
    assert float(everything.gauges()["position_chance"]) == pytest.approx(1 / 24)
    assert bare.gauges() == {}
    bare.after_step(0.5)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"view_mode": "single"}, "needs two views"),
        ({"con_site": "sdmae_branch", "key_input": "full"}, "set key_input to masked"),
        ({"position": "hrad"}, "'visible', 'hard' or 'none'"),
        ({"temprature": 0.1}, "did you mean `temperature`"),
        ({"mask_ratio": 1.0}, "less than 1"),
    ],
)
def test_mistakes_in_the_configuration_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(CMAEMaoConfig, values, "pretrain.method")
    assert text in str(caught.value)


def ramps(count: int) -> Tensor:
    """Images of one colour each, brighter to one side and to the bottom: places can be told."""
    generator = torch.Generator().manual_seed(2)
    rows, cols = torch.linspace(-1, 1, SIZE[0])[:, None], torch.linspace(-1, 1, SIZE[1])
    shape = (count, 3, 1, 1)
    colour, across = torch.randn(shape, generator=generator), torch.rand(shape, generator=generator)
    return colour + rows + (0.5 + across) * cols


@pytest.mark.parametrize(
    "settings",
    [{}, {"con_site": "sdmae_branch", "temperature": 1.0}, {"position": "hard"}],
    ids=["encoder_cls", "sdmae_branch", "hard"],
)
def test_it_learns_and_does_not_collapse(settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    count, steps = 16, 60
    images = ramps(count)
    given = {"key": image_keys(0, 0, torch.arange(count)), "view": images}
    model = method(norm_pix_loss=False, **settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3, betas=(0.9, 0.95))
    history = []
    for step in range(steps):
        given["key"] = image_keys(0, step, torch.arange(count))
        given["target_view"] = images + 0.1 * torch.randn_like(images)
        optimizer.zero_grad()
        history.append(stepped(model, given).terms)
        optimizer.step()
        model.after_step(step / steps)
    first, last = history[0], history[-1]
    assert float(last["recon_loss"]) < 0.5 * float(first["recon_loss"])
    assert float(last["position_loss"]) < 0.8 * float(first["position_loss"])
    assert float(last["contrast_loss"]) < 0.9 * float(first["contrast_loss"])
    gauges = model.gauges()
    assert float(gauges["feature_std"]) > 0.2
    assert float(gauges["contrast_top1"]) > 0.3
    assert float(gauges["position_accuracy"]) > 3 * float(gauges["position_chance"])
