"""Weights of others as an encoder bundle, which every transfer stage accepts."""

import hashlib
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from contramask.interop.checkpoint import read_tensors
from contramask.interop.encoder_names import Kind, detect_kind, sort_tensors
from contramask.interop.encoder_shapes import choose_heads, encoder_of
from contramask.interop.official import read_known_answer
from contramask.interop.self_description import (
    SelfDescription,
    described,
    described_for_transformers,
    weight_file,
)
from contramask.models.bundle import ANCHOR, EncoderBundle, make_bundle
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
    """What is known of a weight file; None: what the file says about itself, else the usual."""

    kind: Kind | None = None
    num_heads: int | None = None
    image_size: tuple[int, ...] | None = None  # rows, columns; or one side
    branch: Branch | None = None  # where a file holds two networks
    method: str | None = None  # the name in tables of results
    data: str | None = None  # what it was trained on; usual: "unknown"
    mean: tuple[float, ...] | None = None  # usual: ImageNet's
    std: tuple[float, ...] | None = None


def import_weights(path: Path, experiment: str, options: ImportOptions) -> EncoderBundle:
    """Read a weight file of MAE, CMAE, ConMIM, timm or transformers, or one that we wrote.

    path: the file, or the folder it lies in. Sizes come from the shapes of the weights; the number
    of heads, the input's statistics and where the encoder comes from, out of our manifest in the
    file or transformers' config.json beside it. The manifest's entry `imported` names the file, its
    SHA-256, what kind of names it had, what was left out, and where heads and statistics are from.
    Raises `ValueError` for a weight that is missing, unknown or of another shape, and for what
    cannot be found out.
    """
    path = weight_file(path)
    tensors, given, branch = _network(path, options)
    kind = options.kind or detect_kind(tensors)
    told = described(path)
    if kind == "transformers" and not told.manifest:
        told = described_for_transformers(path)
    branch = branch or told.manifest.get("branch")
    if kind == "cmae" and branch == "target":
        raise ValueError("CMAE's target network has no final norm; import the online one")
    found = sort_tensors(tensors, kind)
    heads = choose_heads(found.encoder, given or told.num_heads)
    encoder = encoder_of(found.encoder, heads.count, options.image_size or told.image_size)
    mean, std = _statistics(encoder.in_chans, options, told)
    data = {
        "name": options.data or told.manifest.get("data", "unknown"),
        "data_hash": told.manifest.get("data_hash", "unknown"),
        "mean": mean,
        "std": std,
    }
    run = RunInfo(
        experiment, told.manifest.get("config_hash", "none"), told.manifest.get("seed", 0)
    )
    method = _method(
        options.method or told.manifest.get("method") or _METHODS.get(kind, "imported")
    )
    bundle = make_bundle(encoder, run, method, branch or _BRANCHES.get(kind, "unknown"), data)
    origin = {
        "file": path.name,
        "sha256": _sha256(path),
        "kind": kind,
        "left_out": _summary(found.left_out),
        "num_heads": heads.origin if given or heads.origin != "given" else "the file",
        "statistics": _origin_of_statistics(options, told),
    }
    licence = f"{bundle.manifest['licence']} {_LICENCES.get(kind, '')}".strip()
    licence = told.manifest.get("licence", licence)
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


def _method(name: str) -> str:
    """The name under which results are stored and shown, once it is known to be usable."""
    allowed = (
        "a name holds lower-case letters, digits and `_`, as in dino_v2; give another --method"
    )
    if not re.fullmatch("[a-z0-9_]+", name):  # `-` and `/` part it from what was measured
        raise ValueError(f"method {name!r}: {allowed}")
    if name == ANCHOR:
        raise ValueError(f"method {name!r} is the untrained network of every table; {allowed}")
    return name


def _statistics(
    in_chans: int, options: ImportOptions, told: SelfDescription
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the input: given, the file's, else ImageNet's."""
    mean = options.mean or told.mean or IMAGENET_MEAN
    std = options.std or told.std or IMAGENET_STD
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != in_chans:
            raise ValueError(
                f"the encoder reads {in_chans} channels, so --{name} needs as many values, not "
                f"{len(values)}"
            )
    return list(mean), list(std)


def _origin_of_statistics(options: ImportOptions, told: SelfDescription) -> str:
    known = [
        "given" if given else "the file" if read else "ImageNet's, assumed"
        for given, read in ((options.mean, told.mean), (options.std, told.std))
    ]
    return " and ".join(dict.fromkeys(known))


def _summary(names: list[str]) -> dict[str, int]:
    """How many tensors were left out, by the first part of their names."""
    return dict(sorted(Counter(name.split(".")[0] for name in names).items()))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
