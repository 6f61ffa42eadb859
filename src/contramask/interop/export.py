"""Encoders in other tools' formats: written, loaded back by that tool, and compared."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from contramask.interop import to_onnx, to_safetensors, to_timm, to_transformers
from contramask.models.bundle import EncoderBundle, write_beside


class Format(Protocol):
    """What a format's module offers; `STEM` and `SUFFIX` are the usual name of its file."""

    STEM: str
    SUFFIX: str
    #: Whether that file is all, or other files belong beside it in a folder of their own.
    IS_FILE: bool

    def write(self, bundle: EncoderBundle, file: Path) -> None:
        """Write the file, and what belongs beside it."""

    def features(self, bundle: EncoderBundle, file: Path, images: Tensor) -> Tensor:
        """Tokens (B, 1+L, D) after the final norm, from what the file's users load."""

    def usage(self, bundle: EncoderBundle, file: Path) -> list[str]:
        """The lines of Python that load it."""


FORMATS: dict[str, Format] = {
    "timm": to_timm,
    "safetensors": to_safetensors,
    "onnx": to_onnx,
    "transformers": to_transformers,
}
#: Endings by which a path is a file and not a folder.
_WEIGHTS = (".safetensors", ".onnx", ".pth", ".pt", ".bin", ".ckpt", ".npz")
#: Relative to the largest value, or to 1 where all are smaller.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Export:
    """What was written, how to load it, and how far its features are from the encoder's.

    `difference` is the largest of any token's values, which go up to `largest`.
    """

    file: Path
    manifest: Path
    usage: list[str]
    difference: float
    largest: float


def export_encoder(bundle: EncoderBundle, name: str, out: Path) -> Export:
    """Write an encoder as one of `FORMATS` and compare what comes back.

    `out` is the file, or a folder to put it in under the format's usual name. Raises `ValueError`
    when the format cannot hold this encoder, when what writes it is not installed, or when the
    features differ (the file is removed then).
    """
    format_ = FORMATS[name]
    file = _file(out, format_)
    file.parent.mkdir(parents=True, exist_ok=True)
    bundle.encoder.eval()
    format_.write(bundle, file)
    images = _images(bundle)
    with torch.no_grad():
        expected = bundle.encoder.forward_tokens(images)
        found = format_.features(bundle, file, images)
    largest = float(expected.abs().max())
    difference = float((found - expected).abs().max())
    if not difference <= TOLERANCE * max(largest, 1):
        file.unlink()
        raise ValueError(
            f"what {name} loads from {file} differs by {difference:.2g} (values go up to "
            f"{largest:.2g}), so the file was removed"
        )
    usage = format_.usage(bundle, file)
    manifest = write_beside(
        file, {**bundle.manifest, "export": _facts(name, file, usage, difference)}
    )
    return Export(file, manifest, usage, difference, largest)


def _facts(name: str, file: Path, usage: list[str], difference: float) -> dict[str, Any]:
    return {
        "format": name,
        "file": file.name,
        "usage": usage,
        "input": "RGB images (B, C, rows, columns), (x / 255 - mean) / std, of arch.image_size",
        "verified": True,  # what could not be compared was not written
        "max_difference": difference,
    }


def _file(out: Path, format_: Format) -> Path:
    """The file to write: `out` itself if it is named as one, else the usual name inside `out`."""
    wanted = f"a file *{format_.SUFFIX}, or a folder" if format_.IS_FILE else "a folder"
    if out.is_file() and out.suffix not in _WEIGHTS:
        raise ValueError(f"{out} is a file of another kind; give {wanted}")
    if out.is_dir() or out.suffix not in _WEIGHTS:
        return out / f"{format_.STEM}{format_.SUFFIX}"
    if out.suffix != format_.SUFFIX or not format_.IS_FILE:
        raise ValueError(f"{out} cannot be written in this format; give {wanted}")
    return out


def _images(bundle: EncoderBundle) -> Tensor:
    """Three random inputs as a normalised image's values lie, always the same."""
    rows, cols = bundle.encoder.image_size
    generator = torch.Generator().manual_seed(0)
    return torch.randn(3, bundle.encoder.in_chans, rows, cols, generator=generator)
