"""The table of candidates: complete, honest about its controls, and its winner can be asked for."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from contramask.boxes import candidates as module
from contramask.boxes.candidates import (
    COLUMNS,
    CONTROLS,
    RULES_COMPARED,
    candidates,
    compare_candidates,
    configuration,
)
from contramask.boxes.encoder_maps import MapChoice
from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.boxes.quality import box_scores, ground_truth, summary
from contramask.boxes.rules import REFERENCE_RULE, RuleConfig
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.models.decoder import DecoderConfig, TokenDecoder
from contramask.models.pixel_decoder import PixelDecoder
from contramask.typed import parse


@pytest.fixture(autouse=True)
def few_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {"reference": REFERENCE_RULE, "smooth-0.35": RuleConfig(threshold=0.35)}
    monkeypatch.setattr(module, "RULES_COMPARED", rules)


@pytest.fixture
def folder(tiny_bundle: EncoderBundle, tmp_path: Path) -> Path:
    tiny_bundle.write(tmp_path / "mine-s0")
    return tmp_path / "mine-s0"


def test_candidates_without_an_encoder_are_the_classical_ones(tiny_store: Store) -> None:
    table = compare_candidates(tiny_store, None, 20)
    assert list(table.columns) == COLUMNS
    check = table[table["part"] == "check"]
    assert len(check) == 2 * 2 + len(CONTROLS)
    assert check["images"].unique().tolist() == [20]
    assert check["map"].tail(3).tolist() == list(CONTROLS)
    best = table.iloc[0]
    assert best["passes"]
    assert (best["map"], best["rule"]) == ("edge_energy", "smooth-0.35")
    assert best["corloc"] > 0.8
    assert best["gain"] == pytest.approx(best["corloc"] - best["shuffled"])
    full = check[check["map"] == "full"].iloc[0]
    assert (full["coverage"], full["area"], full["gain"], full["passes"]) == (1, 1, 0, False)
    held_out = table[table["part"] == "held_out"]
    assert held_out["map"].tolist() == ["edge_energy", *CONTROLS]
    assert held_out["images"].unique().tolist() == [20]
    assert held_out["corloc"].iloc[0] > 0.7


def test_numbers_are_those_of_the_box_set_the_stage_would_make(tiny_store: Store) -> None:
    table = compare_candidates(tiny_store, None, 96, "train")
    assert "held_out" not in set(table["part"])  # nobody is left
    row = table[(table["map"] == "edge_energy") & (table["rule"] == "smooth-0.35")].iloc[0]
    config = parse(BoxConfig, configuration(row), "crop_boxes")
    boxes = generate_boxes(tiny_store, config).boxes
    split = tiny_store["train"]
    assert split.instances is not None
    scores = summary(box_scores(boxes, ground_truth(split.instances, (32, 32))))
    assert row["images"] == scores["images"]
    for name in ("corloc", "coverage", "iou", "area"):
        assert row[name] == pytest.approx(scores[name])


def test_every_map_of_an_encoder_is_compared(tiny_store: Store, folder: Path) -> None:
    table = compare_candidates(tiny_store, folder, 12)
    check = table[table["part"] == "check"]
    maps = check[["map", "block", "baseline"]].drop_duplicates()
    known = maps[maps["block"].notna()]
    assert set(known["map"]) == {"cls_attn", "rollout", "key_sim", "ncut", "pc1", "token_norm"}
    assert known["block"].unique().tolist() == [2]
    assert len(known) == 2 + 4 * 2  # attention knows no baseline
    assert len(check) == (len(known) + 2) * 2 + len(CONTROLS)
    ranked = check.iloc[: -len(CONTROLS)]
    assert ranked["passes"].is_monotonic_decreasing
    failing = ranked[~ranked["passes"]]
    assert failing["corloc"].is_monotonic_decreasing


def test_the_error_map_is_compared_where_there_is_a_decoder(
    tiny_store: Store, folder: Path
) -> None:
    sizes = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
    PixelDecoder(TokenDecoder(32, 8 * 8 * 3, (4, 4), sizes), 0.75, True).write(folder)
    table = compare_candidates(tiny_store, folder, 6)
    assert (table["map"] == "rec_err").sum() >= 2


def test_a_winner_without_a_baseline_is_found_again_on_other_images(
    tiny_store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PRODUCERS", {})
    monkeypatch.setattr(module, "candidates", lambda *_: [MapChoice("cls_attn", 2)])
    table = compare_candidates(tiny_store, folder, 6)
    again = table[table["part"] == "held_out"].iloc[0]
    assert (again["map"], again["block"]) == ("cls_attn", 2)
    asked = configuration(again)
    assert set(asked) == {"method", "block", "rule"}
    assert parse(BoxConfig, asked, "crop_boxes").block == 2


def test_boxes_that_know_nothing_do_not_pass(
    tiny_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def same(images: np.ndarray, grid: int) -> np.ndarray:
        maps = np.zeros((len(images), grid, grid), dtype=np.float32)
        maps[:, 1:15, 1:15] = 1
        return maps

    monkeypatch.setattr(module, "PRODUCERS", {"same": same})
    table = compare_candidates(tiny_store, None, 20)
    assert not table["passes"].any()
    assert table["gain"].iloc[0] == 0


def test_blocks_are_those_of_the_last_third() -> None:
    assert {each.block for each in candidates(12, False)} == {9, 10, 11, 12}
    assert {each.block for each in candidates(2, False)} == {2}
    assert MapChoice("rec_err") in candidates(12, True)


def test_every_rule_can_be_asked_for() -> None:
    assert {"reference", "closure-0.5", "largest-0.5", "smooth-0.5", "mass"} <= set(RULES_COMPARED)
    row = pd.Series({"map": "pc1", "block": 3, "baseline": "none", "rule": "reference"})
    config = parse(BoxConfig, configuration(row), "crop_boxes")
    assert (config.method, config.block, config.baseline) == ("pc1", 3, "none")
    assert config.rule == REFERENCE_RULE


def test_what_cannot_be_compared_is_refused(
    tiny_store: Store, plain_store: Store, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="has no true boxes in val or train"):
        compare_candidates(plain_store, None, 20)
    with pytest.raises(ValueError, match="too few to compare on"):
        compare_candidates(tiny_store, None, 2)
    with pytest.raises(ValueError, match="holds no encoder"):
        compare_candidates(tiny_store, tmp_path, 20)
