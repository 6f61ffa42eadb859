"""A decoder comes back from its folder as it was, or with a sentence about why not."""

from pathlib import Path

import pytest
import torch

from contramask.masking import random_mask
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder
from contramask.models.pixel_decoder import PixelDecoder


def encoder_of(width: int) -> VisionEncoder:
    config = EncoderConfig(patch_size=4, embed_dim=width, depth=1, num_heads=2)
    return build_encoder(config, (16, 16), 3)


def pixels_of(encoder: VisionEncoder) -> PixelDecoder:
    torch.manual_seed(0)
    sizes = DecoderConfig(embed_dim=24, depth=2, num_heads=4)
    return PixelDecoder(TokenDecoder(encoder.embed_dim, 48, (4, 4), sizes), 0.6, True)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    encoder = encoder_of(32)
    pixels = pixels_of(encoder)
    pixels.write(tmp_path)
    read = PixelDecoder.read(tmp_path, encoder)
    assert (read.mask_ratio, read.norm_pix_loss) == (0.6, True)
    mask = random_mask(torch.rand(2, 16), 0.6)
    tokens = torch.randn(2, 1 + mask.ids_keep.shape[1], 32)
    with torch.inference_mode():
        expected = pixels.decoder.predict_all(tokens, mask)
        torch.testing.assert_close(read.decoder.predict_all(tokens, mask), expected)


def test_another_encoders_decoder_is_refused(tmp_path: Path) -> None:
    pixels_of(encoder_of(32)).write(tmp_path)
    with pytest.raises(ValueError, match="its pixel decoder cannot be read"):
        PixelDecoder.read(tmp_path, encoder_of(64))


@pytest.mark.parametrize("name", ["decoder.json", "decoder.safetensors"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    encoder = encoder_of(32)
    pixels_of(encoder).write(tmp_path)
    (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match="its pixel decoder cannot be read"):
        PixelDecoder.read(tmp_path, encoder)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="holds no pixel decoder"):
        PixelDecoder.read(tmp_path, encoder)
