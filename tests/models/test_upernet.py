"""Segmentation heads: shapes, what they depend on, and that they can learn."""

import pytest
import torch

from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.upernet import (
    FCNHead,
    LinearSegmentationHead,
    PyramidPooling,
    UPerHead,
    UPerNet,
    UPerNetConfig,
)

CONFIG = EncoderConfig(patch_size=4, embed_dim=16, depth=4, num_heads=2)


def build(image_size: tuple[int, int], config: UPerNetConfig | None = None) -> UPerNet:
    torch.manual_seed(0)
    config = config or UPerNetConfig(channels=8, aux_channels=8)
    return UPerNet(build_encoder(CONFIG, image_size, 3), 5, config)


@pytest.mark.parametrize("image_size", [(32, 32), (16, 40), (20, 12)])
def test_scores_have_four_times_the_grid(image_size: tuple[int, int]) -> None:
    net = build(image_size)
    logits, aux = net(torch.randn(2, 3, *image_size))
    assert logits.shape == (2, 5, *image_size)  # patches of 4 px, enlarged four times
    assert aux.shape == (2, 5, image_size[0] // 4, image_size[1] // 4)


def test_every_parameter_takes_part() -> None:
    net = build((16, 16))
    net.encoder.norm.requires_grad_(False)  # taps come before the final norm
    net.encoder.requires_grad_(True).norm.requires_grad_(False)
    net.encoder.pos_embed.requires_grad_(False)
    logits, aux = net(torch.randn(3, 3, 16, 16))
    (logits.square().mean() + aux.square().mean()).backward()
    idle = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []


def test_taps_default_to_evenly_spaced_blocks() -> None:
    assert build((16, 16)).taps == (0, 1, 2, 3)
    config = UPerNetConfig(taps=(1, 1, 2, 3), channels=8, aux_channels=8)
    assert build((16, 16), config).taps == (1, 1, 2, 3)


def test_pyramid_pooling_sees_the_whole_map() -> None:
    torch.manual_seed(0)
    pooling = PyramidPooling(4, 8).eval()
    features = torch.randn(1, 4, 12, 12)
    changed = features.clone()
    changed[..., 11, 11] += 50
    # the corner farthest away changes: through the average of all cells
    assert not torch.allclose(pooling(features)[..., 0, 0], pooling(changed)[..., 0, 0])


def test_finer_levels_take_what_coarser_ones_know() -> None:
    torch.manual_seed(0)
    head = UPerHead(4, 8, 3).eval()
    levels = [torch.randn(1, 4, s, s) for s in (16, 8, 4, 2)]
    changed = [*levels[:3], levels[3] + 10]
    assert head(levels).shape == (1, 3, 16, 16)
    assert not torch.allclose(head(levels), head(changed))


def test_linear_head_is_batch_norm_and_a_1x1_convolution() -> None:
    torch.manual_seed(0)
    head = LinearSegmentationHead(6, 3).train()
    features = 5 + 3 * torch.randn(4, 6, 5, 7)
    scores = head(features)
    plain = (features - features.mean((0, 2, 3), keepdim=True)) / features.std(
        (0, 2, 3), keepdim=True, unbiased=False
    )
    weight = head.classify.weight[:, :, 0, 0]
    assert torch.allclose(scores, torch.einsum("bdhw,kd->bkhw", plain, weight), atol=1e-4)
    assert sum(p.numel() for p in head.parameters()) == 2 * 6 + 6 * 3 + 3


def test_heads_learn_a_fixed_target() -> None:
    torch.manual_seed(0)
    head = FCNHead(6, 16, 4, dropout=0.0)
    features, target = torch.randn(4, 6, 4, 4), torch.randint(0, 4, (4, 4, 4))
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.cross_entropy(head(features), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
