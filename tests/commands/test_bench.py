"""`contramask bench` from the command line."""

import json
from pathlib import Path

import pytest
import torch

from contramask.bench import inputs, measure, ours
from contramask.bench.variant import FixedBatches, Variant
from contramask.cli import main

# Sixteen images: over four, batch norms turn bf16's rounding into a percent of the loss.
SIZES = {"arch": "vit_nano", "patch-size": 4, "image-size": 16, "batch-size": 16, "rounds": 1}
TINY = ["bench", *(str(part) for size in SIZES.items() for part in (f"--{size[0]}", size[1]))]


@pytest.fixture(autouse=True)
def short_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_MIN_TURN", 0.0)
    monkeypatch.setattr(measure, "_CPU_SIDE", 128)


def test_it_prints_a_table_and_writes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert main([*TINY, "--method", "cmae", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "cmae, vit_nano patch 4, 16 px, batch 16" in printed
    assert "ours, fed by its loader" in printed
    assert "OpenMP waiting" in printed
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert [v["name"] for v in whole["variants"]] == [
        "ours, fp32",
        "ours, as we train",
        "ours, fed by its loader",
    ]
    assert all(v["images_per_s"]["median"] > 0 for v in whole["variants"])
    assert 0 < whole["variants"][2]["data_wait"] < 1
    assert whole["machine"]["packages"]["torch"] == torch.__version__.split("+")[0]
    assert whole["failed"] == whole["ratios"] == []


def test_a_variant_that_computes_something_else_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    honest = ours.our_variants

    def with_a_cheat(*given: object) -> list[Variant]:
        variants = honest(*given)  # type: ignore[arg-type]

        def start() -> FixedBatches:
            trainee = variants[0].start()
            assert isinstance(trainee, FixedBatches)
            for parameter in trainee.model.parameters():
                parameter.data *= 0.9
            return trainee

        return [*variants, Variant("ours", "cheating", start, 1.0, variants[0].name)]

    monkeypatch.setattr(ours, "our_variants", with_a_cheat)
    assert main(TINY) == 1
    assert "loss of `ours, cheating` left that of `ours, fp32`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["--image-size", "18"], "18 px cannot be cut into patches of 4 px"),
        (["--peers", "hf,timn"], "bench.peers"),
        (["--method", "conmim", "--peers", "timm"], "no peer has an equivalent of conmim"),
        (["--mode", "input", "--method", "cmae"], "leave --method and --peers out"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    given: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TINY, *given]) == 1
    assert sentence in capsys.readouterr().err


def test_the_input_has_a_table_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "worker_count", lambda: 0)
    out = tmp_path / "input.json"
    assert main([*TINY, "--mode", "input", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "input, crops of 16 px, batch 16" in printed
    assert "official: JPEG, PIL, DataLoader" in printed
    whole = json.loads(out.read_text(encoding="utf-8"))
    assert whole["mode"] == "input"
    assert whole["machine"]["omp_wait_policy"]
