"""The official implementations' weights and known answers, read into our methods.

Only names and shapes are mapped; no foreign code is used. Sizes come from the tensors' shapes
where they can, and from the file's `config` text (heads, mask ratio, temperature) where not.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from contramask.methods import build_method
from contramask.methods.base import Method
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig, VisionEncoder, build_encoder

State = dict[str, Tensor]

# Ordered (pattern, replacement); a key is mapped by the first pattern that matches its start.
_MAE_NAMES = [
    (r"decoder_(embed|blocks|norm|pred|pos_embed)", r"pixel_decoder.\1"),
    (r"mask_token", "pixel_decoder.mask_token"),
    (r"(cls_token|pos_embed|patch_embed|blocks|norm)", r"encoder.\1"),
]
_CMAE_NAMES = [
    (r"backbone\.", "encoder."),
    (r"target_backbone\.", "target_encoder."),
    (r"head\.predictor\.", "predictor."),
    (r"(pixel_decoder|feature_decoder)\.decoder_", r"\1."),
    (r"(pixel_decoder|feature_decoder|projector|target_projector)\.", r"\1."),
]
# Names inside a transformer of the CMAE code, and ours.
_CMAE_PARTS = [
    ("patch_embed.projection.", "patch_embed.proj."),
    (".layers.0.0.", ".fc1."),
    (".ffn.layers.1.", ".mlp.fc2."),
    (".ffn.fc1.", ".mlp.fc1."),
    (".layers.", ".blocks."),
]


@dataclass(frozen=True)
class KnownAnswer:
    """A known-answer file: its tensors, and the sizes its `config` text names."""

    kind: str
    tensors: State
    config: str
    source: str

    def number(self, pattern: str) -> float:
        """The number that `pattern` (one group) finds in the config text; `ValueError` if none."""
        found = re.search(pattern, self.config)
        if not found:
            raise ValueError(f"the file's config {self.config!r} does not name {pattern!r}")
        return float(found.group(1))

    def under(self, prefix: str) -> State:
        """The tensors whose name starts with `prefix`, without it."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def read_known_answer(path: Path) -> KnownAnswer:
    """Read a known-answer file; raises `ValueError` if it is none of `mae`, `cmae`, `conmim`."""
    try:
        with safe_open(path, "pt") as archive:
            tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
            metadata = archive.metadata() or {}
    except SafetensorError as error:
        raise ValueError(f"{path} is no safetensors file ({error})") from None
    if "loss_ct" in tensors:
        kind = "cmae"
    elif "pred" in tensors and "model.decoder_embed.weight" in tensors:
        kind = "mae"
    elif "feat_full" in tensors:
        kind = "conmim"
    else:
        held = ", ".join(sorted(tensors)[:6])
        raise ValueError(
            f"{path.name}: not a known answer of mae, cmae or conmim; it holds {held} ..."
        )
    return KnownAnswer(kind, tensors, metadata.get("config", ""), metadata.get("source", ""))


def mae_name(name: str) -> str:
    """The official MAE name of a parameter, as ours."""
    return _rename(name, _MAE_NAMES)


def cmae_name(name: str) -> str:
    """The official CMAE name of a parameter, as ours."""
    name = _rename(name, _CMAE_NAMES)
    for old, new in _CMAE_PARTS:
        name = name.replace(old, new)
    name = re.sub(r"\.ln([12])\.", r".norm\1.", name)
    # Norms outside blocks are the final ones and carry no number in our names.
    return re.sub(r"^(\w+)\.norm1\.", r"\1.norm.", name)


def _rename(name: str, table: list[tuple[str, str]]) -> str:
    for pattern, replacement in table:
        mapped, count = re.subn("^" + pattern, replacement, name)
        if count:
            return mapped
    raise ValueError(f"no rule maps the official parameter {name!r}")


NAMES: dict[str, Callable[[str], str]] = {"mae": mae_name, "cmae": cmae_name}


def build_from(answer: KnownAnswer) -> Method:
    """Our method, of the file's sizes and with the official weights inside (loaded strictly)."""
    builder = {"mae": _build_mae, "cmae": _build_cmae}[answer.kind]
    state = {NAMES[answer.kind](k): v for k, v in answer.under("model.").items()}
    method = builder(answer, state)
    method.load_state_dict(state)
    return method


def _encoder(answer: KnownAnswer, state: State) -> VisionEncoder:
    image = answer.tensors["input"]
    width, _, size, _ = state["encoder.patch_embed.proj.weight"].shape
    config = EncoderConfig(
        patch_size=size,
        embed_dim=width,
        depth=_count(state, "encoder.blocks."),
        num_heads=int(answer.number(r"encoder \S+ heads (\d+)")),
        mlp_ratio=len(state["encoder.blocks.0.mlp.fc1.bias"]) / width,
    )
    return build_encoder(config, (image.shape[2], image.shape[3]), image.shape[1])


def _decoder(state: State, name: str, num_heads: float) -> DecoderConfig:
    width = len(state[f"{name}.embed.bias"])
    return DecoderConfig(
        embed_dim=width,
        depth=_count(state, f"{name}.blocks."),
        num_heads=int(num_heads),
        mlp_ratio=len(state[f"{name}.blocks.0.mlp.fc1.bias"]) / width,
    )


def _count(state: State, prefix: str) -> int:
    places = {k[len(prefix) :].split(".")[0] for k in state if k.startswith(prefix)}
    return len(places)


def _build_mae(answer: KnownAnswer, state: State) -> Method:
    encoder = _encoder(answer, state)
    heads = answer.number(r"decoder \S+ heads (\d+)")
    decoder = _decoder(state, "pixel_decoder", heads)
    ratio = answer.number(r"mask_ratio ([\d.]+)")
    norm = "norm_pix True" in answer.config
    return build_method(MAEConfig(mask_ratio=ratio, norm_pix_loss=norm, decoder=decoder), encoder)


def _build_cmae(answer: KnownAnswer, state: State) -> Method:
    encoder = _encoder(answer, state)

    def decoder(kind: str) -> DecoderConfig:
        heads = answer.number(rf"{kind} dec \S+ heads (\d+)")
        return _decoder(state, f"{kind}_decoder", heads)

    config = CMAEConfig(
        mask_ratio=answer.number(r"mask ([\d.]+)"),
        mask_block=int(answer.number(r"in (\d+)x\d+ units")),
        decoder=decoder("pixel"),
        feature_decoder=decoder("feature"),
        head_hidden_dim=state["projector.fc0.weight"].shape[0],
        head_out_dim=state["projector.fc1.weight"].shape[0],
        # Where plain BN1d replaced the configs' SyncBN, PyTorch's eps came with it.
        head_norm_eps=1e-5 if "BN1d" in answer.config else 1e-6,
        temperature=answer.number(r"tau ([\d.]+)"),
    )
    return build_method(config, encoder)
