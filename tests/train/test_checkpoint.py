"""Running checkpoints: whole or not there, and never another run's."""

from pathlib import Path

import pytest
import torch

from contramask.train.checkpoint import Keeper, ResumeRefused
from contramask.train.leftovers import forget

CPU = torch.device("cpu")
SETTINGS = {"pretrain": {"epochs": 3, "betas": (0.9, 0.95)}, "seed": 0, "box_set": None}


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "work", SETTINGS)
    assert keeper.load(CPU) is None
    keeper.save({"step": 4, "model": {"weight": torch.arange(3.0)}, "rows": [{"loss": 0.5}]})
    state = Keeper(tmp_path / "work", SETTINGS).load(CPU)
    assert state is not None
    assert state["step"] == 4
    assert state["rows"] == [{"loss": 0.5}]
    assert torch.equal(state["model"]["weight"], torch.arange(3.0))
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["last.pt"]


def test_the_latest_save_counts(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, SETTINGS)
    keeper.save({"step": 1})
    keeper.save({"step": 2})
    state = keeper.load(CPU)
    assert state is not None
    assert state["step"] == 2


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    Keeper(tmp_path, SETTINGS).save({"step": 4})
    other = {"pretrain": {"epochs": 5, "betas": (0.9, 0.95)}, "seed": 1, "box_set": "abc"}
    with pytest.raises(ResumeRefused) as refusal:
        Keeper(tmp_path, other).load(CPU)
    text = str(refusal.value)
    assert "pretrain.epochs: 3 in the checkpoint, 5 now" in text
    assert "seed: 0 in the checkpoint, 1 now" in text
    assert "box_set: None in the checkpoint, 'abc' now" in text
    assert "betas" not in text
    assert "delete the file to start anew" in text
    assert (tmp_path / "last.pt").exists()


def test_a_setting_that_came_or_went_is_named(tmp_path: Path) -> None:
    Keeper(tmp_path, {"method": {"name": "cmae", "momentum": 0.996}}).save({})
    with pytest.raises(ResumeRefused, match=r"method.momentum: 0\.996 in the checkpoint, None now"):
        Keeper(tmp_path, {"method": {"name": "cmae"}}).load(CPU)


def test_a_long_list_of_differences_is_cut_off(tmp_path: Path) -> None:
    Keeper(tmp_path, {f"key{i}": 0 for i in range(30)}).save({})
    with pytest.raises(ResumeRefused) as refusal:
        Keeper(tmp_path, {f"key{i}": 1 for i in range(30)}).load(CPU)
    assert str(refusal.value).count("in the checkpoint") == 20


@pytest.mark.parametrize("keep", [0, 1, 100, -20])
def test_a_truncated_file_is_a_clear_error(tmp_path: Path, keep: int) -> None:
    keeper = Keeper(tmp_path, SETTINGS)
    keeper.save({"step": 4, "model": {"weight": torch.zeros(1000)}})
    keeper.path.write_bytes(keeper.path.read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"last\.pt cannot be read .* delete the file"):
        keeper.load(CPU)


def test_code_in_the_file_is_not_run(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, SETTINGS)
    torch.save({"fingerprint": SETTINGS, "path": Path("x")}, keeper.path)
    with pytest.raises(ValueError, match="cannot be read"):
        keeper.load(CPU)


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = Keeper(tmp_path, SETTINGS)
    keeper.save({"step": 1})

    def full(state: object, stream: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="no space left"):
        keeper.save({"step": 2})
    state = keeper.load(CPU)
    assert state is not None
    assert state["step"] == 1


def test_older_checkpoints_stay_as_asked_and_serve_when_the_newest_is_damaged(
    tmp_path: Path,
) -> None:
    keeper = Keeper(tmp_path, SETTINGS, keep_last=3)
    for step in range(5):
        keeper.save({"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last-1.pt", "last-2.pt", "last.pt"]
    for expected, path in ((4, "last.pt"), (3, "last-1.pt"), (2, "last-2.pt")):
        state = keeper.load(torch.device("cpu"))
        assert state is not None
        assert state["step"] == expected
        (tmp_path / path).write_bytes(b"damaged")
    with pytest.raises(ValueError, match=r"last\.pt cannot be read .* delete the file"):
        keeper.load(torch.device("cpu"))
    forget(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_kill_between_two_renames_loses_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, SETTINGS, keep_last=2)
    keeper.save({"step": 1})
    keeper.path.rename(tmp_path / "last-1.pt")
    state = keeper.load(torch.device("cpu"))
    assert state is not None
    assert state["step"] == 1


def test_milestones_stay_for_good(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path, SETTINGS, milestones=[2])
    keeper.save({"step": 8})
    keeper.keep_milestone(2)
    keeper.save({"step": 9})
    forget(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-0002.pt"]
    assert torch.load(tmp_path / "epoch-0002.pt", weights_only=True)["step"] == 8
