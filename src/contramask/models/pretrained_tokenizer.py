"""Image tokens of models other people trained, read through the optional package transformers.

taming-transformers' VQGAN is `ChameleonVQVAE` there (its encoder has the same 144 tensors under the
same names); DALL-E's dVAE is `FlavaImageCodebook`. Nothing is downloaded: the weights must lie on
disk. Mind their licences and the images they were trained on.
"""

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.typed import STRICT

Family = Literal["chameleon", "flava"]


@dataclass(frozen=True, config=STRICT)
class PretrainedTargetConfig:
    """Tokens of a pretrained model: a folder in transformers' format, or a VQGAN checkpoint file.

    `chameleon`: stride 16, also taming-transformers' ImageNet f16 (`last.ckpt` or safetensors);
    `flava`: DALL-E's codebook, 8192 codes, stride 8.
    """

    path: Path
    name: Literal["pretrained"] = "pretrained"
    family: Family = "chameleon"
    smoothing: float = Field(default=0.1, ge=0, lt=1)


class PretrainedTokenizer(nn.Module):
    """Somebody else's frozen tokenizer behind the interface of `VQTokenizer.encode`."""

    def __init__(self, model: nn.Module, family: Family, patch_size: int) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.family, self.patch_size = family, patch_size
        self.stride = {"chameleon": 16, "flava": 8}[family]
        config: Any = model.config
        self.vocab_size = int(config.num_embeddings if family == "chameleon" else config.vocab_size)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Tokens (B, L) int64 of images (B, 3, H, W) in [0, 1]; in float32, resized to fit.

        Raises `ValueError` for other than three channels, and if the model gives another grid.
        """
        if images.shape[1] != 3:
            raise ValueError(
                f"{self.family} reads colour images, not {images.shape[1]} channels; set "
                "pretrain.method.target.name to vq"
            )
        rows, cols = images.shape[2] // self.patch_size, images.shape[3] // self.patch_size
        size = (rows * self.stride, cols * self.stride)
        with torch.autocast(images.device.type, enabled=False):
            pixels = images.float()
            if tuple(pixels.shape[2:]) != size:
                pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
            ids = _TOKENS[self.family](self.model, pixels).reshape(len(images), -1)
        if ids.shape[1] != rows * cols:
            raise ValueError(
                f"{self.family} gave {ids.shape[1]} tokens for a grid of {rows}x{cols} patches"
            )
        return ids

    def content_id(self) -> str:
        """16 hex digits over the weights."""
        digest = hashlib.sha256(self.family.encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
        return digest.hexdigest()[:16]


def load_pretrained(config: PretrainedTargetConfig, patch_size: int) -> PretrainedTokenizer:
    """Read a pretrained tokenizer from disk.

    Raises `ValueError` without the package transformers, or if the path holds no such weights.
    """
    try:
        import transformers
    except ImportError:
        raise ValueError(
            "pretrain.method.target.name is pretrained, which needs the package transformers; "
            "install it (`uv sync --extra transformers`), or set the name to vq"
        ) from None
    if not config.path.exists():
        raise ValueError(f"pretrain.method.target.path: {config.path} does not exist")
    if config.path.is_file():
        if config.family != "chameleon":
            raise ValueError(f"{config.family} is read from a folder; {config.path} is a file")
        return PretrainedTokenizer(_taming(config.path, transformers), "chameleon", patch_size)
    kind = {
        "chameleon": transformers.ChameleonVQVAE,
        "flava": transformers.FlavaImageCodebook,
    }[config.family]
    try:
        model = kind.from_pretrained(config.path, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config.path} holds no {config.family} model: {error}") from error
    return PretrainedTokenizer(model, config.family, patch_size)


def taming_config(transformers: Any, codes: int, dim: int = 256) -> Any:
    """The configuration under which ChameleonVQVAE is taming-transformers' ImageNet f16 VQGAN."""
    return transformers.ChameleonVQVAEConfig(
        resolution=256,
        attn_resolutions=[16],
        base_channels=128,
        channel_multiplier=[1, 1, 2, 2, 4],
        num_res_blocks=2,
        latent_channels=256,
        embed_dim=dim,
        num_embeddings=codes,
    )


def _taming(path: Path, transformers: Any) -> nn.Module:
    state = _weights(path)
    # The decoder draws pictures and the loss holds a discriminator; tokens need neither.
    state = {k: v for k, v in state.items() if not k.startswith(("decoder.", "loss."))}
    if "quantize.embedding.weight" not in state:
        raise ValueError(f"{path} holds no VQGAN: quantize.embedding.weight is missing")
    model: nn.Module = transformers.ChameleonVQVAE(
        taming_config(transformers, *state["quantize.embedding.weight"].shape)
    )
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{path} holds no VQGAN of the ImageNet f16 sizes: {error}") from None
    return model


def _weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a safetensors file or a checkpoint; `ValueError` for anything else."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, SafetensorError, RuntimeError, EOFError, KeyError) as error:
        # Lightning's checkpoints hold its callbacks, and torch names the first class it meets.
        foreign = re.search(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path} holds no weights that can be read: {error}") from None
        raise ValueError(
            f"{path} holds a {foreign[1]} beside its weights, and to load that would run its code; "
            "if you trust the file, read it with torch.load(..., weights_only=False), save its "
            "state_dict with safetensors.torch.save_file, and give that file's path instead"
        ) from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no state dict but a {type(state).__name__}")
    found: dict[str, Tensor] = state.get("state_dict", state)
    return found


def _chameleon_tokens(model: Any, pixels: Tensor) -> Tensor:
    return model.encode(pixels * 2 - 1).image_tokens  # type: ignore[no-any-return]


def _flava_tokens(model: Any, pixels: Tensor) -> Tensor:
    return model.get_codebook_indices(0.8 * pixels + 0.1)  # type: ignore[no-any-return]


_TOKENS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "chameleon": _chameleon_tokens,
    "flava": _flava_tokens,
}
