"""An encoder as an object with `predict`."""

from pathlib import Path

import numpy as np
import pytest

from contramask.models.bundle import EncoderBundle
from contramask.transfer.serving import Embedder, _load_pyfunc


def test_images_of_any_size_become_features(tiny_bundle: EncoderBundle, tmp_path: Path) -> None:
    tiny_bundle.write(tmp_path / "encoder")
    model = _load_pyfunc(str(tmp_path / "encoder"))
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 44, 3), dtype=np.uint8)
    mean, cls = model.predict(images), model.predict(images, {"readout": "cls"})
    assert mean.shape == cls.shape == (5, tiny_bundle.encoder.embed_dim)
    assert mean.dtype == np.float32
    assert not np.allclose(mean, cls)
    assert model.predict(images[:0]).shape == (0, tiny_bundle.encoder.embed_dim)


@pytest.mark.parametrize(
    ("images", "params", "answer"),
    [
        (np.zeros((2, 8, 8, 3)), {}, "uint8"),
        (np.zeros((8, 8, 3), np.uint8), {}, r"shape \(8, 8, 3\)"),
        (np.zeros((1, 8, 8, 1), np.uint8), {}, r"\(N, H, W, 3\)"),
        (np.zeros((1, 8, 8, 3), np.uint8), {"readout": "max"}, "allowed are"),
    ],
)
def test_anything_else_is_refused(
    tiny_bundle: EncoderBundle, images: np.ndarray, params: dict[str, str], answer: str
) -> None:
    with pytest.raises(ValueError, match=answer):
        Embedder(tiny_bundle).predict(images, params)
