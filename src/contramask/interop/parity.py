"""Do our methods compute what the official implementations compute? A table of differences."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from contramask.interop.conmim import build_conmim, conmim_name, conmim_pairs
from contramask.interop.official import NAMES, KnownAnswer, build_from, read_known_answer
from contramask.methods.base import Method
from contramask.methods.cmae import CMAE
from contramask.methods.conmim import ConMIM
from contramask.methods.mae import MAE

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Comparison:
    """One quantity, theirs and ours: a summary number of each and the relative difference."""

    quantity: str
    official: float
    ours: float
    difference: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance, 1e-4 relative in float32."""
        return self.difference <= TOLERANCE


def compare_file(path: Path) -> list[Comparison]:
    """Run our method on a known-answer file's input and compare losses, outputs and gradients.

    The relative difference of a tensor is max |ours - official| / max |official|.
    Raises `ValueError` if the file is none we know, or incomplete.
    """
    answer = read_known_answer(path)
    build = build_conmim if answer.kind == "conmim" else build_from
    try:
        method = build(answer).float().train()
        pairs = list(_pairs(method, answer))
    except KeyError as error:
        raise ValueError(f"{path.name} lacks the tensor {error}") from None
    except RuntimeError as error:
        raise ValueError(f"{path.name} holds tensors that do not fit together: {error}") from None
    gradients = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    rename = conmim_name if answer.kind == "conmim" else NAMES[answer.kind]
    for name, official in answer.under("grad.").items():
        ours = gradients.get(rename(name), torch.zeros_like(official))
        pairs.append((f"grad {name}", official, ours))
    return [_compare(*pair) for pair in pairs]


def _compare(quantity: str, official: Tensor, ours: Tensor) -> Comparison:
    official, ours = official.detach().float(), ours.detach().float().reshape(official.shape)
    # A gradient that is exactly zero on one side only must not pass as "tiny".
    size = official.abs().max().clamp_min(1e-8)
    difference = float((ours - official).abs().max() / size)
    return Comparison(quantity, _summary(official), _summary(ours), difference)


def _summary(value: Tensor) -> float:
    """The number itself, or the norm of a tensor."""
    return float(value) if value.numel() == 1 else float(value.norm())


def _pairs(method: Method, answer: KnownAnswer) -> Iterator[tuple[str, Tensor, Tensor]]:
    if isinstance(method, MAE):
        return _mae(method, answer)
    if isinstance(method, CMAE):
        return _cmae(method, answer)
    if isinstance(method, ConMIM):
        return conmim_pairs(method, answer)
    raise ValueError(f"no comparison is written for {type(method).__name__}")


def _mae(method: MAE, answer: KnownAnswer) -> Iterator[tuple[str, Tensor, Tensor]]:
    known = answer.tensors
    batch = {"view": known["input"], "noise": known["noise"]}
    output = method(batch)
    output.loss.backward()
    pred, mask = method.reconstruct(batch)
    yield "loss", known["loss"], output.loss
    yield "mask", known["mask"], mask
    yield "pred", known["pred"], pred


def _cmae(method: CMAE, answer: KnownAnswer) -> Iterator[tuple[str, Tensor, Tensor]]:
    known = answer.tensors
    batch = {
        "view": known["input"],
        "target_view": known["input_target"],
        "noise": known["noise_units"],
    }
    latent = method.target_encoder.tokens(known["input_target"])
    output = method(batch)
    output.loss.backward()
    scale = 2 * method.config.temperature
    yield "loss_rc", known["loss_rc"], output.terms["recon_loss"]
    yield "loss_ct", known["loss_ct"], scale * output.terms["contrast_loss"]
    yield "mask", known["mask"], method.draw_mask(batch).mask
    yield "target_latent", known["target_latent"], latent
