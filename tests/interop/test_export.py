"""Exports, loaded by the tools they are for."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors
import timm
import torch
from torch import Tensor

from contramask.cli import main
from contramask.interop import to_onnx, to_timm, to_transformers
from contramask.interop.export import export_encoder
from contramask.interop.to_timm import timm_model
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder
from contramask.results import RunInfo

CONFIG = EncoderConfig(patch_size=4, embed_dim=24, depth=2, num_heads=3, mlp_ratio=3.0)
ENCODERS = ("vit", "long vit", "grey vit", "beit", "beit per block", "beit placed")


def encoder(name: str) -> Encoder:
    """A small encoder of a kind, its weights moved away from where they start."""
    torch.manual_seed(5)
    beits = {
        "beit": BeitConfig(layer_scale=0.2),
        "beit per block": BeitConfig(position_bias="per_block"),
        "beit placed": BeitConfig(absolute_positions=True),
    }
    built: Encoder
    if name in beits:
        built = build_beit(CONFIG, beits[name], (16, 16), 3)
    else:
        size = (16, 24) if name == "long vit" else (16, 16)
        built = build_encoder(CONFIG, size, 1 if name == "grey vit" else 3)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def bundle(name: str = "vit") -> EncoderBundle:
    """It, as if MAE had trained it."""
    made = encoder(name)
    statistics = {"mean": [0.4] * made.in_chans, "std": [0.2] * made.in_chans}
    data = {"name": "shapes", "data_hash": "beef", **statistics}
    return make_bundle(made, RunInfo("mae-0a1b-s0", "0a1b", 0), "mae", "online", data)


def tokens(one: EncoderBundle, images: Tensor) -> Tensor:
    with torch.no_grad():
        return one.encoder.eval().forward_tokens(images)


def normalised_images(one: EncoderBundle, count: int = 2) -> Tensor:
    return torch.randn(count, one.encoder.in_chans, *one.encoder.image_size)


def executed(usage: list[str], **given: Any) -> dict[str, Any]:
    """The names that the lines we tell people to type leave behind."""
    names = {"timm": timm, "torch": torch, "json": json, "safetensors": safetensors, **given}
    exec("\n".join(usage), names)
    return names


@pytest.mark.parametrize("kind", ENCODERS)
def test_two_lines_load_it_strictly_in_timm(tmp_path: Path, kind: str) -> None:
    import safetensors.torch  # noqa: F401  # as the lines need it

    one = bundle(kind)
    written = export_encoder(one, "timm", tmp_path / "vit.safetensors")
    assert len(written.usage) == 2
    assert "strict=True" in written.usage[1]
    model = executed(written.usage)["model"].eval()
    images = normalised_images(one)
    expected = tokens(one, images)
    with torch.no_grad():
        torch.testing.assert_close(model.forward_features(images), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(model(images), expected[:, 0], atol=1e-5, rtol=1e-5)
    assert written.difference < 1e-5
    assert written.largest > 0.5


def test_models_that_timm_knows_need_no_sizes() -> None:
    for arch, patch, name in (
        ("vit_tiny", 16, "vit_tiny_patch16_224"),
        ("vit_base", 16, "vit_base_patch16_224"),
        ("vit_base", 8, "vit_base_patch8_224"),
    ):
        config = EncoderConfig(arch=arch, patch_size=patch)  # type: ignore[arg-type]
        big = EncoderBundle(_Sizes(config), {})  # type: ignore[arg-type]
        assert timm_model(big) == (name, {"num_classes": 0})


class _Sizes:
    """The sizes of an encoder without its weights."""

    def __init__(self, config: EncoderConfig) -> None:
        self.config, self.patch_size = config, config.patch_size
        self.image_size, self.in_chans = (224, 224), 3


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_safetensors_file_carries_its_manifest(tmp_path: Path, kind: str) -> None:
    import safetensors.torch  # noqa: F401

    one = bundle(kind)
    written = export_encoder(one, "safetensors", tmp_path / "new" / "folder")
    assert written.file == tmp_path / "new" / "folder" / "encoder.safetensors"
    names = executed(written.usage)
    assert names["manifest"] == one.manifest
    assert all(torch.equal(names["state"][k], v) for k, v in one.encoder.state_dict().items())


def test_the_manifest_beside_it_says_what_it_is(tmp_path: Path) -> None:
    one = bundle()
    written = export_encoder(one, "timm", tmp_path / "vit.safetensors")
    assert written.manifest == tmp_path / "vit.safetensors.manifest.json"
    manifest = json.loads(written.manifest.read_text())
    assert one.manifest.items() <= manifest.items()
    for key in ("method", "config_hash", "branch", "mean", "std", "arch", "licence"):
        assert manifest[key]
    facts = manifest["export"]
    assert facts["usage"] == written.usage
    assert (facts["format"], facts["file"], facts["verified"]) == ("timm", "vit.safetensors", True)
    assert facts["max_difference"] == written.difference


def test_a_file_whose_features_differ_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(one: EncoderBundle, file: Path, images: Tensor) -> Tensor:
        return tokens(one, images) + 0.01

    monkeypatch.setattr(to_timm, "features", wrong)
    with pytest.raises(ValueError, match=r"what timm loads from .* differs by 0\.01 .* removed"):
        export_encoder(bundle(), "timm", tmp_path / "vit.safetensors")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "out", "wanted"),
    [
        ("timm", "vit.pth", "a file *.safetensors, or a folder"),
        ("onnx", "vit.safetensors", "a file *.onnx, or a folder"),
        ("transformers", "vit.safetensors", "a folder"),
    ],
)
def test_a_file_of_another_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, out: str, wanted: str
) -> None:
    bundle().write(tmp_path / "encoder")
    assert main(["export", str(tmp_path / "encoder"), "--to", name, str(tmp_path / out)]) == 1
    assert f"{out} cannot be written in this format; give {wanted}" in capsys.readouterr().err


def test_a_picture_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "pic.png").write_bytes(b"a picture")
    with pytest.raises(ValueError, match=r"pic\.png is a file of another kind; give a file \*"):
        export_encoder(bundle(), "timm", tmp_path / "pic.png")
    assert (tmp_path / "pic.png").read_bytes() == b"a picture"


def test_the_command_says_what_it_wrote_and_how_to_load_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle().write(tmp_path / "encoder")
    out = tmp_path / "v1.5"
    assert main(["export", str(tmp_path / "encoder"), "--to", "timm", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out / 'encoder.safetensors'}\nloaded back and compared")
    assert f"manifest: {out / 'encoder.safetensors.manifest.json'}" in printed
    assert "timm.create_model" in printed.splitlines()[-2]


def test_without_onnx_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "_PACKAGES", ("onnx", "no_such_package"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"missing: onnx, no_such_package.*uv sync --extra onnx"):
        export_encoder(bundle(), "onnx", tmp_path / "vit.onnx")


@pytest.mark.parametrize("kind", ENCODERS)
def test_onnx_gives_the_same_features_for_any_number_of_images(tmp_path: Path, kind: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    import onnx
    import onnxruntime

    one = bundle(kind)
    written = export_encoder(one, "onnx", tmp_path / "vit.onnx")
    stored = {entry.key: entry.value for entry in onnx.load(written.file).metadata_props}
    assert json.loads(stored["contramask"]) == one.manifest
    for count in (1, 5):
        images = normalised_images(one, count)
        names = executed(written.usage, onnxruntime=onnxruntime, images=images.numpy())
        expected = tokens(one, images)
        for name, value in (("tokens", expected), ("cls", expected[:, 0])):
            torch.testing.assert_close(torch.tensor(names[name]), value, atol=1e-4, rtol=0)
        mean = expected[:, 1:].mean(dim=1)
        torch.testing.assert_close(torch.tensor(names["mean"]), mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ENCODERS)
def test_transformers_loads_it_with_its_image_processor(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    one = bundle(kind)
    written = export_encoder(one, "transformers", tmp_path / "vit")
    images = normalised_images(one)
    with torch.no_grad():
        names = executed(written.usage, transformers=transformers, images=images)
    torch.testing.assert_close(names["tokens"], tokens(one, images), atol=1e-4, rtol=0)
    if one.encoder.in_chans == 3:
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "vit")
        grey = torch.full((3, 40, 40), 128, dtype=torch.uint8).numpy()
        values = processor(grey, return_tensors="pt")["pixel_values"]
        assert tuple(values.shape[2:]) == one.encoder.image_size
        assert float(values.mean()) == pytest.approx((128 / 255 - 0.4) / 0.2, abs=1e-4)


def test_without_transformers_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle().write(tmp_path / "encoder")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    words = ["export", str(tmp_path / "encoder"), "--to", "transformers", str(tmp_path / "out")]
    assert main(words) == 1
    assert "Install it with: uv sync --extra transformers" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_the_files_for_transformers_need_no_transformers(tmp_path: Path) -> None:
    one = bundle()
    to_transformers.write_files(one, tmp_path / "model.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["model_type"], config["num_attention_heads"]) == ("vit", 3)
    processor = json.loads((tmp_path / "preprocessor_config.json").read_text())
    assert processor["image_mean"] == one.manifest["mean"]
