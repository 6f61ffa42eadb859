import numpy as np
import pandas as pd

from contramask.report.intervals import Cell
from contramask.report.notes import methods_shown, normal_notes
from contramask.report.tables import TASKS, Measured

FINETUNE = next(task for task in TASKS if task.metric == "finetune_top1")


def seen(columns=(), curves=None):
    return {note.question: note.seen for note in normal_notes(columns, curves or {})}


def measured(task, **cells):
    return Measured(task, "val", "knn", "mean", cells)


def test_every_note_stands_without_data():
    notes = normal_notes([], {})
    assert len(notes) == 6
    assert not any(note.seen for note in notes)


def test_knn_below_the_anchor_is_pointed_out():
    column = measured(TASKS[0], **{"random init": Cell((30.0,)), "MAE": Cell((27.5,), (30.0,))})
    found = seen([column])
    line = ("MAE, kNN: \N{MINUS SIGN}2.5 points to random init",)
    assert found["The kNN of MAE is poor"] == line
    assert found["A pre-trained encoder is below random init"] == line


def test_a_contrastive_loss_that_rises_is_pointed_out():
    step = np.arange(100)
    falling = pd.DataFrame({"contrast_loss": np.exp(-step / 20)})
    rising = pd.DataFrame({"contrast_loss": np.exp(-step / 20) + 0.004 * step})
    found = seen(curves={"falls": falling, "rises": rising, "mae": pd.DataFrame({"loss": step})})
    (line,) = found["The contrastive loss falls and then rises"]
    assert line.startswith("rises: ")


def test_close_fine_tuning_is_pointed_out():
    close = measured(FINETUNE, MAE=Cell((80.0,)), CMAE=Cell((81.5,)))
    wide = measured(FINETUNE, MAE=Cell((80.0,)), CMAE=Cell((91.5,)))
    question = "Fine-tuning shows hardly any difference"
    assert seen([close])[question] == ("all encoders lie within 1.5 points",)
    assert seen([wide])[question] == ()


def test_only_methods_that_are_there_are_described():
    assert [name for name, _ in methods_shown(["cmae", "random_init", "own"])] == [
        "random init",
        "CMAE",
    ]
