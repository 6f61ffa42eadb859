"""What a classifier's scores say beside accuracy: by class, how sure it was, where it failed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

#: Confidences are gathered in this many bins of equal width, as in Guo et al., 1706.04599.
BINS = 15


@dataclass(frozen=True)
class Judgement:
    """Scores (N, K) of images against their true classes (N,), both on the processor."""

    scores: Tensor
    truth: Tensor

    @property
    def probability(self) -> Tensor:
        """Softmax of the scores, (N, K)."""
        return self.scores.double().softmax(dim=1)

    def confusion(self) -> np.ndarray:
        """(K, K) counts, rows = truth, columns = prediction."""
        classes = self.scores.shape[1]
        cells = self.truth * classes + self.scores.argmax(dim=1)
        return torch.bincount(cells, minlength=classes**2).reshape(classes, -1).int().numpy()

    def per_class(self, names: Sequence[str]) -> pd.DataFrame:
        """Columns class, images, recall and precision (percent; NaN where there is no image)."""
        counts = self.confusion().astype(np.float64)
        right, true, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
        with np.errstate(invalid="ignore"):  # no image of a class: NaN, not 0
            recall, precision = 100 * right / true, 100 * right / said
        named = [names[k] if k < len(names) else f"class {k}" for k in range(len(counts))]
        columns = {"class": named, "images": true.astype(int)}
        return pd.DataFrame(columns | {"recall": recall, "precision": precision})

    def calibration(self) -> pd.DataFrame:
        """One row a bin that holds images: confidence and accuracy in percent, images."""
        sure, guess = self.probability.max(dim=1)
        bins = (sure * BINS).long().clamp(max=BINS - 1)
        frame = pd.DataFrame(
            {
                "bin": bins.numpy(),
                "confidence": 100 * sure.numpy(),
                "accuracy": 100.0 * (guess == self.truth).numpy(),
            }
        )
        found = frame.groupby("bin").agg(
            confidence=("confidence", "mean"),
            accuracy=("accuracy", "mean"),
            images=("accuracy", "size"),
        )
        return found.reset_index()

    def calibration_error(self) -> float:
        """Expected calibration error, percent points: mean |confidence - accuracy| over images."""
        bins = self.calibration()
        gap = (bins["confidence"] - bins["accuracy"]).abs()
        return float((gap * bins["images"]).sum() / max(bins["images"].sum(), 1))

    def worst(self, count: int) -> pd.DataFrame:
        """The wrong images it was surest about: row, truth, predicted, probability (percent)."""
        sure, guess = self.probability.max(dim=1)
        wrong = (guess != self.truth).nonzero()[:, 0]
        order = wrong[sure[wrong].argsort(descending=True, stable=True)][:count]
        return pd.DataFrame(
            {
                "row": order.numpy(),
                "truth": self.truth[order].numpy(),
                "predicted": guess[order].numpy(),
                "probability": 100 * sure[order].numpy(),
            }
        )
