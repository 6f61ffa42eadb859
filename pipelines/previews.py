"""What `kedro viz` shows of a file or folder: its layer, and a table, a picture, a chart or a text.

Kedro-viz learns the kind from the name of the type a function returns, so that what is not there
yet is shown as an empty value and not as None. Nothing of kedro-viz is imported.
"""

import base64
import io
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NewType

TablePreview = NewType("TablePreview", dict[str, Any])
ImagePreview = NewType("ImagePreview", str)
PlotlyPreview = NewType("PlotlyPreview", dict[str, Any])
JSONPreview = NewType("JSONPreview", str)

#: Rows of a table that are shown.
ROWS = 30
#: Width of a picture that is shown, px, and how many pictures of a folder.
WIDTH, PICTURES = 900, 12
#: Elements of a list inside a JSON text that are shown.
ITEMS = 12
_LAYER = re.compile(r"0\d_[a-z_]+")


def metadata_with_layer(path: Path, metadata: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The catalog's metadata and, unless it stands there, the layer `path` lies in.

    Work folders get none: a stage reads what it wrote there itself, which has no place in an order.
    """
    layers = [part for part in path.parts if _LAYER.fullmatch(part)]
    if not layers or ".work" in path.parts:
        return None if metadata is None else dict(metadata)
    given = dict(metadata or {})
    return {**given, "kedro-viz": {"layer": layers[-1], **given.get("kedro-viz", {})}}


def preview_of_file(path: Path, plot: Mapping[str, Any] | None) -> Callable[..., Any] | None:
    """How the file is shown; `plot` is what `dvc plots` draws of it (`x`, `y`, `title`), if so.

    None for a kind of file that kedro-viz cannot show.
    """
    if plot:
        return partial(line_chart, path, plot["x"], plot["y"], plot.get("title", ""))
    shown = {".parquet": table, ".csv": table, ".json": text, ".png": picture}.get(path.suffix)
    return shown and partial(shown, path)


def preview_of_folder(path: Path, kind: str) -> Callable[..., Any]:
    """How a folder of the library is shown: a stage's numbers, or what its manifest says."""
    if kind.endswith(":StageOutput"):
        return partial(table, path / "results.parquet")
    return partial(text, path / "manifest.json")


def table(path: Path, rows: int = ROWS) -> TablePreview:
    """The first rows of a parquet or CSV file."""
    if not path.is_file():
        return TablePreview({})
    if path.suffix == ".csv":
        import pandas as pd

        head = pd.read_csv(path, nrows=rows)
    else:
        import pyarrow.parquet as pq

        file = pq.ParquetFile(path)
        first = next(file.iter_batches(batch_size=rows), None)
        head = (file.schema_arrow.empty_table() if first is None else first).to_pandas()
    return TablePreview(json.loads(head.to_json(orient="split", double_precision=4)))


def text(path: Path) -> JSONPreview:
    """A JSON file, long lists cut."""
    if not path.is_file():
        return JSONPreview("")
    return JSONPreview(json.dumps(_shortened(json.loads(path.read_text(encoding="utf-8")))))


def picture(path: Path) -> ImagePreview:
    """A PNG file, made smaller when it is wide."""
    return _stacked([path] if path.is_file() else [])


def pictures(folder: Path) -> ImagePreview:
    """The first PNG files of a folder, one below the other."""
    return _stacked(sorted(folder.glob("*.png"))[:PICTURES])


def line_chart(path: Path, x: str, y: str, title: str) -> PlotlyPreview:
    """Column `y` of a CSV file over column `x`."""
    if not path.is_file():
        return PlotlyPreview({})
    import pandas as pd

    columns = pd.read_csv(path, usecols=[x, y])
    line = {"type": "scatter", "mode": "lines", "x": list(columns[x]), "y": list(columns[y])}
    return PlotlyPreview({"data": [line], "layout": _layout(title, x, y)})


def bar_chart(folder: Path, x: str, y: str) -> PlotlyPreview:
    """Tables of a folder as groups of bars: column `x` long, one colour for each value of `y`.

    Of several rows with the same `y` the first is drawn: bars of one name would pile up.
    """
    import pandas as pd

    found = {path.stem: pd.read_csv(path) for path in sorted(folder.glob("*.csv"))}
    if not found:
        return PlotlyPreview({})
    rows = pd.concat(found, names=["table"]).reset_index().drop_duplicates(["table", y])
    bars = [
        {"type": "bar", "orientation": "h", "name": str(name)}
        | {"x": list(group[x]), "y": list(group["table"])}
        for name, group in rows.groupby(y)
    ]
    layout = _layout("", x, "")
    layout["yaxis"] |= {"autorange": "reversed"}
    return PlotlyPreview({"data": bars, "layout": {**layout, "barmode": "group"}})


def _layout(title: str, x: str, y: str) -> dict[str, Any]:
    return {
        "title": {"text": title},
        "xaxis": {"title": {"text": x}, "automargin": True},
        "yaxis": {"title": {"text": y}, "automargin": True},
    }


def _stacked(paths: list[Path]) -> ImagePreview:
    if not paths:
        return ImagePreview("")
    from PIL import Image

    images = []
    for path in paths:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
        if image.width > WIDTH:
            image = image.resize((WIDTH, round(image.height * WIDTH / image.width)))
        images.append(image)
    gap = 12
    size = max(i.width for i in images), sum(i.height + gap for i in images) - gap
    sheet, top = Image.new("RGB", size, "white"), 0
    for image in images:
        sheet.paste(image, (0, top))
        top += image.height + gap
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return ImagePreview(base64.b64encode(buffer.getvalue()).decode())


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(entry) for key, entry in value.items()}
    if isinstance(value, list) and len(value) > ITEMS:
        return [*map(_shortened, value[:ITEMS]), f"... {len(value) - ITEMS} more"]
    return [_shortened(entry) for entry in value] if isinstance(value, list) else value
