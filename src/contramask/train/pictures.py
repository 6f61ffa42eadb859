"""Pictures of a pre-training as arrays: augmented views before it, reconstructions after it."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from contramask.data.loader import ImageLoader
from contramask.data.store import Store
from contramask.data.views import ViewMaker, whole_images
from contramask.draws import image_keys
from contramask.methods.base import Method
from contramask.models.encoder import patchify, unpatchify
from contramask.report.figures import rows_picture
from contramask.tracker import Tracker
from contramask.train.device import Machine

log = logging.getLogger(__name__)

VIEWS = "views.png"  # name of the picture of augmented views

_COUNT = 12
_TILE = 128  # pixels


def view_preview(loader: ImageLoader, views: ViewMaker) -> dict[str, np.ndarray]:
    """The first views of the first epoch, uint8 (n, H, W, C): what the network is going to see."""
    batch = next(loader.epoch(0))
    names = [name for name in ("view", "target_view") if name in batch]
    return {name: views.to_pixels(batch[name][:_COUNT]).cpu().numpy() for name in names}


def show_views(preview: dict[str, np.ndarray], folder: Path, tracker: Tracker) -> Path:
    """Write `VIEWS` into the folder, one row a view, before a step is taken, and track it."""
    named = {name.replace("_", " "): images for name, images in preview.items()}
    picture = rows_picture("views", named, _TILE, "what the network is shown")
    path = folder / VIEWS
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(picture.png)
    tracker.artifact(path)
    log.info("augmented images, as the network will see them: %s", path)
    return path


@torch.no_grad()
def reconstructions(
    method: Method, store: Store, views: ViewMaker, machine: Machine
) -> dict[str, np.ndarray]:
    """original, masked and reconstruction, uint8 (n, H, W, C), of held-out images if there are any.

    Methods without a pixel decoder give nothing. Where the target was normalised per patch, the
    prediction is scaled back with each patch's own mean and deviation (which the network never
    sees), so that colours are comparable.
    """
    if not method.draws_pictures:
        return {}
    split = store["val"] if "val" in store else store["train"]
    count = min(_COUNT, len(split))
    pixels = torch.from_numpy(split.__getitems__(np.arange(count))).to(machine.device)
    view = views.normalise(whole_images(pixels, views.size))
    index = torch.arange(count, device=machine.device)
    batch: dict[str, Any] = {"view": view, "key": image_keys(0, 0, index)}
    method.eval()
    with machine.autocast():
        pred, mask = method.reconstruct(batch)
    encoder = method.encoder
    patches = patchify(view, encoder.patch_size)
    pred = pred.float()
    if getattr(method.config, "norm_pix_loss", True):
        deviation = (patches.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        pred = pred * deviation + patches.mean(dim=-1, keepdim=True)
    hidden = mask[..., None]
    shown = torch.where(hidden, pred, patches)
    blank = torch.where(hidden, torch.zeros_like(patches), patches)  # 0: the mean colour

    def picture(tokens: Tensor) -> np.ndarray:
        pixels = views.to_pixels(unpatchify(tokens, encoder.grid_size, encoder.patch_size))
        return pixels.cpu().numpy()

    return {
        "original": picture(patches),
        "masked": picture(blank),
        "reconstruction": picture(shown),
    }
