"""Our own exports, and folders of transformers, tell what the weights do not."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from contramask.cli import main
from contramask.interop import to_transformers
from contramask.interop.export import export_encoder
from contramask.interop.import_weights import ImportOptions, import_weights
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.models.family import Encoder
from contramask.results import RunInfo

#: One head for each 64 of the width would be 2.
CONFIG = EncoderConfig(patch_size=4, embed_dim=128, depth=2, num_heads=4)
DATA = {"name": "shapes", "data_hash": "beef", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}


def bundle(kind: str = "vit") -> EncoderBundle:
    """An encoder of an oblong image, every weight moved, as if CMAE had trained it."""
    torch.manual_seed(1)
    made: Encoder = build_encoder(CONFIG, (16, 24), 3)
    if kind == "beit":
        made = build_beit(CONFIG, BeitConfig(), (16, 24), 3)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return make_bundle(made, RunInfo("cmae-0a1b-s7", "0a1b", 7), "cmae", "target", DATA)


def same_features(one: EncoderBundle, other: EncoderBundle) -> bool:
    images = torch.randn(2, 3, *one.encoder.image_size)
    with torch.no_grad():
        expected = one.encoder.eval().forward_tokens(images)
        return torch.equal(other.encoder.eval().forward_tokens(images), expected)


def transformers_folder(one: EncoderBundle, folder: Path) -> Path:
    """What `export --to transformers` writes."""
    folder.mkdir()
    to_transformers.write_files(one, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("kind", ["vit", "beit"])
@pytest.mark.parametrize("form", ["timm", "safetensors", "transformers", "encoder folder"])
def test_what_we_wrote_comes_back_as_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, form: str
) -> None:
    one = bundle(kind)
    path = tmp_path / "there"
    if form == "transformers":
        transformers_folder(one, path)
    elif form == "encoder folder":
        one.write(path)
    else:
        path = export_encoder(one, form, tmp_path / "e.safetensors").file
    back = import_weights(path, "mine", ImportOptions())
    assert same_features(one, back)
    kept = ("method", "branch", "mean", "std", "data", "data_hash", "config_hash", "seed", "arch")
    assert {key: back.manifest[key] for key in kept} == {key: one.manifest[key] for key in kept}
    assert back.manifest["experiment"] == "mine"
    assert "GUESSED" not in caplog.text


def test_the_command_says_where_heads_and_statistics_are_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = export_encoder(bundle(), "safetensors", tmp_path / "e.safetensors").file
    assert main(["import-weights", str(path), str(tmp_path / "imp1")]) == 0
    printed = capsys.readouterr().out
    assert "4 heads" in printed
    assert "number of heads: the file" in printed
    assert "input: (x / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6] (the file)" in printed
    assert same_features(bundle(), EncoderBundle.read(tmp_path / "imp1"))


def test_what_is_given_counts_before_what_the_file_says(tmp_path: Path) -> None:
    path = export_encoder(bundle(), "safetensors", tmp_path / "e.safetensors").file
    options = ImportOptions(num_heads=8, mean=(0.5,) * 3, method="other", data="toys")
    manifest = import_weights(path, "mine", options).manifest
    assert manifest["arch"]["num_heads"] == 8
    assert (manifest["mean"], manifest["std"]) == ([0.5] * 3, DATA["std"])
    assert (manifest["method"], manifest["data"]) == ("other", "toys")
    assert manifest["imported"]["statistics"] == "given and the file"


def test_config_json_of_others_is_read(tmp_path: Path) -> None:
    one = bundle()
    folder = transformers_folder(one, tmp_path / "theirs")
    save_file(load_file(folder / "model.safetensors"), folder / "model.safetensors")  # no manifest
    back = import_weights(folder, "mine", ImportOptions())
    assert same_features(one, back)
    assert (back.manifest["mean"], back.manifest["std"]) == (DATA["mean"], DATA["std"])
    assert (back.manifest["method"], back.manifest["data"]) == ("imported", "unknown")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": "many"}))
    with pytest.raises(ValueError, match=r"config\.json or preprocessor_config\.json beside"):
        import_weights(folder, "mine", ImportOptions())


def test_a_folder_without_weights_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["import-weights", str(tmp_path), str(tmp_path / "out")]) == 1
    assert "is a folder without model.safetensors or" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["no JSON", "[]", "{}", '{"arch": {}}'])
def test_a_manifest_that_is_damaged_is_told_unless_it_is_empty(tmp_path: Path, text: str) -> None:
    path = tmp_path / "e.safetensors"
    save_file(bundle().encoder.state_dict(), path, {"contramask": text})
    if text == "{}":
        options = ImportOptions(num_heads=4, image_size=(16, 24))
        assert same_features(bundle(), import_weights(path, "mine", options))
        return
    with pytest.raises(ValueError, match=r"says about the encoder|manifest that is not understood"):
        import_weights(path, "mine", ImportOptions())
