"""The error map: high where a patch cannot be guessed, and the same for an image and its mirror."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from contramask.boxes.reconstruction import content_keys, hidden_errors, reconstruction_errors
from contramask.draws import image_keys
from contramask.masking import PatchMask
from contramask.methods.mae import MAE, MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.pixel_decoder import PixelDecoder

LENGTH = 64


def test_errors_count_only_where_a_patch_was_hidden() -> None:
    hard = torch.zeros(2, LENGTH)
    hard[0, 10:14] = 1
    hard[1, 40:45] = 2
    target = hard[..., None].expand(-1, -1, 3)

    def predict(view: Tensor, mask: PatchMask) -> Tensor:
        nonsense = 1e6 * (~mask.mask)[..., None]  # what is said of visible patches is no error
        return torch.zeros(2, LENGTH, 3) + nonsense

    keys = image_keys(0, 0, torch.arange(2))
    errors = hidden_errors(predict, torch.zeros(2, 3, 8, 8), target, keys, 0.9)
    torch.testing.assert_close(errors, hard**2)


def test_a_patch_never_hidden_has_the_mean_error() -> None:
    target = torch.ones(1, LENGTH, 1)

    def predict(view: Tensor, mask: PatchMask) -> Tensor:
        return torch.zeros(1, LENGTH, 1)

    keys = image_keys(0, 0, torch.arange(1))
    errors = hidden_errors(predict, torch.zeros(1, 1, 8, 8), target, keys, 0.02)
    torch.testing.assert_close(errors, torch.ones(1, LENGTH))


def test_a_trained_autoencoder_errs_on_what_stands_out() -> None:
    torch.manual_seed(0)
    encoder = build_encoder(
        EncoderConfig(patch_size=4, embed_dim=32, depth=1, num_heads=2), (32, 32), 1
    )
    sizes = DecoderConfig(embed_dim=32, depth=1, num_heads=2)
    mae = MAE(encoder, MAEConfig(norm_pix_loss=False, decoder=sizes))
    optimizer = torch.optim.AdamW(mae.parameters(), 3e-3)
    plain = torch.linspace(-1, 1, 32).expand(16, 1, 32, 32)
    for step in range(60):
        keys = image_keys(0, step, torch.arange(16))
        loss = mae({"view": plain + 0.02 * torch.randn(16, 1, 32, 32), "key": keys}).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    odd = plain[:2].clone()
    odd[:, :, 8:16, 16:24] = 3.0
    pixels = PixelDecoder(mae.pixel_decoder, 0.75, False)
    with torch.inference_mode():
        errors = reconstruction_errors(encoder.eval(), pixels, odd, torch.arange(2))
    grid = errors.reshape(2, 8, 8)
    assert grid[:, 2:4, 4:6].mean() > 5 * grid.median()


def test_keys_follow_the_content_not_the_place_in_the_batch() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    keys = content_keys(images)
    assert len(set(keys.tolist())) == 4
    assert torch.equal(content_keys(images.flip(2)), keys)
    assert torch.equal(content_keys(images[2:3]), keys[2:3])


def test_no_decoder_no_map(tmp_path: Path) -> None:
    encoder = build_encoder(
        EncoderConfig(patch_size=4, embed_dim=32, depth=1, num_heads=2), (8, 8), 1
    )
    with pytest.raises(ValueError, match="an encoder alone cannot reconstruct"):
        PixelDecoder.read(tmp_path, encoder)
