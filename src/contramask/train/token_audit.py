"""What a trained tokenizer is worth: measured on held-out images, judged, and shown in pictures."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from contramask.data.store import Store, StoreSplit
from contramask.data.views import whole_images
from contramask.models.encoder import Size
from contramask.models.token_health import (
    TokenGates,
    TokenHealth,
    measure_health,
    refusals,
    warnings,
)
from contramask.models.tokenizer import VQTokenizer
from contramask.models.tokenizer_bundle import TokenizerBundle, describe
from contramask.results import result_row

log = logging.getLogger(__name__)

_TOKENS = 50_000  # on which a tokenizer is judged
_TOKENS_PER_CODE = 20  # fewer held-out ones say nothing about rare codes
_PICTURES = 12
_BATCH = 128


@dataclass(frozen=True)
class Audit:
    """Health, the split it was measured on, and arrays for pictures.

    arrays: original and reconstruction, uint8 (n, H, W, C), tokens int32 (n, rows, cols), and share
    (K,) of each code.
    """

    health: TokenHealth
    split: str
    arrays: dict[str, np.ndarray]


def audit(tokenizer: VQTokenizer, store: Store, size: Size, device: torch.device) -> Audit:
    """Measure a tokenizer on up to 50,000 tokens of whole images, resized to `size`.

    On val images; where those are too few to judge rare codes by, on train images.
    """
    rows, cols = size[0] // tokenizer.patch_size, size[1] // tokenizer.patch_size
    needed = -(-_TOKENS_PER_CODE * tokenizer.vocab_size // (rows * cols))
    name = "val" if "val" in store and len(store["val"]) >= needed else "train"
    limit = -(-_TOKENS // (rows * cols))
    health = measure_health(tokenizer, _images(store[name], size, limit, device))
    originals = next(_images(store[name], size, _PICTURES, device))
    ids = tokenizer.encode(originals)
    arrays = {
        "original": _uint8(originals),
        "reconstruction": _uint8(tokenizer.decode(ids, (rows, cols))),
        "tokens": ids.reshape(-1, rows, cols).cpu().numpy().astype(np.int32),
        "share": health.shares,
    }
    return Audit(health, name, arrays)


def judge(
    tokenizer: VQTokenizer, found: Audit, gates: TokenGates, on_alarm: str, origin: dict[str, Any]
) -> TokenizerBundle:
    """Put tokenizer, origin, health and verdict together; a refusal is logged as a warning."""
    reasons = refusals(found.health, gates)
    manifest = {
        **describe(tokenizer),
        **origin,
        "health": {**found.health.facts(), "split": found.split},
        "accepted": not reasons,
        "reasons": reasons,
        "warnings": warnings(found.health, gates),
        "on_alarm": on_alarm,
    }
    bundle = TokenizerBundle(tokenizer, manifest)
    name = f"tokenizer {bundle.tokenizer_id}"
    log.info(
        "%s: %d codes, as varied as %.0f equally frequent ones, %.0f%% in use",
        name,
        tokenizer.vocab_size,
        found.health.perplexity,
        100 * found.health.used,
    )
    for reason in reasons:
        log.warning("%s: REFUSED: %s", name, reason)
    for warning in manifest["warnings"]:
        log.warning("%s: %s", name, warning)
    return bundle


def health_rows(found: Audit, user: dict[str, Any]) -> pd.DataFrame:
    """Rows of the results table: perplexity in codes, the others in percent.

    `user` describes the experiment the tokens are for, with the keys of an encoder's manifest.
    """
    health = found.health
    values = {
        "perplexity": health.perplexity,
        "used_codes": 100 * health.used,
        "top_code": 100 * health.top_share,
        "token_stability": 100 * health.stability,
        "pixel_error": 100 * health.error,
    }
    return pd.DataFrame(
        [
            result_row(user, found.split, "tokenizer", "none", name, value)
            for name, value in values.items()
        ]
    )


def code_table(health: TokenHealth) -> pd.DataFrame:
    """One row a code: code, share of all tokens, flat (whether it is one plain colour)."""
    codes = np.arange(health.vocab_size)
    return pd.DataFrame({"code": codes, "share": health.shares, "flat": health.flat})


def _images(split: StoreSplit, size: Size, limit: int, device: torch.device) -> Iterator[Tensor]:
    """Float (B, C, *size) in [0, 1], spread evenly over the split."""
    chosen = np.unique(np.linspace(0, len(split) - 1, min(limit, len(split))).astype(np.int64))
    for start in range(0, len(chosen), _BATCH):
        pixels = torch.from_numpy(split.__getitems__(chosen[start : start + _BATCH])).to(device)
        yield whole_images(pixels, size) / 255


def _uint8(images: Tensor) -> np.ndarray:
    pixels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).cpu().numpy()
