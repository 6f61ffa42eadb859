"""What `kedro viz` shows: every dataset in its layer, files as tables, pictures and charts."""

import base64
import inspect
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from kedro.framework.project import settings
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog
from PIL import Image

from contramask.results import StageOutput
from pipelines.datasets import DiskDataset, FileDataset, FolderDataset, PicturesDataset
from pipelines.datasets import TablesDataset as Tables

ROOT = Path(__file__).parents[2]


def kind_of(dataset: DiskDataset) -> str:
    """The kind kedro-viz reads off the function."""
    return str(inspect.signature(dataset.preview).return_annotation.__name__)


def opened(preview: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(preview)))


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_table_shows_its_first_rows(tmp_path: Path, suffix: str) -> None:
    dataset = FileDataset(str(tmp_path / f"index{suffix}"))
    assert not dataset.preview()  # nothing is there yet
    dataset.save(pd.DataFrame({"id": ["a"] * 99, "label": [None] + [0.123456] * 98}))
    shown = dataset.preview()
    assert shown["columns"] == ["id", "label"]
    assert len(shown["data"]) == 30
    assert shown["data"][:2] == [["a", None], ["a", 0.1235]]
    assert len(dataset.preview(rows=2)["data"]) == 2


def test_an_empty_table_shows_its_columns(tmp_path: Path) -> None:
    dataset = FileDataset(str(tmp_path / "problems.parquet"))
    dataset.save(pd.DataFrame({"id": pd.Series(dtype=str), "problem": pd.Series(dtype=str)}))
    assert dataset.preview() == {"columns": ["id", "problem"], "index": [], "data": []}


def test_pictures_are_shown_small(tmp_path: Path) -> None:
    sheet = FileDataset(str(tmp_path / "sheet.png"))
    sheet.save(np.zeros((40, 1800, 3), np.uint8))
    assert opened(sheet.preview()).size == (900, 20)
    folder = PicturesDataset(str(tmp_path / "figures"))
    assert not folder.preview()
    png = (tmp_path / "sheet.png").read_bytes()
    folder.save({f"boxes-{i}": png for i in range(20)})
    assert opened(folder.preview()).size == (900, 12 * 32 - 12)


def test_what_dvc_plots_is_a_chart(tmp_path: Path) -> None:
    how = {"dvc": {"as": "plots", "x": "step", "y": "loss", "title": "Pre-training"}}
    curve = FileDataset(str(tmp_path / "curve.csv"), how)
    curve.save(pd.DataFrame({"step": [1, 2], "loss": [0.5, 0.25], "lr": [0, 0]}))
    chart = curve.preview()
    assert (chart["data"][0]["x"], chart["data"][0]["y"]) == ([1, 2], [0.5, 0.25])
    bars = Tables(str(tmp_path / "bars"), {"dvc": {"as": "plots", "x": "value", "y": "experiment"}})
    names = ["mae-s0", "cmae-s0", "cmae-s0"]  # the last one: another readout
    scores = pd.DataFrame({"experiment": names, "value": [50.0, 60.0, 1.0]})
    bars.save({"knn-top1": scores, "linear-top1": scores})
    drawn = {bar["name"]: bar for bar in bars.preview()["data"]}
    assert drawn["cmae-s0"]["x"] == [60.0, 60.0]
    assert drawn["cmae-s0"]["y"] == ["knn-top1", "linear-top1"]
    json.dumps([chart, bars.preview()])  # goes to the browser as JSON


def test_folders_show_their_numbers_or_their_manifest(tmp_path: Path) -> None:
    output = FolderDataset(str(tmp_path / "probe"), "contramask.results:StageOutput")
    assert not output.preview()
    output.save(StageOutput(facts={"stage": "probe"}))
    assert "metric" in output.preview()["columns"]
    store = FolderDataset(str(tmp_path / "store"), "contramask.data.store:Store")
    (tmp_path / "store").mkdir()
    manifest = {"name": "digits", "classes": [str(i) for i in range(200)]}
    (tmp_path / "store" / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    shown = json.loads(store.preview())
    assert shown["name"] == "digits"
    assert shown["classes"][-1] == "... 188 more"


@pytest.fixture(scope="module")
def catalog() -> DataCatalog:
    bootstrap_project(ROOT)
    loader = settings.CONFIG_LOADER_CLASS(
        conf_source=str(ROOT / "conf"), **{**settings.CONFIG_LOADER_ARGS, "default_run_env": "base"}
    )
    return DataCatalog.from_config(loader["catalog"])


def test_every_result_lies_in_a_layer_and_no_work_folder_does(catalog: DataCatalog) -> None:
    names = [*catalog.keys(), "probe_output"]
    layers: dict[str, Any] = {}
    for name in names:
        metadata = catalog.get(name).metadata or {}
        layers[name] = metadata.get("kedro-viz", {}).get("layer")
    assert {layers[n] for n in names if n.endswith("_work")} == {None}
    assert all(layers[n] for n in names if not n.endswith("_work"))
    assert layers["index"] == "02_intermediate"
    assert layers["probe_output"] == "07_model_output"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("index", "TablePreview"),
        ("problems", "TablePreview"),
        ("results_table", "TablePreview"),
        ("probe_output", "TablePreview"),
        ("data_card", "JSONPreview"),
        ("encoder", "JSONPreview"),
        ("contact_sheet", "ImagePreview"),
        ("report_figures", "ImagePreview"),
        ("pretrain_curve", "PlotlyPreview"),
        ("result_bars", "PlotlyPreview"),
    ],
)
def test_the_catalogs_datasets_are_shown(catalog: DataCatalog, name: str, kind: str) -> None:
    assert kind_of(catalog.get(name)) == kind
