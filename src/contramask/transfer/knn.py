"""Nearest-neighbour accuracy of features that lie in files."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from contramask.transfer.classifiers import knn_votes, top


@dataclass(frozen=True)
class LabelledFeatures:
    """Features (N, D), float32 or float64, and their labels (N,), whole numbers or text."""

    x: Tensor
    y: np.ndarray


def read_features(path: Path) -> LabelledFeatures:
    """Read the arrays `x` and `y` of an .npz file; raises `ValueError` for what is wrong."""
    if path.is_file() and not zipfile.is_zipfile(path):  # numpy would advise to unpickle it
        raise ValueError(f"{path} is no .npz file of plain arrays (numpy.savez makes them)")
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except (zipfile.BadZipFile, EOFError, TypeError, ValueError) as error:
        reason = "it holds Python objects" if "allow_pickle" in str(error) else str(error)
        raise ValueError(f"{path} is no .npz file of plain arrays: {reason}") from None
    if not {"x", "y"} <= set(held):
        raise ValueError(
            f"{path} needs the arrays x (features) and y (labels) and holds: {', '.join(held)}"
        )
    x, y = held["x"], held["y"]
    if x.ndim != 2 or y.shape != x.shape[:1] or not x.size:
        raise ValueError(
            f"{path}: x must be (images, dimensions) and y (images,), not {x.shape} and {y.shape}"
        )
    if x.dtype.kind not in "fiu" or not np.isfinite(x).all():
        raise ValueError(f"{path}: x ({x.dtype}) must hold finite numbers")
    if y.dtype.kind not in "iubU":
        raise ValueError(f"{path}: y ({y.dtype}) must hold whole numbers or text")
    precise = x.dtype if x.dtype in (np.float32, np.float16) else np.float64
    return LabelledFeatures(torch.from_numpy(x.astype(np.promote_types(precise, np.float32))), y)


def knn_accuracy(
    train: LabelledFeatures, test: LabelledFeatures, k: int, temperature: float
) -> dict[str, float]:
    """top1 and top5 of DINO's weighted vote, as shares of 1, and the k and temperature they are of.

    As DINO counts them, top5 looks at min(5, k) classes; of equally voted ones the lower comes
    first. A test label that no train image has counts as not found. Raises `ValueError` when the
    features do not fit together or k or temperature are out of range.
    """
    if k < 1 or temperature <= 0:
        raise ValueError(f"k must be at least 1 and temperature above 0, not {k} and {temperature}")
    if train.x.shape[1] != test.x.shape[1]:
        raise ValueError(
            f"train features have {train.x.shape[1]} dimensions and test features "
            f"{test.x.shape[1]}; they must come from one encoder"
        )
    if (train.y.dtype.kind == "U") != (test.y.dtype.kind == "U"):
        raise ValueError(f"labels are {train.y.dtype} in train and {test.y.dtype} in test")
    classes, labels = np.unique(train.y, return_inverse=True)
    place = np.searchsorted(classes, test.y).clip(max=len(classes) - 1)
    truth = torch.from_numpy(np.where(classes[place] == test.y, place, -1))
    dtype = torch.promote_types(train.x.dtype, test.x.dtype)
    gallery, queries = train.x.to(dtype), test.x.to(dtype)
    votes = knn_votes(gallery, torch.from_numpy(labels), queries, len(classes), k, temperature)
    shares = {f"top{n}": top(votes, truth, min(n, k)) / 100 for n in (1, 5)}
    return {**shares, "k": k, "temperature": temperature}
