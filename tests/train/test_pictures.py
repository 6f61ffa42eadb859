"""Pictures before and after pre-training, as arrays."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from contramask.data.loader import ImageLoader
from contramask.data.store import Store
from contramask.data.views import ViewConfig, ViewMaker
from contramask.losses import normalise_patches
from contramask.methods.base import Method
from contramask.methods.mae import MAEConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, patchify
from contramask.tracker import JsonLinesTracker
from contramask.train.device import Machine
from contramask.train.pictures import reconstructions, show_views, view_preview

CPU = torch.device("cpu")
MACHINE = Machine(CPU, "fp32")
ENCODER = EncoderConfig(patch_size=8, embed_dim=16, depth=1, num_heads=2)


class AllKnowing(Method):
    """Hides the first half of the patches and predicts exactly what was asked for."""

    draws_pictures = True

    def __init__(self, norm_pix_loss: bool) -> None:
        super().__init__()
        self.encoder = VisionEncoder((32, 32), 3, ENCODER)
        self.config = MAEConfig(norm_pix_loss=norm_pix_loss)

    def reconstruct(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        patches = patchify(batch["view"], 8)
        mask = torch.zeros(patches.shape[:2], dtype=torch.bool)
        mask[:, :8] = True
        return (normalise_patches(patches) if self.config.norm_pix_loss else patches), mask


def make_views(store: Store, mode: str = "single") -> ViewMaker:
    manifest = store.manifest
    return ViewMaker(ViewConfig(), mode, (32, 32), manifest["mean"], manifest["std"])


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_a_right_prediction_gives_the_image_back(tiny_store: Store, norm_pix_loss: bool) -> None:
    views = make_views(tiny_store)
    found = reconstructions(AllKnowing(norm_pix_loss), tiny_store, views, MACHINE)
    assert set(found) == {"original", "masked", "reconstruction"}
    val = tiny_store["val"].images[:12]
    assert np.array_equal(found["original"], val)
    assert found["reconstruction"].dtype == np.uint8
    assert np.abs(found["reconstruction"].astype(int) - val.astype(int)).max() <= 1
    # The upper half is hidden and shown in the mean colour, the lower half is as it was.
    mean = np.round(255 * np.array(tiny_store.manifest["mean"]))
    assert np.abs(found["masked"][:, :16] - mean).max() <= 1
    assert np.array_equal(found["masked"][:, 16:], val[:, 16:])


def test_without_a_val_split_train_images_are_shown(plain_store: Store) -> None:
    assert "val" not in plain_store
    views = make_views(plain_store)  # and enlarged from 16 to 32 px
    found = reconstructions(AllKnowing(True), plain_store, views, MACHINE)
    assert found["original"].shape == (12, 32, 32, 3)


def test_methods_without_pixels_have_no_reconstructions(tiny_store: Store) -> None:
    method = AllKnowing(True)
    method.draws_pictures = False
    assert reconstructions(method, tiny_store, make_views(tiny_store), MACHINE) == {}


@pytest.mark.parametrize("mode", ["single", "cmae_parity"])
def test_the_preview_shows_the_first_views_of_the_training(tiny_store: Store, mode: str) -> None:
    views = make_views(tiny_store, mode)
    loader = ImageLoader(tiny_store["train"], views, 16, 0, CPU)
    preview = view_preview(loader, views)
    first = next(loader.epoch(0))
    assert set(preview) == {"view", "target_view"} & set(first)
    for name, shown in preview.items():
        assert shown.shape == (12, 32, 32, 3)
        assert shown.dtype == np.uint8
        back = views.normalise(torch.from_numpy(shown).permute(0, 3, 1, 2).float())
        assert (back - first[name][:12]).abs().max() < 0.1


def test_the_views_are_a_picture_before_the_first_step(
    plain_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    views = make_views(plain_store, "independent_rrc")
    loader = ImageLoader(plain_store["train"], views, 8, 0, CPU)
    with caplog.at_level("INFO"):
        path = show_views(
            view_preview(loader, views), tmp_path / "work", JsonLinesTracker(tmp_path / "log.jsonl")
        )
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 3 * picture.height  # eight images side by side, two rows
    assert str(path) in (tmp_path / "log.jsonl").read_text()
    assert str(path) in caplog.text
