"""Process settings: set where they help, left alone where the user chose."""

import os

import pytest

from contramask import startup


@pytest.mark.parametrize(("given", "kept"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_is_passive_unless_the_user_chose(
    given: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")  # so that it is put back afterwards
    monkeypatch.delenv("OMP_WAIT_POLICY")
    if given:
        monkeypatch.setenv("OMP_WAIT_POLICY", given)
    startup.tune_process()
    assert os.environ["OMP_WAIT_POLICY"] == kept


def test_memory_tuning_is_left_out_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(name: str) -> None:
        asked.append(name)
        raise OSError("no such library")

    monkeypatch.setattr(startup.ctypes, "CDLL", refuse)
    startup.keep_freed_memory()
    assert asked == ["libc.so.6"]
