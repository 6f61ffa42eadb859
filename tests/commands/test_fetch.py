"""`contramask fetch`: lists the sets, tells terms, and what to type next."""

from pathlib import Path

import pytest

from contramask.cli import main
from contramask.data import public_sets


def test_without_a_name_the_sets_are_listed(capsys) -> None:
    assert main(["fetch"]) == 0
    told = capsys.readouterr().out
    assert all(name in told for name in public_sets.PUBLIC_SETS)


def test_an_unknown_set_is_answered_with_the_known_ones(capsys) -> None:
    assert main(["fetch", "imagenet"]) == 1
    assert "known: imagenette, tiny_imagenet" in capsys.readouterr().err


def test_terms_come_first_and_the_next_command_last(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cifar10" / "cifar-10-batches-bin").mkdir(parents=True)
    assert main(["fetch", "cifar10", "--to", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "terms: no licence is stated" in told[1]
    root = tmp_path / "cifar10" / "cifar-10-batches-bin"
    assert told[-1].endswith(f"dataset.source=cifar10,dataset.root={root}")
