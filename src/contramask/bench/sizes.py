"""What is benchmarked: one method at one size, the same for us and for every peer."""

from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from contramask.methods import Config, MethodConfig
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.models.encoder import ARCHITECTURES, EncoderConfig
from contramask.typed import STRICT, parse

Arch = Literal["vit_nano", "vit_tiny", "vit_small", "vit_base", "vit_large", "vit_huge"]
PeerName = Literal["hf", "lightly", "timm"]

#: Decoder width and depth by encoder; MAE's own 512 x 8 would cost a small encoder several times
#: its own work. Heads are 32 wide, as MAE's.
_DECODERS = {"vit_nano": (96, 2), "vit_tiny": (192, 4), "vit_small": (256, 4)}
_LARGE_DECODER = (512, 8)
_HEAD_WIDTH = 32


@dataclass(frozen=True, config=STRICT)
class BenchConfig:
    """One benchmark; the defaults are the size at which a processor is measured."""

    method: Literal["mae", "cmae", "cmae_mao", "conmim", "supmim"] = "mae"
    arch: Arch = "vit_tiny"
    patch_size: int = Field(default=8, ge=2, le=64)
    image_size: int = Field(default=64, ge=8, le=1024)  # side of the views in px
    batch_size: int = Field(default=128, ge=2)
    peers: tuple[PeerName, ...] = ()
    rounds: int = Field(default=7, ge=1)  # timed turns of every variant
    device: Literal["auto", "cpu", "cuda"] = "auto"
    compile: bool = False  # also time our step, and the peers at their best, under torch.compile

    @model_validator(mode="after")
    def _fits(self) -> "BenchConfig":
        if self.image_size % self.patch_size:
            raise ValueError(
                f"images of {self.image_size} px cannot be cut into patches of {self.patch_size} "
                "px; choose --image-size as a multiple of --patch-size"
            )
        if self.peers and self.method not in ("mae", "cmae"):
            raise ValueError(
                f"no peer has an equivalent of {self.method}; leave --peers out, or choose "
                "--method mae or cmae"
            )
        return self

    @property
    def encoder(self) -> EncoderConfig:
        """The encoder all variants train."""
        return EncoderConfig(arch=self.arch, patch_size=self.patch_size)

    @property
    def decoder(self) -> tuple[int, int, int]:
        """Width, depth and heads of the pixel decoder."""
        width, depth = _DECODERS.get(self.arch, _LARGE_DECODER)
        return width, depth, width // _HEAD_WIDTH

    @property
    def num_patches(self) -> int:
        """Patches of one view."""
        return (self.image_size // self.patch_size) ** 2

    def method_config(self) -> Config:
        """The method's settings: its defaults, with decoders that fit the encoder."""
        width, depth, heads = self.decoder
        decoder = {"embed_dim": width, "depth": depth, "num_heads": heads}
        shallow = {**decoder, "depth": 2}
        given: dict[str, dict[str, Any]] = {
            "mae": {"decoder": decoder},
            "cmae": {"decoder": decoder, "feature_decoder": shallow},
            "cmae_mao": {"decoder": {**decoder, "depth": 1}},
            "conmim": {},
            "supmim": {"decoder": shallow, "target": {"name": "pixels"}},
        }
        values = {"method": {"name": self.method, **given[self.method]}}
        return parse(_Holder, values, "bench").method

    def peer_mask_ratio(self) -> float:
        """The share peers hide: as many single patches as our mask hides, in cells or not."""
        config = self.method_config()
        if not isinstance(config, MAEConfig | CMAEConfig):
            raise ValueError(f"no peer has an equivalent of {self.method}")
        cell = config.mask_block**2 if isinstance(config, CMAEConfig) else 1
        visible = int(self.num_patches // cell * (1 - config.mask_ratio)) * cell
        return 1 - (visible + 0.5) / self.num_patches  # half a patch: safe from rounding down

    @property
    def widths(self) -> tuple[int, int, int]:
        """The encoder's embed_dim, depth and heads."""
        return ARCHITECTURES[self.arch]


@dataclass(frozen=True, config=STRICT)
class _Holder:
    method: MethodConfig
