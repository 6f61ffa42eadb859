"""Other people's tokenizers: what they are fed, and how they are found; transformers may lack."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from contramask.models.pretrained_tokenizer import (
    PretrainedTargetConfig,
    PretrainedTokenizer,
    load_pretrained,
    taming_config,
)

try:
    import transformers
except ImportError:
    transformers = None
needs_transformers = pytest.mark.skipif(
    transformers is None, reason="the optional package transformers is not installed"
)


class Mean(nn.Module):
    """A stand-in with both interfaces that remembers its input; tokens are fifths of brightness."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_embeddings=5, vocab_size=5)
        self.weight = nn.Parameter(torch.ones(1))
        self.pool = nn.AvgPool2d(stride)
        self.given = torch.empty(0)

    def _tokens(self, pixels: Tensor) -> Tensor:
        self.given = pixels
        return (self.pool(pixels.mean(dim=1)) * 5).long().clamp(0, 4)

    def encode(self, pixels: Tensor) -> SimpleNamespace:
        return SimpleNamespace(image_tokens=self._tokens(pixels).flatten())

    def get_codebook_indices(self, pixels: Tensor) -> Tensor:
        return self._tokens(pixels)


@pytest.mark.parametrize(
    ("family", "stride", "low", "high"),
    [("chameleon", 16, -1.0, 1.0), ("flava", 8, 0.1, 0.9)],
)
def test_images_reach_the_model_in_its_size_and_range(
    family: str, stride: int, low: float, high: float
) -> None:
    model = Mean(stride)
    made = PretrainedTokenizer(model, family, 14)  # type: ignore[arg-type]
    images = torch.zeros(2, 3, 28, 42)
    images[..., 14:] = 1
    ids = made.encode(images)
    assert ids.shape == (2, 6)
    assert ids[0].reshape(2, 3)[:, 0].tolist() == [0, 0]
    assert ids[0].reshape(2, 3)[:, 2].tolist() == [4, 4]
    assert model.given.shape == (2, 3, 2 * stride, 3 * stride)
    assert float(model.given.min()) == pytest.approx(low)
    assert float(model.given.max()) == pytest.approx(high)
    assert not model.weight.requires_grad
    assert made.vocab_size == 5


def test_another_grid_and_grey_images_are_refused() -> None:
    made = PretrainedTokenizer(Mean(8), "chameleon", 16)
    with pytest.raises(ValueError, match="gave 16 tokens for a grid of 2x2"):
        made.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=r"not 1 channels; set .*target\.name to vq"):
        made.encode(torch.zeros(1, 1, 32, 32))


def test_the_id_follows_the_weights() -> None:
    made = PretrainedTokenizer(Mean(16), "chameleon", 16)
    before = made.content_id()
    made.model.weight.data += 1
    assert made.content_id() != before


def test_without_the_package_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match="uv sync --extra transformers"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path), 16)


def test_paths_without_such_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    with pytest.raises(ValueError, match="does not exist"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path / "nothing"), 16)
    torch.save({"state_dict": {"decoder.weight": torch.ones(1)}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"quantize\.embedding\.weight is missing"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path / "last.ckpt"), 16)
    with pytest.raises(ValueError, match="flava is read from a folder"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path / "last.ckpt", family="flava"), 16)


class Callback:
    """What Lightning puts into a checkpoint beside the weights."""


def test_a_checkpoint_with_classes_says_how_to_get_the_weights_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"a": torch.ones(1)}, "callbacks": {Callback: 1}}, path)
    with pytest.raises(ValueError, match=r"holds a \S+Callback beside .* save its state_dict with"):
        load_pretrained(PretrainedTargetConfig(path=path), 16)


@pytest.mark.parametrize("name", ["last.ckpt", "last.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 damaged"])
def test_files_that_hold_no_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} holds no weights that can be read"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path / name), 16)


def test_a_checkpoint_of_one_tensor_is_no_state_dict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", ModuleType("transformers"))
    torch.save(torch.ones(1), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="holds no state dict but a Tensor"):
        load_pretrained(PretrainedTargetConfig(path=tmp_path / "last.ckpt"), 16)


def taming_names() -> set[str]:
    """The 144 tensors of taming-transformers' f16 encoder, from its construction rules."""
    block = ["norm1", "conv1", "norm2", "conv2"]
    parts = ["conv_in", "norm_out", "conv_out"]
    parts += [f"mid.{name}.{layer}" for name in ("block_1", "block_2") for layer in block]
    attention = ["norm", "q", "k", "v", "proj_out"]
    parts += [f"mid.attn_1.{layer}" for layer in attention]
    for level in range(5):
        parts += [f"down.{level}.block.{i}.{layer}" for i in range(2) for layer in block]
        if level in (2, 4):  # where the channels double
            parts.append(f"down.{level}.block.0.nin_shortcut")
        if level < 4:
            parts.append(f"down.{level}.downsample.conv")
    parts += [f"down.4.attn.{i}.{layer}" for i in range(2) for layer in attention]
    return {f"encoder.{part}.{kind}" for part in parts for kind in ("weight", "bias")}


@needs_transformers
def test_chameleon_is_tamings_vqgan_by_name() -> None:
    with torch.device("meta"):
        model = transformers.ChameleonVQVAE(taming_config(transformers, 1024))
    state = model.state_dict()
    names = taming_names()
    assert len(names) == 144
    assert {name for name in state if name.startswith("encoder.")} == names
    assert {name for name in state if not name.startswith("encoder.")} == {
        *("quantize.embedding.weight", "quant_conv.weight", "quant_conv.bias"),
        *("post_quant_conv.weight", "post_quant_conv.bias"),
    }
    assert state["quantize.embedding.weight"].shape == (1024, 256)
    assert state["encoder.conv_out.weight"].shape == (256, 512, 3, 3)


@needs_transformers
@pytest.mark.parametrize(("side", "patch", "count"), [(224, 16, 196), (224, 14, 256)])
def test_a_folder_of_weights_gives_a_token_a_patch(
    tmp_path: Path, side: int, patch: int, count: int
) -> None:
    config = transformers.ChameleonVQVAEConfig(
        resolution=256, base_channels=32, num_res_blocks=1, latent_channels=32, embed_dim=8
    )
    transformers.ChameleonVQVAE(config).save_pretrained(tmp_path)
    made = load_pretrained(PretrainedTargetConfig(path=tmp_path), patch)
    ids = made.encode(torch.rand(1, 3, side, side))
    assert ids.shape == (1, count)
    assert made.vocab_size == 8192


@needs_transformers
def test_the_codebook_of_dalle_gives_a_token_a_patch(tmp_path: Path) -> None:
    config = transformers.FlavaImageCodebookConfig(hidden_size=8, vocab_size=32)
    transformers.FlavaImageCodebook(config).save_pretrained(tmp_path)
    made = load_pretrained(PretrainedTargetConfig(path=tmp_path, family="flava"), 16)
    assert made.encode(torch.rand(1, 3, 224, 224)).shape == (1, 196)
    assert made.vocab_size == 32
