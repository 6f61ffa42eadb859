"""Names of the parameters in transformers' ViTModel and BeitModel files, and timm's."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

State = dict[str, Tensor]

_TABLE = "relative_position_bias_table"
#: (timm's, transformers'), beginnings of names outside the blocks.
_TOP = [
    ("cls_token", "embeddings.cls_token"),
    ("pos_embed", "embeddings.position_embeddings"),
    ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
    (f"rel_pos_bias.{_TABLE}", f"encoder.relative_position_bias.{_TABLE}"),
    ("norm.", "layernorm."),
]
#: The same inside a block, after `blocks.<i>.` and `encoder.layer.<i>.`.
_BLOCK = [
    ("norm1.", "layernorm_before."),
    ("norm2.", "layernorm_after."),
    ("attn.proj.", "attention.output.dense."),
    (f"attn.{_TABLE}", f"attention.attention.relative_position_bias.{_TABLE}"),
    ("attn.q_bias", "attention.attention.query.bias"),
    ("attn.v_bias", "attention.attention.value.bias"),
    ("mlp.fc1.", "intermediate.dense."),
    ("mlp.fc2.", "output.dense."),
    ("gamma_1", "lambda_1"),
    ("gamma_2", "lambda_2"),
]
_PARTS = ("query", "key", "value")


def to_transformers(state: Mapping[str, Tensor]) -> State:
    """An encoder's state dict under transformers' names, queries, keys and values split.

    Raises `ValueError` for a parameter that has no place there.
    """
    renamed: State = {}
    for name, value in state.items():
        joint = re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.(weight|bias)", name)
        if joint:
            prefix = f"encoder.layer.{joint[1]}.attention.attention"
            for part, piece in zip(_PARTS, value.chunk(3), strict=True):
                renamed[f"{prefix}.{part}.{joint[2]}"] = piece
            continue
        renamed[_to(name)] = value
    return renamed


def from_transformers(state: Mapping[str, Tensor]) -> State:
    """The inverse; queries, keys and values must all be there.

    A name without a rule is kept, so that loading strictly tells it.
    """
    renamed: State = {}
    joint: dict[str, dict[str, Tensor]] = {}
    is_beit = any(name.endswith(("lambda_1", _TABLE)) for name in state)
    part_name = r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)"
    for name, value in state.items():
        part = re.fullmatch(part_name, name)
        if part and (part[3] == "weight" or not is_beit):
            joint.setdefault(f"blocks.{part[1]}.attn.qkv.{part[3]}", {})[part[2]] = value
        else:
            renamed[_back(name)] = value
    for name, pieces in joint.items():
        if len(pieces) == len(_PARTS):
            renamed[name] = torch.cat([pieces[part] for part in _PARTS])
    return renamed


def _to(name: str) -> str:
    block = re.match(r"blocks\.(\d+)\.", name)
    head = f"encoder.layer.{block[1]}." if block else ""
    rest = name[block.end() :] if block else name
    for ours, theirs in _BLOCK if block else _TOP:
        if rest.startswith(ours):
            return head + theirs + rest[len(ours) :]
    raise ValueError(f"transformers has no place for the parameter {name!r}")


def _back(name: str) -> str:
    block = re.match(r"encoder\.layer\.(\d+)\.", name)
    head = f"blocks.{block[1]}." if block else ""
    rest = name[block.end() :] if block else name
    for ours, theirs in _BLOCK if block else _TOP:
        if rest.startswith(theirs):
            return head + ours + rest[len(theirs) :]
    return name
