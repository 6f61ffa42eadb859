"""ConMIM: its masks, its loss, what gradients reach, the moving average, and that it learns."""

import copy
import math
from typing import Any

import pytest
import torch
from timm.models.beit import Beit
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.draws import image_keys, uniform
from contramask.ema import cosine_momentum
from contramask.masking import take_tokens
from contramask.methods.base import MASK_STREAM
from contramask.methods.conmim import ConMIM, ConMIMConfig, patch_gauges, patch_info_nce
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.encoder import EncoderConfig

Size = tuple[int, int]
SMALL: dict[str, Any] = {"head_hidden_dim": 24, "head_out_dim": 8}


def tiny(size: Size = (16, 24), channels: int = 3, move: float = 0.1, **settings: Any) -> ConMIM:
    """A small ConMIM from a fixed seed with every weight moved, each branch its own way."""
    torch.manual_seed(0)
    config = ConMIMConfig(**(SMALL | settings))
    shape = EncoderConfig(patch_size=4, embed_dim=16, depth=2, num_heads=2)
    method = ConMIM(build_beit(shape, config.beit, size, channels), config)
    for parameter in method.parameters():
        parameter.data += move * torch.randn_like(parameter)
    return method


def batch_of(size: Size = (16, 24), channels: int = 3, count: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "view": torch.randn(count, channels, *size, generator=generator),
        "target_view": torch.randn(count, channels, *size, generator=generator),
        "key": image_keys(0, 0, torch.arange(count)),
    }


def asked(method: ConMIM, batch: dict[str, Tensor]) -> Tensor:
    """Queries of all patches, (B, L, d)."""
    return method.queries(method.read(batch).tokens)


def answers(method: ConMIM, view: Tensor) -> Tensor:
    """Keys of all patches, (B, L, d)."""
    return method.keys(method.target_encoder.forward_tokens(view))


