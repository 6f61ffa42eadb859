"""Do our methods compute what the official implementations compute, and would we notice if not?"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from contramask.cli import main
from contramask.interop.parity import Comparison, _compare, compare_file

ANSWERS = Path(__file__).parents[2].parent / "shared" / "known-answers"
KINDS = ["mae", "cmae"]
OUTPUTS = {
    "mae": {"loss", "mask", "pred"},
    "cmae": {"loss_rc", "loss_ct", "mask", "target_latent"},
    "conmim": {"loss", "mask", "feat", "feat_full"},
}


@pytest.fixture(params=KINDS)
def official(request: pytest.FixtureRequest) -> tuple[str, Path]:
    """The name and the file of each method's official known answer."""
    path = ANSWERS / f"{request.param}_official_tiny.safetensors"
    if not path.is_file():
        pytest.skip("needs the official implementations' known answers, which are not public")
    return request.param, path


def changed(
    path: Path, target: Path, change: Callable[[dict[str, Tensor]], None], text: tuple[str, str]
) -> Path:
    """A copy of a known-answer file with its tensors changed, or a word of its config replaced."""
    tensors = load_file(path)
    change(tensors)
    with safe_open(path, "pt") as archive:
        metadata = dict(archive.metadata())
    metadata["config"] = metadata["config"].replace(*text)
    save_file(tensors, target, metadata=metadata)
    return target


def disagreeing(comparisons: list[Comparison]) -> set[str]:
    return {comparison.quantity for comparison in comparisons if not comparison.agrees}


def test_the_official_implementation_agrees(official: tuple[str, Path]) -> None:
    kind, path = official
    comparisons = compare_file(path)
    assert disagreeing(comparisons) == set()
    quantities = {comparison.quantity for comparison in comparisons}
    assert OUTPUTS[kind] < quantities
    assert len([name for name in quantities if name.startswith("grad ")]) >= 3


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_one_wrong_weight_is_noticed(official: tuple[str, Path], tmp_path: Path, part: str) -> None:
    kind, path = official
    name = {
        ("mae", "encoder"): "model.blocks.1.mlp.fc2.weight",
        ("mae", "decoder"): "model.decoder_blocks.0.attn.proj.bias",
        ("cmae", "encoder"): "model.backbone.layers.1.ffn.layers.1.weight",
        ("cmae", "decoder"): "model.feature_decoder.decoder_embed.weight",
    }[kind, part]

    def nudge(tensors: dict[str, Tensor]) -> None:
        tensors[name].flatten()[0] += 0.1

    wrong = disagreeing(compare_file(changed(path, tmp_path / "x", nudge, ("", ""))))
    assert wrong & OUTPUTS[kind]
    assert any(quantity.startswith("grad") for quantity in wrong)
    assert "mask" not in wrong


@pytest.mark.parametrize("kind", OUTPUTS)
def test_a_file_of_our_own_agrees(write_answer: Callable[[str], Path], kind: str) -> None:
    comparisons = compare_file(write_answer(kind))
    assert disagreeing(comparisons) == set()
    assert {c.quantity for c in comparisons} > OUTPUTS[kind]


@pytest.mark.parametrize(
    ("name", "message"),
    [("input", "lacks the tensor 'input'"), ("model.norm.bias", "do not fit together")],
)
def test_an_incomplete_file_is_told(
    write_answer: Callable[[str], Path], tmp_path: Path, name: str, message: str
) -> None:
    path = changed(write_answer("mae"), tmp_path / "x", lambda t: t.pop(name), ("", ""))
    with pytest.raises(ValueError, match=message):
        compare_file(path)


def test_what_is_no_such_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "notes.safetensors"
    path.write_text("no tensors at all")
    assert main(["parity", str(path)]) == 1
    assert "notes.safetensors is no safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        ("mae", "model.mask_token", {"loss", "pred"}),
        ("mae", "noise", {"loss", "pred", "mask"}),
        ("mae", "grad.mask_token", {"grad mask_token"}),
        ("cmae", "model.projector.fc0.weight", {"loss_ct"}),
        ("cmae", "model.pixel_decoder.mask_token", {"loss_rc"}),
        ("cmae", "model.target_projector.fc1.weight", {"loss_ct"}),
        ("cmae", "model.target_backbone.cls_token", {"loss_ct", "target_latent"}),
        ("cmae", "noise_units", {"loss_ct", "loss_rc", "mask"}),
        ("conmim", "online.mask_token", {"loss", "feat"}),
        ("conmim", "online.projectors.4.weight", {"loss", "feat"}),
        ("conmim", "target.projectors.0.weight", {"loss", "feat_full"}),
        ("conmim", "target.blocks.1.attn.v_bias", {"loss", "feat_full"}),
        ("conmim", "input_aug", {"loss", "feat_full"}),
        ("conmim", "mask", {"loss", "feat", "mask"}),
        ("conmim", "grad.mask_token", {"grad mask_token"}),
    ],
)
def test_a_wrong_tensor_shows_where_it_matters(
    write_answer: Callable[[str], Path], tmp_path: Path, kind: str, name: str, expected: set[str]
) -> None:
    def shuffle(tensors: dict[str, Tensor]) -> None:
        tensors[name] = 1.5 - tensors[name]

    wrong = disagreeing(
        compare_file(changed(write_answer(kind), tmp_path / "x", shuffle, ("", "")))
    )
    assert expected <= wrong
    assert wrong & OUTPUTS[kind] == expected & OUTPUTS[kind]


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("mae", ("norm_pix True", "norm_pix False"), {"loss"}),
        ("mae", ("mask_ratio 0.75", "mask_ratio 0.5"), {"loss", "mask", "pred"}),
        ("cmae", ("tau 0.2", "tau 0.21"), {"loss_ct"}),
        ("conmim", ("temp 0.2", "temp 0.21"), {"loss"}),
    ],
)
def test_a_wrong_setting_shows_where_it_matters(
    write_answer: Callable[[str], Path],
    tmp_path: Path,
    kind: str,
    text: tuple[str, str],
    expected: set[str],
) -> None:
    path = changed(write_answer(kind), tmp_path / "x", lambda _: None, text)
    assert expected <= disagreeing(compare_file(path))


def test_the_difference_is_relative_to_the_largest_official_value() -> None:
    comparison = _compare("x", torch.tensor([100.0, 1.0]), torch.tensor([100.0, 1.5]))
    assert comparison.difference == pytest.approx(0.005)
    assert not comparison.agrees


def test_small_rounding_agrees_and_a_lost_sign_does_not() -> None:
    official = torch.randn(50)
    assert _compare("x", official, official * (1 + 1e-6)).agrees
    assert not _compare("x", official, -official).agrees


def test_a_gradient_that_is_missing_or_broken_never_agrees() -> None:
    some, none = torch.full((3,), 1e-6), torch.zeros(3)
    assert not _compare("x", some, none).agrees
    assert not _compare("x", none, some).agrees
    assert not _compare("x", some, some * float("nan")).agrees
    assert not _compare("x", some * float("nan"), some).agrees
    assert _compare("x", none, none).agrees


def test_summaries_are_the_number_or_the_norm() -> None:
    comparison = _compare("x", torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 4.0]]))
    assert (comparison.official, comparison.ours) == (5.0, 5.0)
    assert _compare("x", torch.tensor([2.5]), torch.tensor(2.5)).ours == 2.5
