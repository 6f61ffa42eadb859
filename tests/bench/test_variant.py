"""The promise that a fast variant still computes what the float32 one computes."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from contramask.bench.measure import run_bench
from contramask.bench.ours import fixed_batches, our_variants
from contramask.bench.sizes import BenchConfig
from contramask.bench.summary import failed
from contramask.bench.variant import FixedBatches, LossCheck, Variant, first_losses
from contramask.train.device import Machine

TINY = BenchConfig(arch="vit_nano", patch_size=4, image_size=16, batch_size=4)
CPU = Machine(torch.device("cpu"), "fp32")


@pytest.mark.parametrize(
    ("losses", "difference", "passed"),
    [
        ([2.0, 1.0], 0.0, True),
        ([2.0, 1.008], 0.008, True),
        ([2.5, 1.0], 0.25, False),
        ([2.0, math.nan], math.nan, False),
        ([math.nan, 1.0], math.nan, False),
        ([2.0, math.inf], math.inf, False),
    ],
)
def test_losses_are_compared_step_by_step(
    losses: list[float], difference: float, passed: bool
) -> None:
    check = LossCheck(losses, [2.0, 1.0])
    assert check.difference == pytest.approx(difference, nan_ok=True)
    assert check.passed == passed


class WithoutAttention(nn.Module):
    """A step made faster by leaving a part out, the mistake the check is there for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        for block in model.encoder.blocks:  # type: ignore[union-attr]
            block.attn = Nothing()

    def forward(self, batch: dict[str, Tensor]) -> object:
        return self.model(batch)


class Nothing(nn.Module):
    def forward(self, tokens: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
        return torch.zeros_like(tokens)


def test_a_variant_that_leaves_work_out_fails() -> None:
    batches = fixed_batches(TINY, CPU)
    plain = our_variants(TINY, CPU, batches)[0]

    def start() -> FixedBatches:
        trainee = plain.start()
        assert isinstance(trainee, FixedBatches)
        trainee.model = WithoutAttention(trainee.model)
        return trainee

    broken = Variant("ours", "as we train", start, 1.0, plain.name)
    honest = Variant("ours", "again", plain.start, 1.0, plain.name)
    bench = run_bench([plain, honest, broken], CPU, 1)
    assert [one.variant.name for one in failed(bench)] == ["ours, as we train"]
    assert bench.variants[1].check is not None
    assert bench.variants[1].check.difference == 0


@pytest.mark.parametrize("method", ["mae", "cmae", "cmae_mao", "conmim", "supmim"])
def test_every_method_can_be_benchmarked(method: str) -> None:
    config = replace(TINY, method=method)
    batches = fixed_batches(config, CPU)
    variants = our_variants(config, CPU, batches)
    assert [v.setting for v in variants] == ["fp32", "as we train", "fed by its loader"]
    assert variants[0].flops_per_image > 1e6


def test_bf16_keeps_close_to_float32() -> None:
    batches = fixed_batches(TINY, CPU)
    variants = our_variants(TINY, Machine(torch.device("cpu"), "bf16"), batches)
    exact, fast = (first_losses(variant.start()) for variant in variants[:2])
    check = LossCheck(fast, exact)
    assert 0 < check.difference < 0.003


class Counting:
    """A trainee that only notes when it was its turn."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.waited = name, log, 0.0

    def step(self) -> Tensor:
        self.log.append(self.name)
        torch.randn(400, 400) @ torch.randn(400, 400)
        return torch.tensor(1.0)


def test_variants_take_turns() -> None:
    log: list[str] = []
    variants = [Variant(n, "x", partial(Counting, n, log), 1.0) for n in "ab"]
    bench = run_bench(variants, CPU, 3)
    turns = "".join(name for i, name in enumerate(log) if i == 0 or log[i - 1] != name)
    assert turns == "ab" * 4  # the first steps, then three rounds
    assert all(len(one.wall) == len(one.steps) == 3 for one in bench.variants)
    assert all(seconds > 0 for one in bench.variants for seconds in one.wall + one.cpu)
    assert bench.peaks.keys() == {"fp32"}
    assert len(bench.peaks["fp32"]) == 3
