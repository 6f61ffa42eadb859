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


def warmup_poly(step: int, total: int, warmup: int, power: float = 1.0) -> float:
    """Factor of the peak rate at `step` (from 0): (1 - step / total) ** power, rising at first.

    The rate falls from the first step on, and the warm-up scales what is left of it, as in mmcv,
    whose ADE20K recipes take a power of 1.
    """
    rising = min(step / warmup, 1.0) if warmup else 1.0
    return float(rising * max(1 - step / total, 0.0) ** power)


#: When ViTDet divides its rate by ten (2203.16527's code: steps 163,889 and 177,546 of 184,375).
DROPS = (163_889 / 184_375, 177_546 / 184_375)


def warmup_steps(step: int, total: int, warmup: int) -> float:
    """Factor of the peak rate at `step` (from 0): linear over `warmup`, then ten times less a drop.

    `DROPS` are shares of `total`.
    """
    if step < warmup:
        return step / warmup
    return float(0.1 ** sum(step >= drop * total for drop in DROPS))


def scaled_lr(base_lr: float, global_batch_size: int) -> float:
    """The linear rule: base_lr is per 256 images (Goyal et al., 1706.02677)."""
    return base_lr * global_batch_size / 256
