"""Weights of others as an encoder bundle, which every transfer stage accepts."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from contramask.interop.checkpoint import read_tensors
from contramask.interop.encoder_names import Kind, detect_kind, sort_tensors
from contramask.interop.encoder_shapes import encoder_of
from contramask.interop.official import read_known_answer
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.results import RunInfo

State = dict[str, Tensor]
Branch = Literal["online", "target"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Names in tables of results, where the weights tell the method.
_METHODS = {"mae": "mae", "cmae": "cmae", "conmim": "conmim"}
#: ConMIM writes its two networks into two files of equal form.
_BRANCHES = {"mae": "online", "cmae": "online"}
_LICENCES = {
    "mae": "The official MAE weights are under CC BY-NC 4.0.",
    "cmae": "The official CMAE repository states no licence.",
    "conmim": "The official ConMIM weights are under the licence text of TencentARC/ConMIM.",
}


@dataclass(frozen=True)
class ImportOptions:
    """What a weight file does not say about itself; None: found out, or the usual."""

    kind: Kind | None = None
    num_heads: int | None = None
    image_size: tuple[int, ...] | None = None  # rows, columns; or one side
    branch: Branch | None = None  # where a file holds two networks
    method: str | None = None  # the name in tables of results
    data: str = "unknown"  # what it was trained on
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def import_weights(path: Path, experiment: str, options: ImportOptions) -> EncoderBundle:
    """Read a weight file of MAE, CMAE, ConMIM, timm or transformers, or a known answer of ours.

    Sizes come from the shapes of the weights. The manifest's entry `imported` names the file, its
    SHA-256, what kind of names it had and what was left out. Raises `ValueError` for a weight that
    is missing, unknown or of another shape, and for what cannot be found out.
    """
    tensors, heads, branch = _network(path, options)
    kind = options.kind or detect_kind(tensors)
    if kind == "cmae" and branch == "target":
        raise ValueError("CMAE's target network has no final norm; import the online one")
    found = sort_tensors(tensors, kind)
    encoder = encoder_of(found.encoder, heads, options.image_size)
    _check_statistics(encoder.in_chans, options)
    data = {
        "name": options.data,
        "data_hash": "unknown",
        "mean": list(options.mean),
        "std": list(options.std),
    }
    method = options.method or _METHODS.get(kind, "imported")
    run = RunInfo(experiment, config_hash="none", seed=0)
    bundle = make_bundle(encoder, run, method, branch or _BRANCHES.get(kind, "unknown"), data)
    licence = f"{bundle.manifest['licence']} {_LICENCES.get(kind, '')}".strip()
    origin = {
        "file": path.name,
        "sha256": _sha256(path),
        "kind": kind,
        "left_out": _summary(found.left_out),
    }
    manifest = {**bundle.manifest, "licence": licence, "imported": origin}
    return EncoderBundle(bundle.encoder, manifest)


def _network(path: Path, options: ImportOptions) -> tuple[State, int | None, Branch | None]:
    """The tensors of one network, its number of heads and which network it is, if that is known.

    Of our known answers only ConMIM's hold two complete networks; its target is the one it keeps.
    """
    tensors = read_tensors(path)
    if "input" not in tensors or not any(name.startswith("grad.") for name in tensors):
        return tensors, options.num_heads, options.branch
    answer = read_known_answer(path)
    heads = options.num_heads or int(answer.number(r"encoder \S+ heads (\d+)"))
    if answer.kind != "conmim":
        return answer.under("model."), heads, options.branch
    branch = options.branch or "target"
    return answer.under(f"{branch}."), heads, branch


def _check_statistics(in_chans: int, options: ImportOptions) -> None:
    for name, values in (("mean", options.mean), ("std", options.std)):
        if len(values) != in_chans:
            raise ValueError(
                f"the encoder reads {in_chans} channels, so --{name} needs as many values, not "
                f"{len(values)}"
            )


def _summary(names: list[str]) -> dict[str, int]:
    """How many tensors were left out, by the first part of their names."""
    return dict(sorted(Counter(name.split(".")[0] for name in names).items()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
