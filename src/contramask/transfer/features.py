"""Features of a frozen encoder: one pass over the images, every readout at once."""

import numpy as np
import torch
from torch import Tensor

from contramask.data.loader import Images, Subset
from contramask.data.store import Store
from contramask.data.views import whole_images
from contramask.models.bundle import EncoderBundle
from contramask.progress import track
from contramask.train.device import Machine, prepare

READOUTS = ("cls", "mean")


def labelled(split: Images) -> Subset:
    """The images of a split that have a label; a folder of classes may hold some beside them."""
    return Subset(split, np.flatnonzero(split.labels >= 0))


def unlabelled(store: Store) -> str:
    """Why nothing can be classified in a store, empty when something can."""
    if not store.has_labels:
        return "the images have no class labels"
    if not len(labelled(store["train"])):
        return "no training image has a class label"
    if "val" not in store or not len(labelled(store["val"])):
        return "there are no validation images with a class label"
    return ""


class Normalised:
    """Turns stored uint8 images into what an encoder was trained on: its size, its statistics."""

    def __init__(self, bundle: EncoderBundle, device: torch.device) -> None:
        manifest = bundle.manifest
        rows, cols = manifest["arch"]["image_size"]
        self.size, self.device = (rows, cols), device
        self.mean = torch.tensor(manifest["mean"], device=device).reshape(-1, 1, 1) * 255
        self.std = torch.tensor(manifest["std"], device=device).reshape(-1, 1, 1) * 255

    def __call__(self, images: np.ndarray) -> Tensor:
        """uint8 (B, H, W, C) to normalised float (B, C, rows, cols) on the device."""
        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        return (whole_images(pixels, self.size) - self.mean) / self.std


@torch.no_grad()
def extract_features(
    bundle: EncoderBundle, split: Images, machine: Machine, batch_size: int = 256
) -> dict[str, Tensor]:
    """Features of all images of a split, float32 (N, D) on the processor, by readout.

    `cls` is the class token, `mean` the mean patch token, both after the final norm.
    """
    encoder = bundle.encoder.eval()
    prepare(encoder, machine)
    inputs = Normalised(bundle, machine.device)
    parts: dict[str, list[Tensor]] = {name: [] for name in READOUTS}
    starts = range(0, len(split), batch_size)
    title = f"features {bundle.manifest['method']}"
    for start in track(starts, title, len(starts)):
        indices = np.arange(start, min(start + batch_size, len(split)))
        with machine.autocast():
            tokens = encoder.forward_tokens(inputs(split.__getitems__(indices)))
        parts["cls"].append(tokens[:, 0].float().cpu())
        parts["mean"].append(tokens[:, 1:].float().mean(dim=1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}
