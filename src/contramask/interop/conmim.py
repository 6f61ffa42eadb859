"""The official ConMIM's weights and known answers, read into our method.

Only names are mapped. Left out are, in both networks: `rel_pos_bias2`, a table for windows of 6x6
that the official code creates beside the real one and never calls; `lm_head`, BEiT's head, never
called either; `relative_position_index`, which follows from the grid (checked, not loaded); and the
target's `mask_token`, which an image without hidden patches never needs.
"""

import re
from collections.abc import Iterator

import torch
from timm.models.beit import gen_relative_position_index
from torch import Tensor

from contramask.interop.official import KnownAnswer, State
from contramask.methods.conmim import ConMIM, ConMIMConfig
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.encoder import EncoderConfig

Pairs = Iterator[tuple[str, Tensor, Tensor]]

_UNUSED = re.compile(
    r"(online|target)\.(rel_pos_bias2\.|lm_head\.|.*relative_position_index)|target\.mask_token"
)
# Ordered; the first that matches a name's start applies. Gradients are named without `online.`.
_NAMES = [
    (r"target\.projectors\.", "target_projector."),
    (r"target\.", "target_encoder."),
    (r"(online\.)?projectors\.", "projector."),
    (r"(online\.)?mask_token", "mask_token"),
    (r"(online\.)?", "online_encoder."),
]
_PROJECTOR_PARTS = {"0": "fc0", "1": "bn0", "3": "fc1", "4": "bn1", "6": "fc2", "7": "bn2"}


def conmim_name(name: str) -> str:
    """The official ConMIM name of a parameter, as ours; both networks, or no prefix for online."""
    for pattern, replacement in _NAMES:
        mapped, count = re.subn("^" + pattern, replacement, name)
        if count:
            break
    part = re.fullmatch(r"((?:target_)?projector)\.(\d+)\.(.+)", mapped)
    return f"{part[1]}.{_PROJECTOR_PARTS[part[2]]}.{part[3]}" if part else mapped


def conmim_state(tensors: State) -> State:
    """Both official networks (`online.`, `target.`) under our names, without what is never used."""
    names = [name for name in tensors if name.startswith(("online.", "target."))]
    return {conmim_name(name): tensors[name] for name in names if not _UNUSED.match(name)}


def build_conmim(answer: KnownAnswer) -> ConMIM:
    """Our method, of the file's sizes and with the official weights inside (loaded strictly).

    Raises `ValueError` if the official code numbers relative positions differently from timm.
    """
    state, image, mask = answer.under("online."), answer.tensors["input"], answer.tensors["mask"]
    width, _, size, _ = state["patch_embed.proj.weight"].shape
    blocks = {name.split(".")[1] for name in state if name.startswith("blocks.")}
    sizes = EncoderConfig(
        patch_size=size,
        embed_dim=width,
        depth=len(blocks),
        num_heads=int(answer.number(r"encoder \S+ heads (\d+)")),
        mlp_ratio=len(state["blocks.0.mlp.fc1.bias"]) / width,
    )
    beit = BeitConfig(absolute_positions="pos_embed" in state)
    encoder = build_beit(sizes, beit, (image.shape[2], image.shape[3]), image.shape[1])
    theirs = state["rel_pos_bias.relative_position_index"]
    if not torch.equal(theirs, gen_relative_position_index(encoder.grid_size)):
        raise ValueError("the file numbers relative positions differently from timm's Beit")
    config = ConMIMConfig(
        # Half a patch less than the share, which is rounded up: a float cannot be exact.
        mask_ratio=(int(mask[0].sum()) - 0.5) / mask.shape[1],
        mask_block=1,  # the file's mask is of single patches
        beit=beit,
        head_hidden_dim=len(state["projectors.0.weight"]),
        head_out_dim=len(state["projectors.6.weight"]),
        temperature=answer.number(r"temp ([\d.]+)"),
    )
    method = ConMIM(encoder, config)
    method.load_state_dict(conmim_state(answer.tensors))
    return method


def conmim_pairs(method: ConMIM, answer: KnownAnswer) -> Pairs:
    """Name, official and our value of loss, mask and both projections; leaves gradients behind."""
    known = answer.tensors
    # The stored mask serves as noise: hidden patches have the larger numbers.
    batch = {
        "view": known["input"],
        "target_view": known["input_aug"],
        "noise": known["mask"].float(),
    }
    output = method(batch)
    output.loss.backward()
    reading = method.read(batch)
    aimed = method.targets(reading)[0]
    yield "loss", known["loss"], output.loss
    yield "mask", known["mask"], reading.mask.mask
    yield "feat", known["feat"], method.queries(reading.tokens)
    yield "feat_full", known["feat_full"], method.keys(aimed)
