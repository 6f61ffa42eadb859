"""An encoder of the sizes that the shapes of its weights tell."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from timm.models.beit import gen_relative_position_index
from torch import Tensor

from contramask.models.beit import BeitConfig, build_beit
from contramask.models.encoder import ARCHITECTURES, EncoderConfig, Size, build_encoder
from contramask.models.family import Encoder

State = dict[str, Tensor]
log = logging.getLogger(__name__)

_TABLE = "relative_position_bias_table"
_INDEX = "relative_position_index"
_HEAD_WIDTH = 64  # of ViT-Ti, -S, -B and -L; ViT-H has 80, ViT-g and wider others
_SHOWN = 12


@dataclass(frozen=True)
class Heads:
    """How many attention heads an encoder has, and what that is known from, in words."""

    count: int
    origin: str


def encoder_of(
    state: Mapping[str, Tensor], num_heads: int, image_size: Sequence[int] | None
) -> Encoder:
    """Build the encoder of a state dict with timm's names and load it strictly, as float32.

    A state with position biases or layer scales is BEiT's. The image is square unless `image_size`
    (rows, columns; one number: square) says otherwise. Raises `ValueError` when a weight is
    missing, unknown or of another shape.
    """
    tables = _tables(state)
    is_beit = bool(tables) or any(name.endswith("gamma_1") for name in state)
    config = _config(state, num_heads)
    size = _image_size(state, tables, config.patch_size, image_size)
    in_chans = state["patch_embed.proj.weight"].shape[1]
    encoder: Encoder
    if is_beit:
        shared = f"rel_pos_bias.{_TABLE}" in state
        beit = BeitConfig(
            position_bias="shared" if shared else "per_block",
            absolute_positions="pos_embed" in state,
        )
        encoder = build_beit(config, beit, size, in_chans)
    else:
        encoder = build_encoder(config, size, in_chans)
    _load(encoder, _without_indices(state, encoder.grid_size))
    return encoder


def choose_heads(state: Mapping[str, Tensor], given: int | None) -> Heads:
    """The number of heads of a state dict with timm's names, which only bias tables tell.

    `given` (by a person, or by the file about itself) counts before the architecture of that width
    and depth. What is neither is guessed as one for each 64 of the width, with a warning. Raises
    `ValueError` when that cannot be, or there is no encoder.
    """
    if "patch_embed.proj.weight" not in state:
        raise ValueError("the file holds no encoder: patch_embed.proj.weight is missing")
    width, depth, tables = len(state["patch_embed.proj.weight"]), _depth(state), _tables(state)
    if tables:
        counted = tables[0].shape[1]
        if given not in (None, counted):
            raise ValueError(f"the position biases are of {counted} heads, not {given}")
        return Heads(counted, "position biases")
    if given is not None:
        if given < 1 or width % given:
            raise ValueError(f"a width of {width} cannot be split into {given} heads")
        return Heads(given, "given")
    for arch, (known_width, known_depth, heads) in ARCHITECTURES.items():
        if (known_width, known_depth) == (width, depth):
            return Heads(heads, arch)
    if width % _HEAD_WIDTH:
        raise ValueError(
            f"a width of {width} is no multiple of {_HEAD_WIDTH}, the usual width of a head, and "
            "the weights do not tell the number of heads; give --num-heads"
        )
    guessed = width // _HEAD_WIDTH
    log.warning(
        "the number of heads is GUESSED: %d, one for each %d of the width, because neither the file"
        " nor the sizes tell it; a wrong number gives wrong features without any error. If you know"
        " it, give --num-heads",
        *(guessed, _HEAD_WIDTH),
    )
    return Heads(guessed, "guessed")


def _tables(state: Mapping[str, Tensor]) -> list[Tensor]:
    return [value for name, value in state.items() if name.endswith(_TABLE)]


def _depth(state: Mapping[str, Tensor]) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _config(state: Mapping[str, Tensor], heads: int) -> EncoderConfig:
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    depth = _depth(state)
    hidden = len(state.get("blocks.0.mlp.fc1.bias", torch.empty(4 * width)))
    ratio = hidden / width
    if int(width * ratio) != hidden:  # rounded down once too often
        ratio = (hidden + 0.5) / width
    for arch, sizes in ARCHITECTURES.items():
        if sizes == (width, depth, heads):
            return EncoderConfig(arch=arch, patch_size=patch, mlp_ratio=ratio)  # type: ignore[arg-type]
    return EncoderConfig(
        patch_size=patch, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=ratio
    )


def _image_size(
    state: Mapping[str, Tensor], tables: list[Tensor], patch: int, given: Sequence[int] | None
) -> Size:
    """Rows and columns in pixels, from the number of positions."""
    if given is not None:
        rows, cols = given[0], given[-1]
        if min(rows, cols) < 1 or rows % patch or cols % patch:
            raise ValueError(f"an image of {rows}x{cols} px is not made of {patch} px patches")
        return rows, cols
    if "pos_embed" in state:
        side = math.isqrt(state["pos_embed"].shape[1] - 1)
        is_square = side**2 == state["pos_embed"].shape[1] - 1
    elif tables:
        side = (math.isqrt(len(tables[0]) - 3) + 1) // 2
        is_square = (2 * side - 1) ** 2 == len(tables[0]) - 3
    else:
        side, is_square = 0, False
    if not side or not is_square:
        raise ValueError(
            "the positions are not those of a square of patches and one class token; give "
            "--image-size ROWS COLUMNS"
        )
    return side * patch, side * patch


def _without_indices(state: Mapping[str, Tensor], grid: Size) -> State:
    """Leave out which offset belongs to which pair of patches, after checking that timm agrees."""
    indices = [name for name in state if name.endswith(_INDEX)]
    if indices:
        known = gen_relative_position_index(grid)
        for name in indices:
            if not torch.equal(state[name].to(known.dtype), known):
                raise ValueError(f"{name}: positions are numbered differently from timm's Beit")
    return {name: value.float() for name, value in state.items() if name not in indices}


def _load(encoder: Encoder, state: State) -> None:
    wanted = encoder.state_dict()
    complaints = []
    unknown = sorted(set(state) - set(wanted))
    if unknown:
        complaints.append(f"the encoder has no place for {_listed(unknown)}")
        if "fc_norm.weight" in unknown:
            complaints.append(
                "fc_norm in place of norm means a network fine-tuned on the mean of its tokens, "
                "which no longer has features of its own; give the pre-trained one"
            )
    missing = sorted(set(wanted) - set(state))
    if missing:
        complaints.append(f"missing: {_listed(missing)}")
    shapes = [
        f"{name} is {tuple(state[name].shape)} and not {tuple(value.shape)}"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if shapes:
        complaints.append(f"of another shape: {_listed(shapes)}")
    if complaints:
        raise ValueError("the weights cannot be read: " + "; ".join(complaints))
    encoder.load_state_dict(state)


def _listed(names: list[str]) -> str:
    rest = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
