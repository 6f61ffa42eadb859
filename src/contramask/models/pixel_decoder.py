"""A pre-training's pixel decoder, kept apart from the encoder it was trained with.

Transfer never reads it; a heat map of the reconstruction error does (`boxes.reconstruction`).
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.family import Encoder
from contramask.typed import parse

_WEIGHTS, _SIZES = "decoder.safetensors", "decoder.json"


@dataclass(frozen=True)
class PixelDecoder:
    """A decoder and what its training fixed: the share of hidden patches, and its target.

    Stored as `decoder.safetensors` and `decoder.json` in the encoder's folder.
    """

    decoder: TokenDecoder
    mask_ratio: float
    norm_pix_loss: bool

    def write(self, folder: Path) -> None:
        """Write both files into a folder, which is made where it does not exist."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {k: v.detach().cpu().contiguous() for k, v in self.decoder.state_dict().items()}
        save_file(state, folder / _WEIGHTS, metadata={"format": "pt"})
        (folder / _WEIGHTS).chmod(0o644)  # safetensors writes files only we can read
        block: Any = self.decoder.blocks[0]
        sizes = {
            "embed_dim": self.decoder.embed.out_features,
            "depth": len(self.decoder.blocks),
            "num_heads": block.attn.num_heads,
        }
        facts = {"sizes": sizes, "mask_ratio": self.mask_ratio, "norm_pix_loss": self.norm_pix_loss}
        text = json.dumps(facts, indent=2, sort_keys=True) + "\n"
        (folder / _SIZES).write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path, encoder: Encoder) -> "PixelDecoder":
        """Read the decoder that was trained with `encoder`.

        Raises `ValueError` when the folder holds none, as that of a method without a pixel decoder,
        or when files are damaged or belong to an encoder of other sizes.
        """
        if not (folder / _WEIGHTS).is_file() or not (folder / _SIZES).is_file():
            raise ValueError(
                f"{folder} holds no pixel decoder ({_WEIGHTS}, {_SIZES}): an encoder alone cannot "
                "reconstruct images"
            )
        try:
            facts = json.loads((folder / _SIZES).read_text(encoding="utf-8"))
            config = parse(DecoderConfig, facts["sizes"], f"{_SIZES}.sizes")
            pixels = encoder.patch_size**2 * encoder.in_chans
            ratio = encoder.config.mlp_ratio
            width, grid = encoder.embed_dim, encoder.grid_size
            decoder = TokenDecoder(width, pixels, grid, config, ratio)
            decoder.load_state_dict(load_file(folder / _WEIGHTS))
            return cls(decoder, float(facts["mask_ratio"]), bool(facts["norm_pix_loss"]))
        except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(f"{folder}: its pixel decoder cannot be read: {error}") from error
