"""Learning-rate schedules as plain functions of the step."""

import math


def warmup_cosine(step: int, total: int, warmup: int, min_factor: float = 0.0) -> float:
    """Factor of the peak rate at `step` (from 0): linear from 0 over `warmup`, then half a cosine.

    The cosine ends at `min_factor` at step `total`; updated every step, as MAE does at fractional
    epochs (2111.06377, appendix A).
    """
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / max(total - warmup, 1), 1.0)
    return min_factor + (1 - min_factor) * 0.5 * (1 + math.cos(math.pi * progress))


def scaled_lr(base_lr: float, global_batch_size: int) -> float:
    """The linear rule: base_lr is per 256 images (Goyal et al., 1706.02677)."""
    return base_lr * global_batch_size / 256
