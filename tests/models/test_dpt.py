"""DPT on our encoders: the library's own network with equal weights, sizes, learning, refusals."""

import importlib.util
from typing import Any

import pytest
import torch

from contramask.models import dpt
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.dpt import DPT, DPTConfig, check_fits, check_installed
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder

needs_library = pytest.mark.skipif(
    importlib.util.find_spec(dpt.PACKAGE) is None,
    reason="segmentation-models-pytorch is not installed (uv sync --extra dpt)",
)
#: The library cannot be told another depth than that of the network it names.
TWELVE = EncoderConfig(patch_size=16, embed_dim=48, depth=12, num_heads=3)
SMALL = EncoderConfig(patch_size=8, embed_dim=32, depth=4, num_heads=2)
SIZE, TAPS = (64, 96), (3, 5, 7, 11)
VIT: dict[str, Any] = {"encoder_name": "tu-vit_tiny_patch16_224"}
BEIT: dict[str, Any] = {
    "encoder_name": "tu-beit_base_patch16_224",
    "use_rel_pos_bias": False,
    "use_shared_rel_pos_bias": True,
    "init_values": 0.1,
}


def beit() -> Encoder:
    return build_beit(TWELVE, BeitConfig(), SIZE, 3)


@needs_library
@pytest.mark.parametrize(("kind", "named"), [("vit", VIT), ("beit", BEIT)])
def test_with_equal_weights_the_librarys_own_dpt_gives_equal_scores(
    kind: str, named: dict[str, Any]
) -> None:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    encoder = beit() if kind == "beit" else build_encoder(TWELVE, SIZE, 3)
    for value in encoder.parameters():  # no bias is 0, no table is empty
        value.data += 0.05 * torch.randn_like(value)
    ours = DPT(encoder, 5, DPTConfig(taps=TAPS, channels=16, level_channels=(16, 24, 32, 40)))
    theirs = smp.DPT(
        **named,
        encoder_weights=None,
        encoder_output_indices=list(TAPS),
        decoder_intermediate_channels=(16, 24, 32, 40),
        decoder_fusion_channels=16,
        classes=5,
        img_size=SIZE,
        embed_dim=48,
        num_heads=3,
        num_classes=0,
        global_pool="",
    )
    theirs.encoder.model.load_state_dict(encoder.state_dict(), strict=True)
    theirs.decoder.load_state_dict(ours.decoder.state_dict(), strict=True)
    theirs.segmentation_head.load_state_dict(ours.head.state_dict(), strict=True)
    images = torch.randn(2, 3, *SIZE)
    with torch.no_grad():
        maps, classes = theirs.eval().encoder(images)
        own = ours.eval().encoder.forward_intermediates(
            images, indices=list(TAPS), return_prefix_tokens=True, intermediates_only=True
        )
        for (own_map, own_class), their_map, their_class in zip(own, maps, classes, strict=True):
            assert torch.equal(own_map, their_map)
            assert torch.equal(own_class, their_class)
        assert torch.equal(ours(images), theirs(images))


@needs_library
@pytest.mark.parametrize("patch_size", [2, 4, 8, 16, 32])
@pytest.mark.parametrize("readout", ["cat", "add", "ignore"])
def test_scores_are_as_large_as_the_image(patch_size: int, readout: str) -> None:
    config = EncoderConfig(patch_size=patch_size, embed_dim=16, depth=2, num_heads=2)
    net = DPT(
        build_encoder(config, (32, 64), 5),
        3,
        DPTConfig(readout=readout, channels=8, level_channels=(8, 8, 8, 8)),  # type: ignore[arg-type]
    )
    assert net.taps == (0, 0, 1, 1)  # fewer blocks than levels
    assert net(torch.randn(2, 5, 32, 64)).shape == (2, 3, 32, 64)


@needs_library
def test_every_parameter_takes_part_and_it_learns() -> None:
    torch.manual_seed(0)
    net = DPT(build_encoder(SMALL, (32, 32), 3), 2, DPTConfig(channels=16))
    net.encoder.norm.requires_grad_(False)  # taps come before the final norm
    images = torch.randn(8, 3, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    truth = (images.mean(dim=1) > 0).long()
    trained = [p for p in net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, 3e-3)
    losses = []
    for _ in range(30):
        loss = torch.nn.functional.cross_entropy(net(images), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    idle = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert losses[-1] < 0.7 * losses[0]


def test_what_cannot_fit_is_refused_with_what_to_do() -> None:
    check_fits(16, (64, 96), "segmentation.crop")
    with pytest.raises(ValueError, match="power of two, and this encoder's have 14 px"):
        check_fits(14, (224, 224), "segmentation.crop")
    with pytest.raises(
        ValueError, match=r"segmentation\.upscale: .* multiples of 32 px, given 48x64"
    ):
        check_fits(16, (48, 64), "segmentation.upscale")


def test_a_missing_package_is_named_with_its_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpt.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]
    assert check_installed(("linear", "upernet")) == ("linear", "upernet")
    with pytest.raises(ValueError, match=r"uv sync --extra dpt"):
        check_installed(("linear", "dpt"))
