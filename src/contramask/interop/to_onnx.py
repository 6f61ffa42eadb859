"""An ONNX graph of the encoder: normalised images in; tokens, class token, mean token out."""

import copy
import importlib.util
import json
import warnings
from pathlib import Path

import torch
from timm.layers.attention import Attention
from timm.models.beit import Attention as BeitAttention
from torch import Tensor, nn

from contramask.models.bundle import EncoderBundle
from contramask.models.family import Encoder

STEM, SUFFIX, IS_FILE = "encoder", ".onnx", True
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_OPSET = 18
#: A protobuf holds no more than 2 GB; larger weights go into a file beside it.
_MAX_INSIDE = 1_900_000_000


class _Readouts(nn.Module):
    """The encoder with its three outputs; timm's own forward, which leaves the batch size open."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        for part in self.encoder.modules():
            if isinstance(part, Attention | BeitAttention):
                part.fused_attn = False  # type: ignore[misc]  # the fused kernel fixes strides

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tokens = self.encoder.forward_features(images)
        return tokens, tokens[:, 0], tokens[:, 1:].mean(dim=1)


def write(bundle: EncoderBundle, file: Path) -> None:
    """Write the graph, its batch size left open, with the manifest as `contramask` in its metadata.

    Raises `ValueError` when a package that this needs is not installed.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"to write and check ONNX files, {', '.join(_PACKAGES)} are needed; missing: "
            f"{', '.join(missing)}. Install them with: uv sync --extra onnx"
        )
    encoder = bundle.encoder
    example = torch.zeros(2, encoder.in_chans, *encoder.image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about how torch walks the graph, not about the result
        program = torch.onnx.export(
            _Readouts(encoder).eval(),
            (example,),
            input_names=["images"],
            output_names=["tokens", "cls", "mean"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=_OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise ValueError("torch.onnx made no graph of this encoder")
    program.model.metadata_props["contramask"] = json.dumps(bundle.manifest)
    weights = sum(p.numel() * p.element_size() for p in encoder.parameters())
    program.save(file, external_data=weights > _MAX_INSIDE)


def features(bundle: EncoderBundle, file: Path, images: Tensor) -> Tensor:
    """Tokens (B, 1+L, D) from onnxruntime on the processor.

    Raises `ValueError` if the other outputs do not follow from the tokens.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    found = session.run(["tokens", "cls", "mean"], {"images": images.numpy()})
    tokens, cls, mean = (torch.from_numpy(values) for values in found)
    if not (tokens[:, 0].equal(cls) and tokens[:, 1:].mean(dim=1).allclose(mean, atol=1e-4)):
        raise ValueError(f"the outputs cls and mean of {file} do not follow from its tokens")
    return tokens


def usage(bundle: EncoderBundle, file: Path) -> list[str]:
    """How to run it."""
    return [
        f'session = onnxruntime.InferenceSession("{file}")',
        'tokens, cls, mean = session.run(["tokens", "cls", "mean"], {"images": images})',
    ]
