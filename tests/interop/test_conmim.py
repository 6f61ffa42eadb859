"""The official ConMIM's names, and whether our method computes what it computes."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from contramask.interop.conmim import build_conmim, conmim_name, conmim_pairs, conmim_state
from contramask.interop.official import KnownAnswer
from contramask.interop.parity import Comparison, _compare, compare_file
from contramask.methods.conmim import ConMIM

PATH = (
    Path(__file__).parents[2].parent
    / "shared"
    / "known-answers"
    / "conmim_official_tiny.safetensors"
)


@pytest.fixture
def answer() -> KnownAnswer:
    """The official known answer, its tensors free to be changed."""
    if not PATH.is_file():
        pytest.skip("needs the official implementation's known answer, which is not public")
    with safe_open(PATH, "pt") as archive:
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        metadata = archive.metadata()
    return KnownAnswer("conmim", tensors, metadata["config"], metadata["source"])


def compared(answer: KnownAnswer) -> dict[str, Comparison]:
    """Every stored output and gradient against ours, by name."""
    method = build_conmim(answer).train()
    pairs = list(conmim_pairs(method, answer))
    for name, official in answer.under("grad.").items():
        ours = method.get_parameter(conmim_name(name)).grad
        assert ours is not None
        pairs.append((f"grad {name}", official, ours))
    return {pair[0]: _compare(*pair) for pair in pairs}


def wrong(answer: KnownAnswer) -> set[str]:
    return {name for name, comparison in compared(answer).items() if not comparison.agrees}


def test_the_official_implementation_agrees(answer: KnownAnswer) -> None:
    found = compared(answer)
    assert set(found) == {
        *("loss", "mask", "feat", "feat_full"),
        *("grad blocks.0.attn.qkv.weight", "grad mask_token", "grad projectors.0.weight"),
    }
    assert max(comparison.difference for comparison in found.values()) < 1e-5


@pytest.mark.parametrize(
    ("name", "unchanged"),
    [
        ("online.blocks.1.gamma_2", {"mask", "feat_full"}),
        ("online.blocks.2.attn.v_bias", {"mask", "feat_full"}),
        ("online.rel_pos_bias.relative_position_bias_table", {"mask", "feat_full"}),
        ("online.projectors.4.bias", {"mask", "feat_full"}),
        ("target.projectors.1.weight", {"mask", "feat"}),
        ("input_aug", {"mask", "feat"}),
    ],
)
def test_a_wrong_tensor_is_noticed_where_it_matters(
    answer: KnownAnswer, name: str, unchanged: set[str]
) -> None:
    torch.manual_seed(0)
    answer.tensors[name] += 0.2 * torch.randn_like(answer.tensors[name])
    found = wrong(answer)
    assert "loss" in found
    assert {"loss", "mask", "feat", "feat_full"} - found == unchanged


@pytest.mark.parametrize("name", ["rel_pos_bias2.relative_position_bias_table", "mask_token"])
def test_what_the_target_never_uses_does_not_matter(answer: KnownAnswer, name: str) -> None:
    answer.tensors[f"target.{name}"] += 1
    assert wrong(answer) == set()


def test_a_method_is_built_of_the_files_sizes(answer: KnownAnswer) -> None:
    method = build_conmim(answer)
    assert isinstance(method, ConMIM)
    assert method.encoder.config.sizes == (48, 3, 3)
    assert (method.encoder.patch_size, method.encoder.image_size) == (4, (32, 32))
    assert (method.config.head_hidden_dim, method.config.head_out_dim) == (64, 16)
    assert method.config.temperature == 0.1
    loaded = method.target_encoder.get_parameter("blocks.2.gamma_1")
    assert torch.equal(loaded, answer.tensors["target.blocks.2.gamma_1"])


def test_positions_that_are_numbered_otherwise_are_refused(answer: KnownAnswer) -> None:
    index = answer.tensors["online.rel_pos_bias.relative_position_index"]
    answer.tensors["online.rel_pos_bias.relative_position_index"] = index.T.contiguous()
    with pytest.raises(ValueError, match="numbers relative positions differently"):
        build_conmim(answer)


@pytest.mark.parametrize(
    ("official", "ours"),
    [
        ("online.cls_token", "online_encoder.cls_token"),
        ("online.mask_token", "mask_token"),
        ("mask_token", "mask_token"),
        ("blocks.0.attn.qkv.weight", "online_encoder.blocks.0.attn.qkv.weight"),
        ("projectors.0.weight", "projector.fc0.weight"),
        ("online.projectors.1.running_var", "projector.bn0.running_var"),
        ("online.projectors.3.weight", "projector.fc1.weight"),
        ("target.projectors.4.bias", "target_projector.bn1.bias"),
        ("target.projectors.6.weight", "target_projector.fc2.weight"),
        ("target.projectors.7.num_batches_tracked", "target_projector.bn2.num_batches_tracked"),
        ("target.blocks.11.attn.q_bias", "target_encoder.blocks.11.attn.q_bias"),
        (
            "target.rel_pos_bias.relative_position_bias_table",
            "target_encoder.rel_pos_bias.relative_position_bias_table",
        ),
    ],
)
def test_names(official: str, ours: str) -> None:
    assert conmim_name(official) == ours


def test_dead_weights_are_left_out() -> None:
    used = ["online.norm.bias", "online.mask_token", "target.norm.bias"]
    dead = [
        *("online.rel_pos_bias2.relative_position_bias_table", "online.lm_head.weight"),
        *("online.rel_pos_bias.relative_position_index", "target.lm_head.bias"),
        *("target.rel_pos_bias2.relative_position_index", "target.mask_token"),
    ]
    state = conmim_state({name: torch.ones(1) for name in [*used, *dead, "input", "grad.x"]})
    assert sorted(state) == ["mask_token", "online_encoder.norm.bias", "target_encoder.norm.bias"]


def test_the_command_knows_the_file(answer: KnownAnswer) -> None:
    comparisons = compare_file(PATH)
    assert {c.quantity for c in comparisons} == set(compared(answer))
    assert all(comparison.agrees for comparison in comparisons)