@pytest.mark.parametrize(
    ("side", "hidden", "patches"), [(14, 148, 196), (8, 48, 64), (16, 192, 256), (6, 28, 36)]
)
def test_three_quarters_of_the_cells_are_hidden_rounded_up(
    side: int, hidden: int, patches: int
) -> None:
    method = tiny((4 * side, 4 * side))
    mask = method.draw_mask(batch_of((4 * side, 4 * side), count=40)).mask
    assert mask.shape == (40, patches)
    assert mask.sum(dim=1).tolist() == [hidden] * 40
    cells = mask.reshape(40, side // 2, 2, side // 2, 2).float().mean(dim=(2, 4))
    assert set(cells.flatten().tolist()) == {0.0, 1.0}
    assert (cells.mean(dim=0) > 0).all()  # every cell has its turn


@pytest.mark.parametrize("ratio", [0.1, 0.3, 0.5, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("cols", [3, 5, 7, 10])
def test_the_count_is_the_released_codes_for_any_ratio(ratio: float, cols: int) -> None:
    expected = math.ceil(cols * ratio)
    if expected == cols:
        with pytest.raises(ValueError, match=rf"a mask ratio of {ratio} leaves 0 of {cols} cells"):
            tiny((8, 8 * cols), mask_ratio=ratio)
    else:
        method, batch = tiny((8, 8 * cols), mask_ratio=ratio), batch_of((8, 8 * cols), count=2)
        assert method.draw_mask(batch).mask.sum(dim=1).tolist() == [4 * expected] * 2


def test_masks_come_from_the_images_keys_or_from_noise() -> None:
    method, batch = tiny(), batch_of()
    noise = uniform(batch["key"], MASK_STREAM, 6)
    drawn = method.draw_mask(batch).mask
    assert torch.equal(drawn, method.draw_mask({**batch, "noise": noise}).mask)
    ordered = method.draw_mask({**batch, "noise": torch.arange(6.0).expand(5, -1)})
    assert ordered.ids_keep[0].tolist() == [0, 1, 6, 7]


def test_a_grid_that_cells_do_not_cover_is_refused_before_anything_is_read() -> None:
    with pytest.raises(ValueError, match="grid of 4x5 patches cannot be covered by cells of 2x2"):
        tiny((16, 20))
    with pytest.raises(ValueError, match=r"8x8 px .* ratio of 0\.75 leaves 0 of 1 cells of 2x2"):
        tiny((8, 8))


def slow_loss(query: Tensor, key: Tensor, hidden: list[list[int]], temperature: float) -> float:
    """The loss written out; queries and keys (B, L, d) of all patches."""
    total, count = 0.0, 0
    for image, places in enumerate(hidden):
        for j in places:
            scores = [
                float(F.cosine_similarity(query[image, j], k, dim=0)) / temperature
                for k in key[image]
            ]
            total += math.log(sum(math.exp(s) for s in scores)) - scores[j]
            count += 1
    return total / count


def test_the_loss_is_the_written_out_one() -> None:
    """Hidden patches ask, all patches answer, and the right answer is the place in the image."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(3, 10, 6, generator=generator) for _ in range(2))
    hidden = torch.tensor([[7, 2, 9], [0, 1, 2], [5, 8, 4]])
    loss = patch_info_nce(take_tokens(query, hidden), key, hidden, 0.1)
    assert float(loss) == pytest.approx(slow_loss(query, key, hidden.tolist(), 0.1), rel=1e-5)


def test_the_methods_loss_is_that_of_its_branches() -> None:
    method, batch = tiny(), batch_of()
    output = method(batch)
    mask = method.draw_mask(batch)
    query, key = asked(method, batch), answers(method, batch["target_view"])
    assert query.shape == key.shape == (5, 24, 8)
    expected = slow_loss(query.detach(), key, mask.ids_hide.tolist(), 0.1)
    assert float(output.loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(output.terms["contrast_loss"]) == pytest.approx(expected, rel=1e-5)


def test_projectors_read_class_tokens_too() -> None:
    """They count in the statistics of the batch norms, as in the released code."""
    method, batch = tiny(), batch_of()
    mask = method.draw_mask(batch)
    seen = method.online_encoder.forward_masked(batch["view"], mask.mask, method.mask_token)
    aimed = method.target_encoder.forward_tokens(batch["target_view"])
    query, key = asked(method, batch), answers(method, batch["target_view"])
    torch.testing.assert_close(query, method.projector(seen)[:, 1:])
    torch.testing.assert_close(key, method.target_projector(aimed)[:, 1:])
    # The batch norms would standardise otherwise without them.
    assert not torch.allclose(query, method.projector(seen[:, 1:]), atol=1e-3)
    assert not torch.allclose(key, method.target_projector(aimed[:, 1:]), atol=1e-3)


def test_random_features_start_slightly_above_the_loss_of_a_collapse() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(8, 196, 256, generator=generator) for _ in range(2))
    places = torch.arange(196).expand(8, -1)
    assert 5.3 < float(patch_info_nce(query, key, places, 0.1)) < 5.6
    same = torch.ones(8, 196, 256)
    assert float(patch_info_nce(query, same, places, 0.1)) == pytest.approx(math.log(196))


def test_no_gradient_reaches_the_target_and_every_online_parameter_gets_one() -> None:
    method = tiny()
    method(batch_of()).loss.backward()
    for name, parameter in method.named_parameters():
        if name.startswith("target_"):
            assert not parameter.requires_grad, name
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name


def test_keys_pass_no_gradient_even_to_a_target_that_would_take_it() -> None:
    frozen, free = tiny(), tiny()
    free.target_encoder.requires_grad_(True)
    free.target_projector.requires_grad_(True)
    for method in (frozen, free):
        method(batch_of()).loss.backward()
    assert all(p.grad is None for p in free.target_encoder.parameters())
    for one, two in zip(frozen.parameters(), free.parameters(), strict=True):
        assert one.grad is None or torch.equal(one.grad, two.grad)
    key = torch.randn(2, 4, 3, requires_grad=True)
    query, places = torch.randn(2, 4, 3, requires_grad=True), torch.arange(4).expand(2, -1)
    patch_info_nce(query, key, places, 0.1).backward()
    assert key.grad is None


def test_an_image_is_alone_with_its_own_patches() -> None:
    """With the batch norms' statistics fixed, other images change nothing."""
    method, batch = tiny(), batch_of()
    method(batch)
    method.eval()
    one = {name: value[:1] for name, value in batch.items()}
    other = {name: value[1:2] for name, value in batch.items()}
    pair = {name: torch.cat([one[name], other[name]]) for name in batch}
    losses = [float(method(each).loss.detach()) for each in (one, other, pair)]
    assert losses[2] == pytest.approx((losses[0] + losses[1]) / 2, rel=1e-5)


def test_what_is_under_the_mask_is_hidden_from_the_online_branch_only() -> None:
    method, batch = tiny(), batch_of()
    mask = method.draw_mask(batch)
    pixels = mask.mask.reshape(5, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3)
    view = torch.where(pixels, torch.randn_like(batch["view"]), batch["view"])
    assert torch.equal(asked(method, {**batch, "view": view}), asked(method, batch))
    assert not torch.allclose(answers(method, view), answers(method, batch["view"]))


def test_equal_branches_find_every_patch_that_they_see() -> None:
    torch.manual_seed(0)
    method = tiny((32, 32), move=0, beit=BeitConfig(layer_scale=1.0), head_hidden_dim=128)
    view = torch.randn(4, 3, 32, 32)
    everything = torch.zeros(4, 64, dtype=torch.bool)
    tokens = method.online_encoder.forward_masked(view, everything, method.mask_token)
    query, key = method.queries(tokens), answers(method, view)
    gauges = patch_gauges(query, key, torch.arange(64).expand(4, -1), 0.1)
    assert float(gauges["match_top1"]) > 0.99
    assert float(gauges["match_top1_other"]) < 0.05
    assert float(gauges["content_gain"]) > 1


def test_the_probe_tells_content_from_places() -> None:
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(6, 32, 64, generator=generator)
    places = content[:1].expand(6, -1, -1)  # the same in every image: known without looking
    hidden = torch.stack([torch.randperm(32, generator=generator)[:20] for _ in range(6)])
    look = patch_gauges(take_tokens(content, hidden), content, hidden, 0.1)
    leak = patch_gauges(take_tokens(places, hidden), places, hidden, 0.1)
    assert float(look["content_gain"]) > 3
    assert float(look["shortcut"]) < 0
    assert float(leak["content_gain"]) == pytest.approx(0, abs=1e-5)
    assert float(leak["shortcut"]) == pytest.approx(math.log(32), abs=0.05)
    assert float(leak["match_top1"]) == float(leak["match_top1_other"]) == 1
    assert float(look["feature_std"]) == pytest.approx(1, abs=0.05)
    assert float(look["key_cosine"]) == pytest.approx(0, abs=0.05)


def test_the_probe_tells_a_collapse() -> None:
    query, hidden = torch.randn(4, 6, 8), torch.arange(6).expand(4, -1)
    gauges = patch_gauges(query, torch.ones(4, 6, 8), hidden, 0.1)
    assert float(gauges["key_cosine"]) == pytest.approx(1)
    assert float(gauges["feature_std"]) == pytest.approx(0, abs=1e-6)
    assert float(gauges["content_gain"]) == pytest.approx(0, abs=1e-6)


def test_gauges_describe_the_latest_step() -> None:
    method, batch = tiny(), batch_of()
    output = method(batch)
    gauges = method.gauges()
    total = math.log(24) - gauges["shortcut"] - gauges["content_gain"]
    assert float(total) == pytest.approx(float(output.loss.detach()), rel=1e-5)
    assert float(gauges["target_distance"]) > 0
    assert all(value.isfinite() and not value.requires_grad for value in gauges.values())


@pytest.mark.parametrize(
    ("progress", "momentum"),
    [(0.0, 0.996), (0.25, 0.99659), (0.5, 0.998), (0.75, 0.99941), (1.0, 1.0)],
)
def test_momentum_rises_to_one(progress: float, momentum: float) -> None:
    config = ConMIMConfig()
    found = cosine_momentum(config.momentum, config.momentum_end, progress)
    assert found == pytest.approx(momentum, abs=5e-6)
    method = tiny()
    name = "blocks.1.attn.qkv.weight"
    online = method.online_encoder.get_parameter(name).detach().clone()
    before = method.target_encoder.get_parameter(name).clone()
    method.after_step(progress)
    expected = found * before + (1 - found) * online
    torch.testing.assert_close(method.target_encoder.get_parameter(name), expected)


def test_the_target_starts_as_the_online_network_and_keeps_its_own_statistics() -> None:
    method = tiny(move=0)
    for online, target in [
        (method.online_encoder, method.target_encoder),
        (method.projector, method.target_projector),
    ]:
        theirs = target.state_dict()
        assert all(torch.equal(v, theirs[name]) for name, v in online.state_dict().items())
    method(batch_of())
    assert int(method.target_projector.bn0.num_batches_tracked) == 1  # batch statistics, as online
    before = method.target_projector.bn0.running_mean.clone()
    method.after_step(0.0)
    assert torch.equal(method.target_projector.bn0.running_mean, before)
    assert not torch.equal(method.projector.bn0.running_mean, before)


def test_it_draws_no_pictures() -> None:
    method = tiny()
    assert not method.draws_pictures
    with pytest.raises(ValueError, match="conmim, as it is configured, predicts no pixels"):
        method.reconstruct(batch_of())


def test_one_state_is_all_it_takes_to_go_on() -> None:
    """Online and target network, mask token and optimiser: the next steps are the same."""
    first, second = tiny(), tiny(move=0.3)

    def optimiser(method: ConMIM) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-2)

    def step(method: ConMIM, optimizer: torch.optim.Optimizer, progress: float) -> float:
        loss = method(batch_of()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(progress)
        return float(loss.detach())

    one, two = optimiser(first), optimiser(second)
    step(first, one, 0.2)
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # would share its tensors
    for progress in (0.4, 0.6):
        assert step(first, one, progress) == step(second, two, progress)
    state = second.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in first.state_dict().items())


def test_the_target_is_exported_unless_the_online_network_is_asked_for() -> None:
    method = tiny()
    assert (method.branch, method.encoder) == ("target", method.target_encoder)
    other = tiny(export="online")
    assert (other.branch, other.encoder) == ("online", other.online_encoder)
    model = Beit(
        img_size=(16, 24),
        patch_size=4,
        num_classes=0,
        global_pool="",
        embed_dim=16,
        depth=2,
        num_heads=2,
        init_values=0.1,
        use_abs_pos_emb=False,
        use_shared_rel_pos_bias=True,
    )
    model.load_state_dict(method.encoder.state_dict(), strict=True)
    images = batch_of()["view"]
    expected = method.encoder.forward_tokens(images)
    torch.testing.assert_close(model.forward_features(images), expected, atol=1e-5, rtol=1e-4)
    # The way to fine-tuning at a larger size: every block with its own copy, tables resampled.
    tuned = method.encoder.unshared().resized((24, 40))
    assert tuned.forward_tokens(torch.randn(1, 3, 24, 40)).shape == (1, 61, 16)
    assert all(p.requires_grad for p in tuned.parameters())


def test_absolute_positions_warn_unless_keys_are_centred(caplog: pytest.LogCaptureFixture) -> None:
    absolute = BeitConfig(absolute_positions=True)
    tiny()
    centred = tiny(beit=absolute, key_centering="per_position")
    assert not caplog.records
    tiny(beit=absolute)
    assert "without looking at the image" in caplog.text
    keys = answers(centred, batch_of()["target_view"])
    torch.testing.assert_close(keys.mean(dim=0), torch.zeros(24, 8), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("size", "channels"), [((16, 16), 1), ((8, 32), 5), ((16, 24), 3)])
def test_any_grid_and_any_channels_in_low_precision(size: Size, channels: int) -> None:
    method = tiny(size, channels)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch_of(size, channels)).loss
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()


def smooth_images() -> Tensor:
    """64 smooth random images (64, 3, 8, 8): what is hidden can be told from what is not."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(64, 3, 3, 3, generator=generator)
    return F.interpolate(coarse, size=(8, 8), mode="bicubic")


def trained(steps: int, absolute_positions: bool) -> dict[str, float]:
    """Gauges, averaged over the last 50 steps, of a training on 64 images of 4x4 patches."""
    torch.manual_seed(0)
    beit = BeitConfig(absolute_positions=absolute_positions)
    shape = EncoderConfig(patch_size=2, embed_dim=64, depth=2, num_heads=2)
    config = ConMIMConfig(
        mask_ratio=0.5, mask_block=1, beit=beit, head_hidden_dim=128, head_out_dim=16
    )
    method = ConMIM(build_beit(shape, beit, (8, 8), 3), config)
    online = [p for p in method.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(online, lr=2e-3, betas=(0.9, 0.98))
    images, generator = smooth_images(), torch.Generator().manual_seed(0)
    sums: dict[str, float] = {}
    for step in range(steps):
        index = torch.randint(64, (16,), generator=generator)
        views = {"view": images[index], "target_view": images[index]}
        output = method({**views, "key": image_keys(0, step, index)})
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        method.after_step((step + 1) / steps)
        if step >= steps - 50:
            for name, value in method.gauges().items():
                sums[name] = sums.get(name, 0) + float(value) / 50
    return sums


def test_it_learns_content() -> None:
    gauges = trained(220, absolute_positions=False)
    assert gauges["content_gain"] > 0.1
    assert gauges["shortcut"] < 0.05
    assert gauges["feature_std"] > 0.8


def test_absolute_positions_answer_instead_of_content() -> None:
    """The trap that the relative bias avoids, and that only the probe can see."""
    gauges = trained(60, absolute_positions=True)
    assert gauges["shortcut"] > 1
    assert gauges["content_gain"] < 0.1


def test_published_sizes_are_the_default() -> None:
    with torch.device("meta"):
        shape = EncoderConfig(arch="vit_base", patch_size=16)
        method = ConMIM(build_beit(shape, BeitConfig(), (224, 224), 3), ConMIMConfig())
    trained_parameters = sum(p.numel() for p in method.parameters() if p.requires_grad)
    assert round(trained_parameters / 1e6, 1) == round(85.69 + 21.0, 1)
    assert isinstance(method.projector.bn2, nn.BatchNorm1d)
    assert method.projector.fc1.out_features == 4096
    assert method.projector.fc2.out_features == 256
