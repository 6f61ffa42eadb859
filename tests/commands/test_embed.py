"""`contramask embed` on folders, lists and single images."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from contramask.cli import main
from contramask.models.bundle import EncoderBundle, make_bundle
from contramask.models.encoder import EncoderConfig, build_encoder
from contramask.results import RunInfo

CONFIG = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def encoder_folder(folder: Path, in_chans: int = 3) -> Path:
    """An untrained encoder for 24 px."""
    torch.manual_seed(1)
    data = {"name": "shapes", "data_hash": "beef", "mean": MEAN[:in_chans], "std": STD[:in_chans]}
    encoder = build_encoder(CONFIG, (24, 24), in_chans)
    bundle = make_bundle(encoder, RunInfo("mae-0a1b-s0", "0a1b", 0), "mae", "online", data)
    bundle.write(folder / "encoder")
    return folder / "encoder"


def images(folder: Path, count: int = 7) -> list[Path]:
    """Random images of 24 px, which need no resizing, in nested folders."""
    rng = np.random.default_rng(0)
    paths = [folder / str(i % 2) / f"{i}.png" for i in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)).save(path)
    return sorted(paths)


def expected(encoder: Path, paths: list[Path]) -> dict[str, np.ndarray]:
    """The features from their definition."""
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]) / 255
    normal = torch.tensor((pixels - MEAN) / STD, dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = EncoderBundle.read(encoder).encoder.eval().forward_tokens(normal)
    return {"cls": tokens[:, 0].numpy(), "mean": tokens[:, 1:].mean(dim=1).numpy()}


def embedded(*words: object) -> int:
    return main(["embed", *map(str, words)])


def test_a_folder_becomes_a_table_of_fixed_size_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, paths = encoder_folder(tmp_path), images(tmp_path / "images")
    out = tmp_path / "new" / "features.parquet"
    assert embedded(encoder, tmp_path / "images", out, "--batch-size", 3) == 0
    assert f"{out}: 7 images, 0 skipped, columns path, cls, mean" in capsys.readouterr().out
    schema = pq.read_schema(out)
    assert schema.names == ["path", "cls", "mean"]
    assert schema.field("cls").type == schema.field("mean").type == pa.list_(pa.float32(), 32)
    table = pd.read_parquet(out)
    assert table["path"].tolist() == [str(path) for path in paths]
    for name, values in expected(encoder, paths).items():
        np.testing.assert_allclose(np.stack(table[name]), values, atol=2e-5)
    manifest = json.loads((tmp_path / "new" / "features.parquet.manifest.json").read_text())
    assert manifest == json.loads(schema.metadata[b"contramask"])
    assert manifest["encoder"]["config_hash"] == "0a1b"
    assert (manifest["images"], manifest["skipped"]) == (7, [])
    assert sorted(p.name for p in out.parent.iterdir()) == [
        "features.parquet",
        "features.parquet.manifest.json",
    ]


def test_a_list_keeps_its_order_and_unreadable_images_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder, paths = encoder_folder(tmp_path), images(tmp_path / "images")
    paths[2].write_bytes(b"broken")
    order = [paths[5], paths[2], tmp_path / "gone.png", paths[0]]
    (tmp_path / "list.txt").write_text("\n".join(map(str, order)))
    assert embedded(encoder, tmp_path / "list.txt", tmp_path / "out.parquet") == 0
    printed = capsys.readouterr().out
    assert f"skipped: {paths[2]} is not an image Pillow knows" in printed
    assert f"skipped: {tmp_path / 'gone.png'} cannot be opened" in printed
    assert "2 images, 2 skipped" in printed
    table = pd.read_parquet(tmp_path / "out.parquet")
    assert table["path"].tolist() == [str(paths[5]), str(paths[0])]
    values = expected(encoder, [paths[5], paths[0]])["mean"]
    np.testing.assert_allclose(np.stack(table["mean"]), values, atol=2e-5)
    manifest = json.loads((tmp_path / "out.parquet.manifest.json").read_text())
    assert [image["path"] for image in manifest["skipped"]] == [str(p) for p in order[1:3]]


def test_one_image_gets_one_row(tmp_path: Path) -> None:
    encoder, paths = encoder_folder(tmp_path), images(tmp_path / "images")
    assert embedded(encoder, paths[1], tmp_path / "out.parquet") == 0
    assert pd.read_parquet(tmp_path / "out.parquet")["path"].tolist() == [str(paths[1])]


def test_nothing_is_written_when_nothing_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = encoder_folder(tmp_path)
    (tmp_path / "list.txt").write_text("here.png\nthere.png\n")
    assert embedded(encoder, tmp_path / "list.txt", tmp_path / "out.parquet") == 1
    text = capsys.readouterr().err
    assert "none of 2 images can be read (relative paths are looked for from" in text
    assert "  - here.png cannot be opened" in text
    assert not list(tmp_path.glob("out*"))


def test_what_cannot_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    encoder, paths = encoder_folder(tmp_path), images(tmp_path / "images")
    tries = [
        ((tmp_path, paths[0], "o.parquet"), "holds no encoder: manifest.json is missing"),
        ((encoder, paths[0], "o.csv"), "the table is written as Parquet; call it o.parquet"),
        ((encoder, paths[0], "o.parquet", "--batch-size", 0), "--batch-size must be at least 1"),
    ]
    for words, sentence in tries:
        assert embedded(*words) == 1
        assert sentence in capsys.readouterr().err


def test_an_encoder_of_grey_images_reads_colour_files_as_grey(tmp_path: Path) -> None:
    paths = images(tmp_path / "images")
    out = tmp_path / "o.parquet"
    assert embedded(encoder_folder(tmp_path / "grey", 1), paths[0], out) == 0
    assert pq.read_table(out).num_rows == 1
