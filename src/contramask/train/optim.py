"""Optimisers: AdamW with the field's weight-decay exemptions, and layer-wise learning rates."""

from typing import Any, Literal

import torch
from torch import nn

from contramask.models.mask_rcnn import Backbone

#: `one_dim`: biases and norms, MAE's rule (timm's). `cmae`: transformer norms, biases and all
#: tokens, but not batch-norm gains, as CMAE's configs list them. `beit`: `one_dim`, class token and
#: positions, but not mask tokens and bias tables (BEiT's and ConMIM's code).
Exempt = Literal["one_dim", "cmae", "beit"]
_TOKENS = ("cls_token", "mask_token", "pos_embed")


def decay_groups(module: nn.Module, weight_decay: float, exempt: Exempt) -> list[dict[str, Any]]:
    """Two groups of a module's trained parameters: with weight decay and without."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    free = [p for name, p in named if _is_exempt(name, p, exempt)]
    decayed = [p for name, p in named if not _is_exempt(name, p, exempt)]
    return [
        {"params": decayed, "weight_decay": weight_decay, "lr_scale": 1.0},
        {"params": free, "weight_decay": 0.0, "lr_scale": 1.0},
    ]


def _is_exempt(name: str, parameter: nn.Parameter, exempt: Exempt) -> bool:
    leaf = name.rsplit(".", 1)[-1]
    if exempt == "one_dim":
        return parameter.ndim <= 1
    if exempt == "beit":
        return parameter.ndim <= 1 or leaf in ("cls_token", "pos_embed")
    batch_norm_gain = ".bn" in f".{name}" and leaf == "weight"
    return (parameter.ndim <= 1 and not batch_norm_gain) or leaf in _TOKENS


def layer_decay_groups(
    encoder: Backbone, heads: list[nn.Module], weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups whose learning rate falls by `layer_decay` a block towards the input (MAE, BEiT).

    The embedding is layer 0, block i layer i + 1, the final norm and all heads layer depth + 1;
    a layer's scale is layer_decay^(depth + 1 - layer). One-dimensional parameters, the class token
    and the positions get no weight decay.
    """
    depth = len(encoder.blocks)
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            free = parameter.ndim <= 1 or name in ("cls_token", "pos_embed")
            groups.setdefault((_layer_of(name, depth), free), []).append(parameter)
    for head in heads:
        for parameter in head.parameters():
            if parameter.requires_grad:
                groups.setdefault((depth + 1, parameter.ndim <= 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "weight_decay": 0.0 if free else weight_decay,
            "lr_scale": layer_decay ** (depth + 1 - layer),
        }
        for (layer, free), parameters in sorted(groups.items(), key=lambda item: item[0])
    ]


def _layer_of(name: str, depth: int) -> int:
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1 if name.startswith(("norm.", "fc_norm.")) else 0


def adamw(
    groups: list[dict[str, Any]], lr: float, betas: tuple[float, float] = (0.9, 0.95)
) -> torch.optim.AdamW:
    """Fused AdamW over groups that carry `lr_scale`; the loop sets each group's rate every step."""
    for group in groups:
        group["peak_lr"] = lr * group["lr_scale"]
        group["lr"] = group["peak_lr"]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=lr, betas=betas, fused=True)
