"""Losses and gauges as plain functions of tensors, in float32 whatever the precision around."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Gather = Callable[[Tensor], Tensor]


def no_gather(values: Tensor) -> Tensor:
    """The `Gather` of a single process: its own values are all there are."""
    return values


def normalise_patches(patches: Tensor) -> Tensor:
    """Each patch (B, L, P) to zero mean and unit variance (2111.06377 section 3, "norm pixel").

    The variance is the unbiased estimator and 1e-6 is added to it, as in the released code.
    """
    centred = patches - patches.mean(dim=-1, keepdim=True)
    # torch's own `var` takes several times as long on a processor.
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    return centred * (variance + 1e-6).rsqrt()


def pixel_loss(pred: Tensor, target: Tensor) -> Tensor:
    """Mean squared error over hidden patches only; pred and target (B, L-V, P)."""
    return F.mse_loss(pred.float(), target.float())


def info_nce(query: Tensor, key: Tensor, temperature: float, gather: Gather, rank: int) -> Tensor:
    """Cross-entropy of finding each query's own key among all keys (2207.13532, eq. of L_c).

    query, key (B, d) need not be normalised; `gather` collects the keys of all ranks in rank order
    (no gradient flows through keys), `rank` places the local positives among them.
    """
    # Autocast would round cosines to 8 bits, an error of some hundredths once divided by tau.
    with torch.autocast(query.device.type, enabled=False):
        query, key = F.normalize(query.float(), dim=1), F.normalize(key.detach().float(), dim=1)
        logits = query @ gather(key).T / temperature  # (B, B * world size)
        labels = torch.arange(len(query), device=query.device) + rank * len(query)
        return F.cross_entropy(logits, labels)


@torch.no_grad()
def contrast_gauges(query: Tensor, key: Tensor) -> dict[str, Tensor]:
    """Numbers that tell learning from collapse, from local queries and keys (B, d).

    positive_cosine and negative_cosine (means), contrast_top1 (share of queries nearest to their
    own key), feature_std (mean deviation of unit keys per dimension times sqrt(d): 1 if spread
    over the sphere, 0 if collapsed), effective_rank (exp of the entropy of singular values).
    """
    query, key = F.normalize(query.float(), dim=1), F.normalize(key.float(), dim=1)
    cosine = query @ key.T
    count, width = key.shape
    positive = cosine.diagonal()
    negative = (cosine.sum() - positive.sum()) / max(count * (count - 1), 1)
    labels = torch.arange(count, device=key.device)
    # Non-finite keys show in the other gauges; here they would only raise a decomposition error.
    spectrum = torch.linalg.svdvals((key - key.mean(dim=0)).nan_to_num())
    share = spectrum / spectrum.sum().clamp_min(1e-12)
    return {
        "positive_cosine": positive.mean(),
        "negative_cosine": negative,
        "contrast_top1": (cosine.argmax(dim=1) == labels).float().mean(),
        "feature_std": key.std(dim=0).mean() * width**0.5,
        "effective_rank": torch.exp(-(share * share.clamp_min(1e-12).log()).sum()),
    }
