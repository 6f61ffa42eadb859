import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from contramask.cli import main


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Thirty good images, a copy, and three odd ones."""
    rng = np.random.default_rng(0)
    for i in range(30):
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i:02}.png")
    (tmp_path / "copy.png").write_bytes((tmp_path / "00.png").read_bytes())
    (tmp_path / "[red]words.jpg").write_text("words")
    (tmp_path / "empty.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((20, 30), np.uint16)).save(tmp_path / "deep.png")
    return tmp_path


def test_what_is_printed(folder: Path, capsys) -> None:
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "found folder: 34 image files" in shown
    assert f"kedro run --pipeline dataset --params dataset.source=folder,dataset.root={folder}" in (
        shown.replace("\n", "")
    )
    for text in ("PNG (32)", "1 surplus", "00.png = copy.png", "is empty (0 bytes)", "16-bit grey"):
        assert text in shown
    assert "[red]words.jpg" in shown
    assert "34 of 34 images decoded" in shown
    assert "of a square or [rows, columns]" in " ".join(shown.split())


def test_limit(folder: Path, capsys) -> None:
    assert main(["inspect", str(folder), "--limit", "5"]) == 0
    assert "5 of 34 images decoded" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["inspect", str(folder), "--limit", "-1"])
    assert "'-1' is no number of images" in capsys.readouterr().err


def test_json_alone_is_written(folder: Path, capsys) -> None:
    assert main(["inspect", str(folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["images"]["found"] == 34
    assert len(found["problems"]) == 3


def test_what_is_no_folder_of_images(tmp_path: Path, capsys) -> None:
    assert main(["inspect", str(tmp_path)]) == 0
    assert "no layout was recognised" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "nowhere does not exist" in capsys.readouterr().err
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    assert main(["inspect", str(tmp_path / "a.png")]) == 0
    assert "a single image" in capsys.readouterr().out
