"""What a reader can see of a frozen encoder: where it looks, what it holds alike, what is near.

Computed for a few val images and stored, so that pages are drawn without running a network.
"""

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from contramask.boxes.taps import read_taps
from contramask.data.loader import Subset
from contramask.models.bundle import EncoderBundle
from contramask.results import StageOutput
from contramask.train.device import Machine, prepare
from contramask.transfer.classifiers import nearest
from contramask.transfer.feature_cache import Features
from contramask.transfer.features import Normalised
from contramask.typed import STRICT

#: Longer side of a stored picture in pixels, at most.
_THUMBNAIL = 112
#: Shares of all values that lie below black and above white in a map of colours.
_DARK, _LIGHT = 0.02, 0.98


@dataclass(frozen=True, config=STRICT)
class PicturesConfig:
    """How many val images are pictured; they are the same ones for every encoder."""

    looks: int = Field(default=6, ge=1)  # whose attention and patch features are kept
    queries: int = Field(default=6, ge=1)  # whose nearest train images are kept
    neighbours: int = Field(default=6, ge=1)  # of each query


def one_of_each(labels: np.ndarray, count: int) -> np.ndarray:
    """`count` row numbers, rising, from as many classes (N,) as there are; always the same.

    Classes take turns in the order in which a fixed shuffle of the images meets them.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    turn = pd.Series(labels[order]).groupby(labels[order]).cumcount().to_numpy()
    return np.sort(order[np.argsort(turn, kind="stable")][:count])


@torch.no_grad()
def looks(
    bundle: EncoderBundle, images: Subset, rows: np.ndarray, machine: Machine
) -> dict[str, np.ndarray]:
    """Last block and final norm for the images `rows` (n,), as arrays.

    look_images (n, H, W, C) uint8; look_attention (n, heads, rows, cols) float16, what share of its
    attention each head of the class token gives to a patch; look_colours (n, rows, cols, 3)
    float16 in [0, 1], the first three principal components of all their patch tokens.
    """
    encoder = bundle.encoder.eval()
    prepare(encoder, machine)
    pixels = images.__getitems__(rows)
    last = len(encoder.blocks)
    with machine.autocast():
        taps = read_taps(encoder, Normalised(bundle, machine.device)(pixels), [last], False)[last]
    grid = encoder.grid_size
    attention = taps.class_attention.float().cpu()
    attention = attention.reshape(*attention.shape[:2], *grid)
    colours = patch_colours(taps.normed[:, 1:].cpu()).reshape(len(rows), *grid, 3)
    return {
        "look_images": thumbnails(pixels),
        "look_attention": attention.to(torch.float16).numpy(),
        "look_colours": colours.to(torch.float16).numpy(),
    }


def patch_colours(tokens: Tensor) -> Tensor:
    """Patch tokens (n, L, D) of several images as colours (n, L, 3) in [0, 1], by a joint PCA.

    Like tokens have like colours, also across images, as in DINOv2 (2304.07193, figure 1). A
    component's sign is chosen so that its longer tail is bright.
    """
    points = tokens.flatten(0, 1).double()
    points = points - points.mean(dim=0)
    directions = torch.linalg.eigh(points.T @ points).eigenvectors[:, -3:].flip(1)  # (D, 3)
    places = points @ directions
    places = places * torch.where(places.pow(3).sum(dim=0) < 0, -1.0, 1.0)
    low, high = (places.quantile(share, dim=0) for share in (_DARK, _LIGHT))
    scaled = (places - low) / (high - low).clamp_min(1e-12)
    colours: Tensor = scaled.clamp(0, 1).float().reshape(*tokens.shape[:2], 3)
    return colours


def neighbours(
    splits: tuple[Subset, Subset], features: tuple[Features, Features], config: PicturesConfig
) -> StageOutput:
    """The most similar train images of a few val images, by cosine of the mean patch token.

    `splits` and `features` are train's and val's. Arrays near_queries (q, H, W, C) and near_images
    (q, k, H, W, C) uint8; table near: query, rank (from 1), id, label, truth (the query's label),
    similarity, same (never so without labels).
    """
    (train, val), (gallery, asked) = splits, features
    queries = one_of_each(asked.labels.numpy(), config.queries)
    found = nearest(gallery.readout("mean"), asked.readout("mean")[queries], config.neighbours)
    rows, count = found.rows.numpy(), found.rows.shape[1]
    images = train.__getitems__(rows.ravel())
    ids = getattr(train.images, "ids", None)
    label, truth = gallery.labels[found.rows], asked.labels[queries][:, None].expand(-1, count)
    table = pd.DataFrame(
        {
            "query": np.repeat(np.arange(len(queries)), count),
            "rank": np.tile(np.arange(1, count + 1), len(queries)),
            "id": [str(row if ids is None else ids[row]) for row in train.rows[rows.ravel()]],
            "label": label.flatten().numpy(),
            "truth": truth.flatten().numpy(),
            "similarity": found.similarity.flatten().float().numpy(),
            "same": ((label == truth) & (truth >= 0)).flatten().numpy(),
        }
    )
    small = thumbnails(images)
    arrays = {
        "near_queries": thumbnails(val.__getitems__(queries)),
        "near_images": small.reshape(*rows.shape, *small.shape[1:]),
    }
    return StageOutput(tables={"near": table}, arrays=arrays)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """uint8 images (n, H, W, C), shrunk where their longer side exceeds what a page shows."""
    height, width = images.shape[1:3]
    factor = _THUMBNAIL / max(height, width)
    if factor >= 1:
        return images
    size = (max(round(height * factor), 1), max(round(width * factor), 1))
    planes = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
    small = F.interpolate(planes, size, mode="bilinear", antialias=True)
    shrunk: np.ndarray = small.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return shrunk
