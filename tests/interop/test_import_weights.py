"""Weight files of every kind, made by hand, read into encoders that our stages accept."""

import argparse
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from contramask.cli import main
from contramask.data.store import Store
from contramask.interop.encoder_shapes import Heads, choose_heads
from contramask.interop.import_weights import ImportOptions, import_weights
from contramask.interop.official import build_from, read_known_answer
from contramask.interop.parity import build_conmim
from contramask.interop.transformers_names import to_transformers
from contramask.models.beit import BeitConfig, build_beit
from contramask.models.bundle import EncoderBundle
from contramask.models.encoder import ARCHITECTURES, EncoderConfig, build_encoder
from contramask.models.family import Encoder
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer.probe import run_probe
from contramask.transfer.probe_config import ProbeConfig

KNOWN_ANSWERS = Path(__file__).parents[3] / "shared" / "known-answers"
CONFIG = EncoderConfig(patch_size=4, embed_dim=64, depth=2, num_heads=1, mlp_ratio=3.0)
State = dict[str, Tensor]


def encoder(beit: BeitConfig | None = None, size: tuple[int, int] = (16, 16)) -> Encoder:
    """A small encoder with one head for its 64 channels, every weight moved."""
    torch.manual_seed(2)
    built: Encoder = build_encoder(CONFIG, size, 3)
    if beit is not None:
        built = build_beit(CONFIG, beit, size, 3)
    for parameter in built.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return built


