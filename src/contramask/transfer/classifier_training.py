"""What is fine-tuned: an encoder with a linear head, and the loss of mixed, smoothed labels."""

import numpy as np
import torch
from timm.data.mixup import Mixup
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from torch import Tensor, nn

from contramask.ema import ema_update, frozen_copy
from contramask.methods.base import Batch, StepOutput
from contramask.models.family import Encoder


class Classifier(nn.Module):
    """An encoder, mean pooling, a fresh norm and a linear layer: (B, C, H, W) to (B, K).

    The encoder's own final norm is dropped, as MAE does: it never saw pooled tokens.
    """

    def __init__(self, encoder: Encoder, num_classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.encoder.norm = nn.Identity()
        self.head = nn.Sequential(
            nn.LayerNorm(encoder.embed_dim, eps=1e-6), nn.Linear(encoder.embed_dim, num_classes)
        )
        nn.init.trunc_normal_(self.head.get_parameter("1.weight"), std=2e-5)
        nn.init.zeros_(self.head.get_parameter("1.bias"))

    def forward(self, images: Tensor) -> Tensor:
        """Class scores."""
        return self.head(self.encoder.tokens(images)[:, 1:].mean(dim=1))  # type: ignore[no-any-return]


class MixedTraining(nn.Module):
    """The classifier with its regularisation, as the training loop calls it.

    mixup, cutmix: alphas of their Beta distributions, 0 for off; label_smoothing in [0, 1];
    ema: keep `average`, the classifier's weights averaged over the steps with this decay.
    """

    def __init__(
        self,
        classifier: Classifier,
        num_classes: int,
        mixup: float,
        cutmix: float,
        label_smoothing: float,
        ema: float | None = None,
    ) -> None:
        super().__init__()
        self.classifier, self.ema = classifier, ema
        self.average = None if ema is None else frozen_copy(classifier)
        self.criterion = SoftTargetCrossEntropy()  # type: ignore[no-untyped-call]
        self.mix = Mixup(  # type: ignore[no-untyped-call]
            mixup,
            cutmix,
            prob=1.0 if mixup or cutmix else 0.0,
            label_smoothing=label_smoothing,
            num_classes=num_classes,
        )

    def forward(self, batch: Batch) -> StepOutput:
        """Cross-entropy with mixed, smoothed labels."""
        # timm's Mixup draws from NumPy's global generator; torch's is seeded by the loop each step.
        np.random.seed(int(torch.randint(2**31, (1,))))
        images, targets = self.mix(batch["view"], batch["label"])
        return StepOutput(self.criterion(self.classifier(images).float(), targets))

    def after_step(self, progress: float) -> None:
        """Move the average towards the weights of this step."""
        if self.average is not None and self.ema is not None:
            ema_update(self.average, self.classifier, self.ema)
