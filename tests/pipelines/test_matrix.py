"""Which stages `dvc repro` runs: the real dvc.yaml, with commands that only write their outs."""

from collections.abc import Callable
from typing import Any

import pytest

Edit = Callable[[dict[str, Any]], Any]


def test_everything_runs_once(stubbed_project: Any) -> None:
    cells = stubbed_project.cells("mae-0", "cmae-0")
    assert stubbed_project.ran == {"dataset", "crop_boxes", "report"} | cells
    assert stubbed_project.repro() == set()


@pytest.mark.parametrize(
    ("file", "edit", "concerned"),
    [
        ("methods", lambda p: p["methods"]["cmae"].update(mask_ratio=0.6), ["cmae-0"]),
        ("methods", lambda p: p["recipes"]["mae"].update(clip_grad=1.0), ["mae-0"]),
        ("probe", lambda p: p["probe"].update(k=5), ["probe@mae-0", "probe@cmae-0"]),
        ("pretrain", lambda p: p["pretrain"].update(epochs=17), ["mae-0", "cmae-0"]),
        ("launch", lambda p: p["launch"].update(device="cpu"), []),
    ],
)
def test_only_what_a_change_concerns_runs_again(
    stubbed_project: Any, file: str, edit: Edit, concerned: list[str]
) -> None:
    stubbed_project.change(f"parameters_{file}", edit)
    expected = {"report"} if concerned else set()
    for name in concerned:
        expected |= {name} if "@" in name else stubbed_project.cells(name)
    assert stubbed_project.repro() == expected


def test_adding_to_the_matrix_runs_what_is_new(stubbed_project: Any) -> None:
    project = stubbed_project
    lists = {"methods": ["mae"], "token_methods": ["supmim"]}
    project.change("parameters", lambda p: p["experiment"].update(lists))
    supmim = {"tokenizer@supmim-0"} | project.cells("supmim-0", suffix="_tokens")
    assert project.repro() == supmim | {"report"}
    project.change("parameters_tokenizer", lambda p: p["tokenizer"].update(epochs=7))
    assert project.repro() == supmim | {"report"}
    project.change("parameters", lambda p: p["experiment"].update(seeds=[0, 1]))
    supmim = {"tokenizer@supmim-1"} | project.cells("supmim-1", suffix="_tokens")
    assert project.repro() == supmim | project.cells("mae-1") | {"report"}
