"""One safetensors file with timm's key names that carries its manifest in the header."""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from contramask.models.bundle import EncoderBundle
from contramask.models.family import rebuild

STEM, SUFFIX, IS_FILE = "encoder", ".safetensors", True


def write(bundle: EncoderBundle, file: Path) -> None:
    """Write weights (float32) and, as the header's entry `contramask`, the manifest."""
    write_state(bundle.encoder.state_dict(), bundle, file)


def write_state(state: dict[str, Tensor], bundle: EncoderBundle, file: Path) -> None:
    """Write any tensors with the bundle's manifest in the header."""
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    save_file(plain, file, {"format": "pt", "contramask": json.dumps(bundle.manifest)})
    file.chmod(0o644)  # safetensors writes files only we can read


def features(bundle: EncoderBundle, file: Path, images: Tensor) -> Tensor:
    """Tokens (B, 1+L, D) of an encoder built from the file alone."""
    with safe_open(file, "pt") as archive:
        state = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        manifest = json.loads(archive.metadata()["contramask"])
    encoder = rebuild(manifest["arch"]).eval()
    encoder.load_state_dict(state)
    return encoder.forward_tokens(images)


def usage(bundle: EncoderBundle, file: Path) -> list[str]:
    """How to read it."""
    return [
        f'state = safetensors.torch.load_file("{file}")  # timm\'s key names',
        f'manifest = json.loads(safetensors.safe_open("{file}", "pt").metadata()["contramask"])',
    ]
