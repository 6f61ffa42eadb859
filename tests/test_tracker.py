"""Trackers: one writes JSON lines and pictures, one writes nothing."""

import json
from pathlib import Path

from matplotlib.figure import Figure

from contramask.tracker import JsonLinesTracker, NullTracker, Tracker


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def use(tracker: Tracker, path: Path) -> None:
    """Call each of the three methods once, and `log` twice."""
    tracker.log({"pretrain/loss": 0.5, "pretrain/lr": 1e-3}, 0)
    tracker.log({"pretrain/loss": 0.25}, 20)
    tracker.figure("pretrain/views", Figure(figsize=(1, 1)))
    tracker.artifact(path)
    tracker.rewind("pretrain", 20)


def test_every_call_is_one_json_line(tmp_path: Path) -> None:
    log = tmp_path / "deep" / "metrics.jsonl"
    use(JsonLinesTracker(log), tmp_path / "weights.bin")
    first, second, figure, artifact = lines(log)
    assert first["step"] == 0
    assert first["pretrain/lr"] == 1e-3
    assert (second["step"], second["pretrain/loss"]) == (20, 0.25)
    assert second["time"] >= first["time"]  # type: ignore[operator]
    assert figure == {"figure": "pretrain-views.png"}
    assert artifact == {"artifact": str(tmp_path / "weights.bin")}


def test_figures_are_saved_beside_the_lines(tmp_path: Path) -> None:
    use(JsonLinesTracker(tmp_path / "metrics.jsonl"), tmp_path)
    assert (tmp_path / "pretrain-views.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_tracker_continues_the_file(tmp_path: Path) -> None:
    JsonLinesTracker(tmp_path / "m.jsonl").log({"loss": 1.0}, 0)
    JsonLinesTracker(tmp_path / "m.jsonl").log({"loss": 0.5}, 1)
    assert [line["loss"] for line in lines(tmp_path / "m.jsonl")] == [1.0, 0.5]


def test_what_is_written_once_more_is_forgotten(tmp_path: Path) -> None:
    log = tmp_path / "m.jsonl"
    tracker = JsonLinesTracker(log)
    tracker.rewind("pretrain", 0)  # nothing was written yet
    for step in (10, 20, 30):
        tracker.log({"pretrain/loss": 1 / step}, step)
    tracker.log({"tokenizer/loss": 1.0}, 40)
    tracker.artifact(tmp_path / "views.npz")
    with log.open("a", encoding="utf-8") as stream:
        stream.write('{"step": 50, "pretrain/lo')  # killed
    JsonLinesTracker(log).rewind("pretrain", 20)
    assert [line.get("step") for line in lines(log)] == [10, 20, 40, None]
    JsonLinesTracker(log).log({"pretrain/loss": 0.0}, 30)
    assert lines(log)[-1]["step"] == 30
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


def test_the_null_tracker_leaves_no_trace(tmp_path: Path) -> None:
    use(NullTracker(), tmp_path)
    assert list(tmp_path.iterdir()) == []
