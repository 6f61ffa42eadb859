"""Which tensors of a weight file are the encoder's, under timm's names; one rule set a source."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from contramask.interop.conmim import conmim_name
from contramask.interop.official import cmae_name, mae_name
from contramask.interop.transformers_names import from_transformers

State = dict[str, Tensor]
Kind = Literal["mae", "cmae", "conmim", "timm", "transformers"]
Sorter = Callable[[Mapping[str, Tensor]], "Sorted"]
KINDS: tuple[Kind, ...] = ("mae", "cmae", "conmim", "timm", "transformers")

#: Classifiers, and parts of a training that its encoder does without.
_NOT_THE_ENCODER = re.compile(r"(head|lm_head|classifier|pooler|decoder)\.|mask_token$")
#: What the official ConMIM creates and never calls, see `contramask.interop.conmim`.
_CONMIM_UNUSED = re.compile(r"(rel_pos_bias2|lm_head)\.")


@dataclass(frozen=True)
class Sorted:
    """Tensors of a file: the encoder's under timm's names, and the names of those left out."""

    encoder: State = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


def detect_kind(state: Mapping[str, Tensor]) -> Kind:
    """Whose names these are. An MAE file without its decoder has timm's names and counts as such.

    Raises `ValueError` when they are nobody's.
    """
    if any("embeddings.patch_embeddings." in name for name in state):
        return "transformers"
    if "backbone.patch_embed.projection.weight" in state:
        return "cmae"
    if any(name.startswith("projectors.") for name in state):
        return "conmim"
    if "decoder_embed.weight" in state:
        return "mae"
    if {"patch_embed.proj.weight", "backbone.patch_embed.proj.weight"} & set(state):
        return "timm"
    shown = ", ".join(sorted(state)[:6])
    raise ValueError(
        f"the names of the weights are none we know ({shown}, ...); a Vision Transformer of one of "
        f"{', '.join(KINDS)} is needed"
    )


def sort_tensors(state: Mapping[str, Tensor], kind: Kind) -> Sorted:
    """Tell the encoder's tensors from others; what is neither stays in `encoder` as it is called,
    so that it is refused there.
    """
    return _SORTERS[kind](state)


def _by_method(
    rename: Callable[[str], str], prefix: str
) -> Callable[[Mapping[str, Tensor]], Sorted]:
    """Sort by the names that parts have in our method; the encoder's start with `prefix`."""

    def sort(state: Mapping[str, Tensor]) -> Sorted:
        result = Sorted()
        for name, value in state.items():
            try:
                ours = rename(name)
            except (ValueError, KeyError):  # no rule: an unknown name
                ours = prefix + name
            if ours.startswith(prefix):
                result.encoder[ours.removeprefix(prefix)] = value
            else:
                result.left_out.append(name)
        return result

    return sort


def _sort_conmim(state: Mapping[str, Tensor]) -> Sorted:
    used = {name: value for name, value in state.items() if not _CONMIM_UNUSED.match(name)}
    result = _by_method(conmim_name, "online_encoder.")(used)
    return Sorted(result.encoder, result.left_out + [n for n in state if n not in used])


def _sort_timm(state: Mapping[str, Tensor]) -> Sorted:
    # DINO and others keep the encoder beside their heads.
    bare = {name.removeprefix("backbone."): value for name, value in state.items()}
    kept = {name: value for name, value in bare.items() if not _NOT_THE_ENCODER.match(name)}
    return Sorted(kept, [name for name in bare if name not in kept])


def _sort_transformers(state: Mapping[str, Tensor]) -> Sorted:
    bare = {re.sub(r"^(vit|beit)\.", "", name): value for name, value in state.items()}
    kept = {name: value for name, value in bare.items() if not _is_transformers_extra(name)}
    return Sorted(from_transformers(kept), [name for name in bare if name not in kept])


def _is_transformers_extra(name: str) -> bool:
    return bool(_NOT_THE_ENCODER.match(name) or name == "embeddings.mask_token")


_SORTERS: dict[Kind, Sorter] = {
    "mae": _by_method(mae_name, "encoder."),
    "cmae": _by_method(cmae_name, "encoder."),
    "conmim": _sort_conmim,
    "timm": _sort_timm,
    "transformers": _sort_transformers,
}
