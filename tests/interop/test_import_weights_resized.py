"""From the state of an official training to a backbone for larger images."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import Tensor
from torch.nn import functional as F

from contramask.interop.import_weights import ImportOptions, import_weights
from contramask.methods import build_method
from contramask.methods.base import Method
from contramask.methods.cmae import CMAEConfig
from contramask.methods.conmim import ConMIMConfig
from contramask.methods.mae import MAEConfig
from contramask.models.beit import build_beit
from contramask.models.bundle import EncoderBundle
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder

SIZES = EncoderConfig(patch_size=16, embed_dim=64, depth=2, num_heads=1)
SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
#: What of a training state the backbone does without, by the first part of its names.
PLANNED = {
    "mae": {
        *("decoder_blocks", "decoder_embed", "decoder_norm", "decoder_pos_embed", "decoder_pred"),
        "mask_token",
    },
    "cmae": {
        *("feature_decoder", "head", "pixel_decoder", "projector"),
        *("target_backbone", "target_projector"),
    },
    "conmim": {"mask_token", "projectors"},
}


def trained(kind: str) -> Method:
    """A method for images of 224 px, every weight moved."""
    torch.manual_seed(3)
    encoder: Encoder = build_encoder(SIZES, (224, 224), 3)
    if kind == "conmim":
        config = ConMIMConfig(head_hidden_dim=12, head_out_dim=6)
        method = build_method(config, build_beit(SIZES, config.beit, (224, 224), 3))
    elif kind == "cmae":
        heads = {"head_hidden_dim": 12, "head_out_dim": 6}
        method = build_method(CMAEConfig(decoder=SMALL, feature_decoder=SMALL, **heads), encoder)
    else:
        method = build_method(MAEConfig(decoder=SMALL), encoder)
    for parameter in method.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return method


@pytest.fixture(params=["mae", "cmae", "conmim"])
def imported(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    official_names: dict[str, Callable[[str], str]],
) -> tuple[str, Method, EncoderBundle, int]:
    """A method, the method's name, the encoder read from its state, and that state's length."""
    kind = request.param
    method = trained(kind)
    state = {official_names[kind](name): value for name, value in method.state_dict().items()}
    if kind == "conmim":  # whose file is of one network
        state = {n.removeprefix("online."): v for n, v in state.items() if n[:7] == "online."}
    around = {"optimizer": {"state": {0: {"step": torch.ones(1)}}}, "epoch": 1599}
    torch.save({"model": state, **around}, tmp_path / "checkpoint.pth")
    bundle = import_weights(tmp_path / "checkpoint.pth", "mine", ImportOptions(kind=kind))
    return kind, method, bundle, len(state)


def tokens(encoder: Encoder, side: int) -> Tensor:
    images = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return encoder.eval().forward_tokens(images)


def test_no_key_of_a_training_state_is_unplanned(
    imported: tuple[str, Method, EncoderBundle, int],
) -> None:
    kind, method, bundle, length = imported
    left_out = bundle.manifest["imported"]["left_out"]
    assert set(left_out) == PLANNED[kind]
    assert sum(left_out.values()) + len(bundle.encoder.state_dict()) == length
    ours = dict(method.named_children())["online_encoder" if kind == "conmim" else "encoder"]
    assert torch.equal(tokens(bundle.encoder, 224), tokens(ours, 224))  # type: ignore[arg-type]


def test_an_imported_backbone_reads_images_of_512_px(
    imported: tuple[str, Method, EncoderBundle, int],
) -> None:
    kind, _, bundle, _ = imported
    before, larger = bundle.encoder.state_dict(), bundle.encoder.resized((512, 512))
    after = larger.state_dict()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    if kind == "conmim":
        table = "rel_pos_bias.relative_position_bias_table"
        assert moved == {table}
        expected = resize_rel_pos_bias_table(before[table], (32, 32), after[table].shape)
        torch.testing.assert_close(after[table], expected)
        assert torch.equal(after[table][-3:], before[table][-3:])  # those of the class token
    else:
        assert moved == {"pos_embed"}
        grid = before["pos_embed"][:, 1:].reshape(1, 14, 14, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (32, 32), mode="bicubic", antialias=True)
        torch.testing.assert_close(after["pos_embed"][:, 1:], grid.flatten(2).transpose(1, 2))
        assert torch.equal(after["pos_embed"][:, :1], before["pos_embed"][:, :1])
    found = tokens(larger, 512)
    assert found.shape == (1, 1 + 32 * 32, 64)
    assert bool(found.isfinite().all())
