"""A tokenizer on disk: weights, what they are, and whether they may be trained with."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from contramask.models.codebook import CodebookConfig
from contramask.models.encoder import Size
from contramask.models.tokenizer import TokenizerNetConfig, VQTokenizer
from contramask.typed import parse, to_plain

SCHEMA = 1
_WEIGHTS = "tokenizer.safetensors"
_REBUILD = "run the tokenizer stage again"
#: Key of the manifest: what its training cost, in 10^12 FLOPs.
TRAIN_TFLOP = "train_tflop"


@dataclass(frozen=True)
class TokenizerBundle:
    """A trained tokenizer and its manifest, or the reason why there is none.

    On disk: `tokenizer.safetensors` and `manifest.json`. Equal inputs give equal bytes, so there is
    no time stamp.
    """

    tokenizer: VQTokenizer | None
    manifest: dict[str, Any]

    @classmethod
    def skipped(cls, reason: str) -> "TokenizerBundle":
        """What the stage leaves where a method needs no tokens."""
        return cls(None, {"schema": SCHEMA, "skipped": reason})

    @property
    def is_skipped(self) -> bool:
        """Whether there is no tokenizer because none was asked for."""
        return self.tokenizer is None

    @property
    def accepted(self) -> bool:
        """Whether there is a tokenizer and it passed its gates."""
        return bool(self.manifest.get("accepted", False))

    @property
    def reasons(self) -> list[str]:
        """Why the tokenizer was refused, or why there is none."""
        if self.tokenizer is None:
            return [self.manifest["skipped"]]
        return list(self.manifest["reasons"])

    @property
    def tokenizer_id(self) -> str:
        """Hash of weights and sizes, 16 hex digits, by which a training names its targets."""
        return str(self.manifest["tokenizer_id"])

    def for_training(self, data_hash: str, patch_size: int, image_size: Size) -> VQTokenizer:
        """The tokenizer, if its tokens are good targets for these images and this encoder.

        Raises `ValueError` if there is none, if it was refused (unless `on_alarm` is keep), or if
        it was made from other images or for other patches.
        """
        if self.tokenizer is None:
            raise ValueError(f"there is no tokenizer ({self.manifest['skipped']}); {_REBUILD}")
        made = self.manifest
        if not self.accepted and made["on_alarm"] == "stop":
            raise ValueError(
                f"the tokenizer {self.tokenizer_id} was refused: {'; '.join(self.reasons)}. To "
                "train on its tokens all the same set tokenizer.on_alarm to keep"
            )
        now = {
            "data_hash": data_hash,
            "patch_size": patch_size,
            "image_size": list(image_size),
        }
        differing = [f"{k} {made[k]} then, {v} now" for k, v in now.items() if made[k] != v]
        if differing:
            raise ValueError(
                f"the tokenizer was made for something else ({', '.join(differing)}); {_REBUILD}"
            )
        return self.tokenizer

    def write(self, folder: Path) -> None:
        """Write all parts into a new or existing folder; the manifest, last, completes it."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("manifest.json", _WEIGHTS):
            (folder / name).unlink(missing_ok=True)
        if self.tokenizer is not None:
            save_file(_state(self.tokenizer), folder / _WEIGHTS, metadata={"format": "pt"})
            (folder / _WEIGHTS).chmod(0o644)  # safetensors writes files only we can read
        text = json.dumps(self.manifest, indent=2, sort_keys=True)
        (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> "TokenizerBundle":
        """Read a folder that `write` made; raises `ValueError` where parts lack or do not fit."""
        try:
            manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ValueError(f"{folder} holds no tokenizer ({error}); {_REBUILD}") from error
        if manifest.get("schema") != SCHEMA:
            raise ValueError(
                f"{folder} has schema {manifest.get('schema')}, this version reads {SCHEMA}; "
                f"{_REBUILD}"
            )
        if "skipped" in manifest:
            return cls(None, manifest)
        tokenizer = _build(manifest)
        try:
            tokenizer.load_state_dict(load_file(folder / _WEIGHTS))
        except (OSError, SafetensorError, RuntimeError) as error:
            raise ValueError(
                f"{folder / _WEIGHTS} is missing, damaged or of other sizes than the manifest says "
                f"({error}); {_REBUILD}"
            ) from error
        if content_id(tokenizer) != manifest["tokenizer_id"]:
            raise ValueError(f"{folder} holds weights of another tokenizer; {_REBUILD}")
        return cls(tokenizer.requires_grad_(False).eval(), manifest)


def describe(tokenizer: VQTokenizer) -> dict[str, Any]:
    """The sizes from which the tokenizer can be built again, as plain values, and its id."""
    return {
        "schema": SCHEMA,
        "patch_size": tokenizer.patch_size,
        "in_chans": tokenizer.in_chans,
        "vocab_size": tokenizer.vocab_size,
        "net": to_plain(tokenizer.net),
        "codebook": to_plain(tokenizer.codebook.config),
        "tokenizer_id": content_id(tokenizer),
    }


def content_id(tokenizer: VQTokenizer) -> str:
    """16 hex digits over everything that decides which token a patch gets."""
    digest = hashlib.sha256(f"{tokenizer.patch_size} {tokenizer.codebook.config.metric}".encode())
    for name, value in sorted(_state(tokenizer).items()):
        digest.update(name.encode())
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:16]


def _state(tokenizer: VQTokenizer) -> dict[str, Any]:
    return {k: v.detach().cpu().contiguous() for k, v in tokenizer.state_dict().items()}


def _build(manifest: dict[str, Any]) -> VQTokenizer:
    return VQTokenizer(
        manifest["patch_size"],
        manifest["in_chans"],
        manifest["vocab_size"],
        parse(TokenizerNetConfig, manifest["net"], "manifest.net"),
        parse(CodebookConfig, manifest["codebook"], "manifest.codebook"),
    )
