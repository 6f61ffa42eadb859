"""An exported encoder as a plain object with `predict`, the form that model registries serve.

`mlflow.pyfunc` finds `_load_pyfunc` by name; nothing of MLflow is needed here.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from contramask.models.bundle import EncoderBundle
from contramask.train.device import LaunchConfig, pick_machine
from contramask.transfer.features import READOUTS, extract_features


class _Pixels:
    """Images in memory, as `extract_features` reads them."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.labels = np.full(len(pixels), -1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitems__(self, indices: np.ndarray) -> np.ndarray:
        return np.asarray(self.pixels[np.asarray(indices)])


class Embedder:
    """Embeds images with a frozen encoder."""

    def __init__(self, bundle: EncoderBundle) -> None:
        self.bundle = bundle

    def predict(self, images: np.ndarray, params: Mapping[str, Any] | None = None) -> np.ndarray:
        """Features (N, D) float32 of uint8 images (N, H, W, C), resized to the encoder's size.

        `params["readout"]` is `mean` (the mean patch token, the default) or `cls`. Raises
        `ValueError` for anything but such images and readouts.
        """
        readout = (params or {}).get("readout", "mean")
        if readout not in READOUTS:
            raise ValueError(f"readout: given {readout!r}; allowed are {', '.join(READOUTS)}")
        channels = self.bundle.encoder.in_chans
        pixels = np.asarray(images)
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != channels:
            raise ValueError(
                f"given images of type {pixels.dtype} and shape {pixels.shape}; "
                f"uint8 (N, H, W, {channels}) with values 0 to 255 is expected"
            )
        if not len(pixels):
            return np.zeros((0, self.bundle.encoder.embed_dim), dtype=np.float32)
        machine = pick_machine(LaunchConfig())
        found = extract_features(self.bundle, _Pixels(pixels), machine)
        return np.asarray(found[readout].numpy(), dtype=np.float32)


def _load_pyfunc(path: str) -> Embedder:
    """The object that `mlflow.pyfunc.load_model` asks for; `path` is an encoder's folder."""
    return Embedder(EncoderBundle.read(Path(path)))