def features(one: Encoder) -> Tensor:
    images = torch.randn(2, 3, *one.image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return one.eval().forward_tokens(images)


def mae_file() -> State:
    """MAE's names: the encoder's are timm's, the decoder's begin with decoder_."""
    extra = ("mask_token", "decoder_pos_embed", "decoder_embed.weight", "decoder_blocks.0.x")
    return {**encoder().state_dict(), **{name: torch.ones(1) for name in extra}}


def cmae_file() -> State:
    """CMAE's names, of the online network under backbone."""
    parts = [
        (r"patch_embed\.proj\.", "patch_embed.projection."),
        (r"\.norm([12])\.", r".ln\1."),
        (r"^norm\.", "ln1."),
        (r"\.mlp\.fc1\.", ".ffn.layers.0.0."),
        (r"\.mlp\.fc2\.", ".ffn.layers.1."),
        (r"^blocks\.", "layers."),
    ]
    state: State = {}
    for name, value in encoder().state_dict().items():
        for pattern, replacement in parts:
            name = re.sub(pattern, replacement, name)
        state[f"backbone.{name}"] = value
        if not name.startswith("ln1"):
            state[f"target_backbone.{name}"] = value + 1
    extra = ("pixel_decoder.mask_token", "projector.fc0.weight", "head.predictor.fc0.bias")
    return {**state, **{name: torch.ones(1) for name in extra}}


def conmim_file() -> State:
    """ConMIM's names: one network, with its mask token, projector and tables never used."""
    state = encoder(BeitConfig()).state_dict()
    index = timm.models.beit.gen_relative_position_index((4, 4))
    state["rel_pos_bias.relative_position_index"] = index
    state["rel_pos_bias2.relative_position_bias_table"] = torch.ones(1)
    extra = ("mask_token", "projectors.0.weight", "projectors.7.running_mean", "lm_head.bias")
    return {**state, **{name: torch.ones(1) for name in extra}}


def timm_file() -> State:
    """timm's own model, with a classifier."""
    model = timm.create_model(
        *("vit_base_patch16_224",),
        **{"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 1},
        **{"mlp_ratio": 3.0, "num_classes": 7},
    )
    state: State = model.state_dict()
    return state | encoder().state_dict()


def per_block_beit_file() -> State:
    """BEiT's pre-training of timm's names, a table and an index in each block."""
    state = encoder(BeitConfig(position_bias="per_block")).state_dict()
    index = timm.models.beit.gen_relative_position_index((4, 4))
    return state | {f"blocks.{i}.attn.relative_position_index": index for i in range(2)}


def transformers_file() -> State:
    """transformers' names, as of a ViTForImageClassification."""
    state = to_transformers(encoder().state_dict())
    return {f"vit.{name}": value for name, value in state.items()} | {
        "classifier.weight": torch.ones(1),
        "vit.pooler.dense.bias": torch.ones(1),
    }


def dino_file() -> State:
    """An encoder beside a head."""
    state = {f"backbone.{name}": value for name, value in encoder().state_dict().items()}
    return state | {"head.mlp.0.weight": torch.ones(1)}


def written(path: Path, state: Mapping[str, Tensor], **around: Any) -> Path:
    """A .safetensors file, or a PyTorch file with the weights inside what scripts store."""
    if path.suffix == ".safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    else:
        torch.save({"model": dict(state), **around} if around else dict(state), path)
    return path


FILES: dict[str, tuple[Callable[[], State], str, dict[str, int]]] = {
    "mae": (
        mae_file,
        "mae",
        {"decoder_blocks": 1, "decoder_embed": 1, "decoder_pos_embed": 1, "mask_token": 1},
    ),
    "cmae": (
        cmae_file,
        "cmae",
        {"head": 1, "pixel_decoder": 1, "projector": 1, "target_backbone": 28},
    ),
    "conmim": (
        conmim_file,
        "conmim",
        {"lm_head": 1, "mask_token": 1, "projectors": 2, "rel_pos_bias2": 1},
    ),
    "timm": (timm_file, "timm", {"head": 2}),
    "beit": (per_block_beit_file, "timm", {}),
    "transformers": (transformers_file, "transformers", {"classifier": 1, "pooler": 1}),
    "dino": (dino_file, "timm", {"head": 1}),
}


def source(name: str) -> Encoder:
    """The encoder whose weights the file holds."""
    beits = {"conmim": BeitConfig(), "beit": BeitConfig(position_bias="per_block")}
    return encoder(beits.get(name))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("name", FILES)
def test_the_encoder_of_every_kind_of_file_is_found(tmp_path: Path, name: str, suffix: str) -> None:
    make, kind, left_out = FILES[name]
    path = written(tmp_path / f"weights{suffix}", make())
    bundle = import_weights(path, "mine", ImportOptions())
    torch.testing.assert_close(features(bundle.encoder), features(source(name)))
    manifest = bundle.manifest
    assert (manifest["imported"]["kind"], manifest["imported"]["left_out"]) == (kind, left_out)
    assert manifest["method"] == (kind if kind in ("mae", "cmae", "conmim") else "imported")
    assert manifest["arch"]["image_size"] == [16, 16]
    assert bundle.encoder.config.sizes == (64, 2, 1)


def test_a_training_checkpoint_is_looked_into(tmp_path: Path) -> None:
    path = written(
        tmp_path / "checkpoint-799.pth",
        {f"module.{name}": value.half() for name, value in mae_file().items()},
        optimizer={"state": {0: {"step": torch.ones(1)}}},
        epoch=799,
        args=argparse.Namespace(batch_size=64, lr=1e-3),
    )
    bundle = import_weights(path, "mine", ImportOptions())
    torch.testing.assert_close(features(bundle.encoder), features(encoder()), atol=0.05, rtol=0.05)
    assert {value.dtype for value in bundle.encoder.state_dict().values()} == {torch.float32}


def test_python_objects_are_never_unpickled(tmp_path: Path) -> None:
    torch.save({"model": {"cls_token": torch.ones(1)}, "hook": Path("x")}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds Python objects besides tensors \(pathlib"):
        import_weights(tmp_path / "w.pth", "mine", ImportOptions())


def test_a_file_of_another_kind_gets_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gt.json").write_text('{"images": []}')
    assert main(["import-weights", str(tmp_path / "gt.json"), str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "gt.json is no weight file: give a .safetensors file, or one that torch.save" in said
    assert said.count("\n") == 1
    assert "weights_only" not in said


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"hello", "is damaged or no PyTorch file"),
        ({"epoch": 3, "lr": 0.1}, r"holds no state dict: .* \(found: epoch, lr\)"),
        ([torch.ones(1)], r"holds no state dict: .* \(found: list\)"),
        ({"conv1.weight": torch.ones(1)}, r"the names of the weights are none we know \(conv1"),
    ],
)
def test_a_file_without_an_encoder_is_told(tmp_path: Path, content: Any, sentence: str) -> None:
    path = tmp_path / "w.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=sentence):
        import_weights(path, "mine", ImportOptions())
    (tmp_path / "w.safetensors").write_bytes(b"hello")
    with pytest.raises(ValueError, match="is no safetensors file"):
        import_weights(tmp_path / "w.safetensors", "mine", ImportOptions())


def test_unknown_missing_and_misshaped_weights_are_listed(tmp_path: Path) -> None:
    state = timm_file()
    state |= {"blocks.0.ls1.gamma": torch.ones(64), "reg_token": torch.ones(1, 4, 64)}
    del state["blocks.1.attn.proj.bias"]
    state["norm.bias"] = torch.ones(3)
    path = written(tmp_path / "w.safetensors", state)
    with pytest.raises(ValueError, match="the weights cannot be read") as error:
        import_weights(path, "mine", ImportOptions())
    assert "no place for blocks.0.ls1.gamma, reg_token" in str(error.value)
    assert "missing: blocks.1.attn.proj.bias" in str(error.value)
    assert "norm.bias is (3,) and not (64,)" in str(error.value)


@pytest.mark.parametrize("kind", ["mae", "cmae"])
def test_an_unknown_weight_in_an_official_file_is_listed(tmp_path: Path, kind: str) -> None:
    state = FILES[kind][0]() | {"head_2.weight": torch.ones(1)}
    with pytest.raises(ValueError, match=r"no place for head_2\.weight"):
        import_weights(written(tmp_path / "w.pth", state), "mine", ImportOptions())


def test_a_fine_tuned_network_is_refused_with_the_reason(tmp_path: Path) -> None:
    state = timm_file()
    state = {name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: value
             for name, value in state.items()}  # fmt: skip
    with pytest.raises(ValueError, match="fc_norm in place of norm means a network fine-tuned"):
        import_weights(written(tmp_path / "w.pth", state), "mine", ImportOptions())


def test_heads_are_of_64_channels_unless_given(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", mae_file())
    bundle = import_weights(path, "mine", ImportOptions(num_heads=4))
    assert bundle.encoder.config.sizes == (64, 2, 4)
    with pytest.raises(ValueError, match="width of 64 cannot be split into 5 heads"):
        import_weights(path, "mine", ImportOptions(num_heads=5))
    table = written(tmp_path / "beit.pth", conmim_file())
    with pytest.raises(ValueError, match="the position biases are of 1 heads, not 2"):
        import_weights(table, "mine", ImportOptions(num_heads=2))
    narrow = build_encoder(
        EncoderConfig(patch_size=4, embed_dim=48, depth=1, num_heads=3), (8, 8), 3
    )
    path = written(tmp_path / "narrow.pth", narrow.state_dict())
    with pytest.raises(ValueError, match=r"width of 48 is no multiple of 64.*give --num-heads"):
        import_weights(path, "mine", ImportOptions())


def test_a_number_of_heads_that_nothing_tells_is_guessed_aloud(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path / "w.pth", mae_file())
    bundle = import_weights(path, "mine", ImportOptions())
    assert "the number of heads is GUESSED: 1" in caplog.text
    assert bundle.manifest["imported"]["num_heads"] == "guessed"
    caplog.clear()
    bundle = import_weights(path, "mine", ImportOptions(num_heads=1))
    assert not caplog.text
    assert bundle.manifest["imported"]["num_heads"] == "given"


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_published_sizes_have_their_number_of_heads(
    arch: str, caplog: pytest.LogCaptureFixture
) -> None:
    width, depth, heads = ARCHITECTURES[arch]
    state = {f"blocks.{number}.norm1.bias": torch.empty(0) for number in range(depth)}
    state["patch_embed.proj.weight"] = torch.empty(width, 3, 1, 1)
    assert choose_heads(state, None) == Heads(heads, arch)
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("dino/v2", r"method 'dino/v2': a name holds lower-case letters, digits and `_`"),
        ("dino-v2", r"method 'dino-v2': .* give another --method"),
        ("DINO", "method 'DINO': "),
        ("random_init", r"method 'random_init' is the untrained network of every table"),
    ],
)
def test_methods_are_of_letters_digits_and_underscores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, sentence: str
) -> None:
    path = written(tmp_path / "w.pth", mae_file())
    assert main(["import-weights", str(path), str(tmp_path / "o"), "--method", name]) == 1
    assert re.search(sentence, capsys.readouterr().err)
    assert not (tmp_path / "o").exists()
    assert (
        import_weights(path, "x", ImportOptions(method="dino_v2")).manifest["method"] == "dino_v2"
    )


def test_known_sizes_get_their_name(tmp_path: Path) -> None:
    config = EncoderConfig(arch="vit_tiny", patch_size=8, depth=None)
    state = build_encoder(config, (16, 16), 3).state_dict()
    bundle = import_weights(written(tmp_path / "w.pth", state), "mine", ImportOptions())
    assert bundle.encoder.config == config


def test_an_oblong_image_must_be_given(tmp_path: Path) -> None:
    oblong = encoder(size=(16, 24))
    path = written(tmp_path / "w.pth", oblong.state_dict())
    with pytest.raises(ValueError, match="give --image-size ROWS COLUMNS"):
        import_weights(path, "mine", ImportOptions())
    bundle = import_weights(path, "mine", ImportOptions(image_size=(16, 24)))
    assert torch.equal(features(bundle.encoder), features(oblong))
    with pytest.raises(ValueError, match="an image of 16x22 px is not made of 4 px patches"):
        import_weights(path, "mine", ImportOptions(image_size=(16, 22)))


def test_positions_numbered_differently_are_refused(tmp_path: Path) -> None:
    state = conmim_file()
    name = "rel_pos_bias.relative_position_index"
    state[name] = state[name].flip(0)
    with pytest.raises(ValueError, match="positions are numbered differently from timm's Beit"):
        import_weights(written(tmp_path / "w.pth", state), "mine", ImportOptions())


def test_cmaes_target_has_no_final_norm(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", cmae_file())
    with pytest.raises(ValueError, match="target network has no final norm"):
        import_weights(path, "mine", ImportOptions(branch="target"))


def test_the_command_writes_an_encoder_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "mae_tiny.pth", mae_file())
    out = tmp_path / "mae-official"
    words = ["import-weights", str(path), str(out), "--data", "ImageNet-1k"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "mae names, vit, method mae, branch online" in printed
    assert "width 64, depth 2, 1 heads, patches of 4 px, images of 16x16 px" in printed
    assert "left out: decoder_blocks (1), decoder_embed (1)" in printed
    bundle = EncoderBundle.read(out)
    assert torch.equal(features(bundle.encoder), features(encoder()))
    manifest = bundle.manifest
    assert (manifest["experiment"], manifest["data"]) == ("mae-official", "ImageNet-1k")
    assert manifest["mean"] == [0.485, 0.456, 0.406]
    assert len(manifest["imported"]["sha256"]) == 64
    assert "CC BY-NC" in manifest["licence"]
    assert main(words) == 1
    assert "mae-official exists already" in capsys.readouterr().err


def test_options_of_the_command_reach_the_manifest(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", mae_file())
    out = tmp_path / "out"
    words = ["import-weights", str(path), str(out), "--kind", "mae", "--num-heads", "2"]
    words += ["--method", "other", "--branch", "target", "--image-size", "16"]
    words += ["--mean", "0.5", "0.5", "0.5", "--std", "0.2", "0.3", "0.4"]
    assert main(words) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["method"], manifest["branch"]) == ("other", "target")
    assert (manifest["mean"], manifest["std"]) == ([0.5] * 3, [0.2, 0.3, 0.4])
    assert manifest["arch"]["num_heads"] == 2


def test_statistics_must_be_of_as_many_channels(tmp_path: Path) -> None:
    path = written(tmp_path / "w.pth", mae_file())
    with pytest.raises(ValueError, match=r"reads 3 channels, so --mean needs as many values"):
        import_weights(path, "mine", ImportOptions(mean=(0.5,)))


@pytest.mark.parametrize("name", ["cmae", "conmim"])
def test_stages_accept_what_was_imported(tmp_path: Path, shade_store: Store, name: str) -> None:
    path = written(tmp_path / "w.safetensors", FILES[name][0]())
    import_weights(path, "mine", ImportOptions()).write(tmp_path / "mine")
    config = ProbeConfig(k=3, weight_decays=(0.01,), low_shot_splits=1)
    launch = LaunchConfig(device="cpu", precision="fp32")
    bundle = EncoderBundle.read(tmp_path / "mine")
    output = run_probe(bundle, shade_store, config, launch, NullTracker())
    assert set(output.rows["method"]) == {name, "random_init"}
    assert set(output.rows["experiment"]) == {"mine", "random_init-s0"}


@pytest.mark.parametrize("kind", ["mae", "cmae", "conmim"])
def test_known_answers_of_the_official_code_are_read(tmp_path: Path, kind: str) -> None:
    path = KNOWN_ANSWERS / f"{kind}_official_tiny.safetensors"
    if not path.is_file():
        pytest.skip("the official known answers are not here")
    answer = read_known_answer(path)
    images = answer.tensors["input"]
    for branch in ("online", "target") if kind == "conmim" else ("online",):
        bundle = import_weights(path, "mine", ImportOptions(branch=branch))  # type: ignore[arg-type]
        method = (build_conmim if kind == "conmim" else build_from)(answer)
        parts = dict(method.named_children())
        theirs = parts["encoder"] if kind != "conmim" else parts[f"{branch}_encoder"]
        with torch.no_grad():
            expected = theirs.eval().forward_tokens(images)
            found = bundle.encoder.eval().forward_tokens(images)
        assert torch.equal(found, expected)
        assert bundle.manifest["branch"] == branch
