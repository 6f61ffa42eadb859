"""Dense probes: what single patch tokens of a frozen encoder say about the pixels under them.

CAPI's protocol (2502.08769): a logistic regression on a patch's most frequent class, and nearest
patches that lend their pixels' classes, position by position; nothing in the encoder is trained.
"""

from dataclasses import dataclass as plain_dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor
from torch.nn import functional as F

from contramask.data.loader import Subset
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.train.device import Machine
from contramask.transfer.classifiers import logistic_regression, nearest, standardise
from contramask.transfer.dense import spread
from contramask.transfer.feature_cache import FeatureCache, Source, Wanted
from contramask.transfer.metrics import IGNORE_INDEX, confusion_matrix, segmentation_scores
from contramask.typed import STRICT

#: Votes held at once: patches times pixels times classes.
_MAX_VOTES = 2**26

Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class DenseProbeConfig:
    """How many images the dense probes read, and the grids chosen from on a tenth of them.

    The nearest of all patches are looked for, so time grows with train_images times val_images.
    """

    train_images: int = Field(default=500, ge=10)
    val_images: int = Field(default=250, ge=1)
    k: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 3, 10, 30)
    weight_decays: Annotated[tuple[Decay, ...], Field(min_length=1)] = (1e-4, 1e-2)


@plain_dataclass(frozen=True)
class Patches:
    """Patch tokens (M, D) and the classes of the pixels under each, (M, P) int64, 255 ignored."""

    tokens: Tensor
    pixels: Tensor

    def of_images(self, first: int, last: int, per_image: int) -> "Patches":
        """The patches of images first .. last - 1."""
        span = slice(first * per_image, last * per_image)
        return Patches(self.tokens[span], self.pixels[span])


def dense_probe(
    bundle: EncoderBundle,
    store: Store,
    cache: FeatureCache,
    config: DenseProbeConfig,
    machine: Machine,
) -> dict[str, dict[str, float]]:
    """`dense_linear` and `dense_knn`: miou, macc, aacc, fwiou in percent, as segmentation counts.

    Images and masks have the encoder's own size; only cosines are tried, CAPI tries L2 as well.
    """
    num_classes = len(store.manifest["semantic_classes"])
    train = _patches(bundle, store, "train", config.train_images, cache, machine)
    val = _patches(bundle, store, "val", config.val_images, cache, machine)
    tokens = standardise(train.tokens, val.tokens)
    train, val = Patches(tokens[0], train.pixels), Patches(tokens[1], val.pixels)
    per_image = bundle.encoder.num_patches
    images = len(train.tokens) // per_image
    held = max(images // 10, 1)
    rest = train.of_images(held, images, per_image)
    chooser = train.of_images(0, held, per_image)

    def score(predicted: Tensor, truth: Patches) -> dict[str, float]:
        return segmentation_scores(confusion_matrix(truth.pixels, predicted, num_classes))

    decays, k = list(config.weight_decays), list(config.k)
    found = [score(_linear(rest, chooser, num_classes, decay), chooser)["miou"] for decay in decays]
    best_decay = decays[int(np.argmax(found))]
    found = [score(p, chooser)["miou"] for p in nearest_pixels(rest, chooser, num_classes, k)]
    best_k = k[int(np.argmax(found))]
    return {
        "dense_linear": score(_linear(train, val, num_classes, best_decay), val),
        "dense_knn": score(nearest_pixels(train, val, num_classes, [best_k])[0], val),
    }


def patch_pixels(semantic: np.ndarray, size: tuple[int, int], patch: int) -> Tensor:
    """Classes of the pixels under each patch, (N * L, P) int64, of label maps (N, H, W).

    Maps of another size than `size` are brought to it by nearest neighbour.
    """
    maps = torch.from_numpy(np.ascontiguousarray(semantic)).to(torch.uint8)[:, None]
    if maps.shape[2:] != size:
        maps = F.interpolate(maps, size, mode="nearest-exact")
    cells = F.unfold(maps.float(), patch, stride=patch)  # (N, P, L)
    return cells.transpose(1, 2).flatten(0, 1).long()


def nearest_pixels(train: Patches, test: Patches, num_classes: int, k: list[int]) -> list[Tensor]:
    """For each k the pixels' classes (M, P): the most frequent one of the k nearest patches.

    Position by position within the patch; ignored pixels do not vote.
    """
    found = nearest(train.tokens, test.tokens, max(k)).rows
    chunk = max(_MAX_VOTES // (test.pixels.shape[1] * num_classes), 1)
    parts = [_vote(train.pixels, rows, num_classes, k) for rows in torch.split(found, chunk)]
    return [torch.cat(same_k) for same_k in zip(*parts, strict=True)]


def _vote(pixels: Tensor, rows: Tensor, num_classes: int, k: list[int]) -> list[Tensor]:
    """For each k the most frequent classes (M, P) of the first k of `rows` (M, max k)."""
    votes = torch.zeros(len(rows), pixels.shape[1], num_classes, dtype=torch.int16)
    predicted = {}
    for place in range(rows.shape[1]):
        lent = pixels[rows[:, place]]  # (M, P)
        counted = (lent != IGNORE_INDEX).to(torch.int16)
        votes.scatter_add_(2, lent.clamp_max(num_classes - 1)[..., None], counted[..., None])
        if place + 1 in k or place + 1 == rows.shape[1]:
            predicted[place + 1] = votes.argmax(dim=2)
    return [predicted[min(count, rows.shape[1])] for count in k]


def _linear(train: Patches, test: Patches, num_classes: int, weight_decay: float) -> Tensor:
    """The pixels' classes (M, P): one class a patch, by logistic regression."""
    shares = torch.zeros(len(train.pixels), num_classes)
    counted = (train.pixels != IGNORE_INDEX).float()
    shares.scatter_add_(1, train.pixels.clamp_max(num_classes - 1), counted)
    known = shares.sum(dim=1) > 0
    labels = shares[known].argmax(dim=1)
    weight, bias = logistic_regression(train.tokens[known], labels, num_classes, weight_decay)
    predicted = F.linear(test.tokens, weight, bias).argmax(dim=1)
    return predicted[:, None].expand(-1, test.pixels.shape[1])


def _patches(
    bundle: EncoderBundle,
    store: Store,
    split: str,
    count: int,
    cache: FeatureCache,
    machine: Machine,
) -> Patches:
    rows = spread(len(store[split]), count)
    wanted = Wanted(token_rows=np.arange(len(rows)))
    source = Source(Subset(store[split], rows), split, store.data_hash)
    tokens = cache.features(bundle, source, wanted, machine).tokens
    semantic = store[split].semantic
    if semantic is None:
        raise ValueError(f"the split {split!r} has no classes for pixels; leave out probe.dense")
    pixels = patch_pixels(semantic[rows], bundle.encoder.image_size, bundle.encoder.patch_size)
    return Patches(torch.from_numpy(np.array(tokens)).float().flatten(0, 1), pixels)
