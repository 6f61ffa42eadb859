"""`contramask boxes compare` as a user calls it."""

import json
from pathlib import Path

import pytest

from contramask.cli import main
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle


def test_json_is_one_object_with_every_candidate(
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny_bundle.write(tmp_path)
    given = ["boxes", "compare", str(tiny_store.folder), "--encoder", str(tmp_path)]
    assert main([*given, "--limit", "10", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer) == {"winner", "rows", "speed"}
    assert answer["winner"] == (answer["rows"][0] if answer["rows"][0]["passes"] else None)
    row = next(row for row in answer["rows"] if row["map"] == "pc1")
    assert row["block"] == 2
    assert 0 <= row["corloc"] <= 1
    assert answer["speed"][0]["map"] == "forward"


def test_tables_for_people_are_not_cut_off(
    tiny_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["boxes", "compare", str(tiny_store.folder), "--limit", "20"]) == 0
    shown = capsys.readouterr().out
    for word in ("edge_energy", "spectral_residual", "center_half", "mean_box", "other images"):
        assert word in shown
    assert "crop_boxes: {method: edge_energy, rule: {" in " ".join(shown.split())


def test_a_store_without_boxes_is_an_error_with_a_sentence(
    plain_store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["boxes", "compare", str(plain_store.folder)]) == 1
    assert "has no true boxes" in capsys.readouterr().err
    assert main(["boxes", "compare", str(tmp_path)]) == 1
    assert "manifest.json is missing" in capsys.readouterr().err
