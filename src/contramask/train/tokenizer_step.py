"""The tokenizer's loss as a step of the training loop.

L = |x' - x| + (x' - x)^2 + beta |z - sg(c)|^2, means over pixels in [-1, 1] and over code
dimensions; codes c follow by moving averages. beta weighs what pulls the encoder towards its codes
(taming-transformers' default weighs the other term, a mistake its own comment admits).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contramask.methods.base import Batch, StepOutput
from contramask.models.token_health import entropy
from contramask.models.tokenizer import VQTokenizer


class TokenizerTraining(nn.Module):
    """The tokenizer as the training loop calls it. Batches need `view` (B, C, H, W) in [0, 1]."""

    def __init__(self, tokenizer: VQTokenizer, commitment_weight: float) -> None:
        super().__init__()
        self.tokenizer, self.commitment_weight = tokenizer, commitment_weight

    def forward(self, batch: Batch) -> StepOutput:
        """One step's loss; terms: recon_loss, commitment."""
        images = batch["view"]
        pixels = self.tokenizer.scaled(images)
        vectors = self.tokenizer.features(pixels)  # (B, L, d)
        quantised = self.tokenizer.codebook(vectors)
        seen = self.tokenizer.pixels(quantised.vectors, self.tokenizer.grid_of(images)).float()
        recon = F.l1_loss(seen, pixels) + F.mse_loss(seen, pixels)
        loss = recon + self.commitment_weight * quantised.commitment
        self.latest = (vectors.detach().flatten(0, 1), quantised.ids.flatten())
        terms = {"recon_loss": recon.detach(), "commitment": quantised.commitment.detach()}
        return StepOutput(loss, terms)

    def after_step(self, progress: float) -> None:
        """Move the codes, and restart those that are not used."""
        self.tokenizer.codebook.update(*self.latest, progress)

    def gauges(self) -> dict[str, Tensor]:
        """perplexity of the latest batch, and of the moving average over steps."""
        counted = torch.bincount(self.latest[1], minlength=self.tokenizer.vocab_size)
        average = self.tokenizer.codebook.counts
        return {
            "perplexity_batch": entropy(counted).exp(),
            "perplexity": entropy(average).exp(),
        }
