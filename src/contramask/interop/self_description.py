"""What a weight file says about itself: our manifest, or transformers' files beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

#: Files of weights in a folder, by what writes them; the first that is there is read.
_IN_FOLDERS = ("model.safetensors", "encoder.safetensors", "pytorch_model.bin")
#: The entry of a safetensors header under which our exports carry their manifest.
_ENTRY = "contramask"


@dataclass(frozen=True)
class SelfDescription:
    """What weights do not tell; None and an empty manifest where the file does not say it."""

    num_heads: int | None = None
    image_size: tuple[int, ...] | None = None  # rows, columns; or one side
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    manifest: Mapping[str, Any] = field(default_factory=dict)  # of an encoder of ours


def weight_file(path: Path) -> Path:
    """The file of weights: `path` itself, or the one in the folder that it names.

    Raises `ValueError` for a folder without one.
    """
    if not path.is_dir():
        return path
    found = [path / name for name in _IN_FOLDERS if (path / name).is_file()]
    if not found:
        raise ValueError(f"{path} is a folder without {' or '.join(_IN_FOLDERS)}; give a file")
    return found[0]


def described(path: Path) -> SelfDescription:
    """What stands in the header of our exports or in `manifest.json` beside our encoders.

    An empty description for a file that is not ours; raises `ValueError` for a manifest that
    cannot be read.
    """
    manifest = _from_header(path)
    if manifest is None and path.name == "encoder.safetensors":
        manifest = _json(path.with_name("manifest.json"))
    if not manifest:
        return SelfDescription()
    try:
        arch = manifest["arch"]
        return SelfDescription(
            int(arch["num_heads"]),
            tuple(map(int, arch["image_size"])),
            tuple(map(float, manifest["mean"])),
            tuple(map(float, manifest["std"])),
            manifest,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} carries a manifest that is not understood ({type(error).__name__}: {error})"
        ) from None


def described_for_transformers(path: Path) -> SelfDescription:
    """What config.json and preprocessor_config.json beside a file of transformers' names say."""
    config = _json(path.with_name("config.json"))
    processor = _json(path.with_name("preprocessor_config.json"))
    heads, size = config.get("num_attention_heads"), config.get("image_size")
    mean, std = processor.get("image_mean"), processor.get("image_std")
    try:
        return SelfDescription(
            None if heads is None else int(heads),
            None if size is None else tuple(map(int, size if isinstance(size, list) else [size])),
            None if mean is None else tuple(map(float, mean)),
            None if std is None else tuple(map(float, std)),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"config.json or preprocessor_config.json beside {path}: {error}"
        ) from None


def _from_header(path: Path) -> dict[str, Any] | None:
    if path.suffix != ".safetensors":
        return None
    try:
        with safe_open(path, "pt") as archive:
            text = (archive.metadata() or {}).get(_ENTRY)
    except SafetensorError:
        return None  # whoever reads the weights says what is wrong with it
    return None if text is None else _parsed(text, path)


def _json(path: Path) -> dict[str, Any]:
    return _parsed(path.read_bytes(), path) if path.is_file() else {}


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"what {path} says about the encoder is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"what {path} says about the encoder is no JSON object")
    return content
