"""The four notebooks, at small size and one after the other in one kernel."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[2]
#: Notebook -> what its parameters become, and what must be true at its end.
NOTEBOOKS = {
    "01_first_run": (
        "NUM_SCENES, EPOCHS = 256, 1",
        "assert table.shape == (2, 6) and table.notna().all(axis=None)\n"
        "assert 'random_init' in table.index and curve['loss'].notna().all()",
    ),
    "02_your_own_images": (
        "EPOCHS = 1",
        "assert 'skipped' in set(built.problems['action']), built.problems\n"
        "assert len(store['train']) + len(store['val']) == 600\n"
        "assert nearest.shape == (8, 3) and found['layouts']",
    ),
    "03_compare_methods": (
        "SEEDS, NUM_SCENES, EPOCHS = (0,), 128, 1",
        "assert set(METHODS) <= set(table.index.get_level_values(0)) and page.is_file()",
    ),
    "04_use_the_encoder": (
        "",
        "assert exported.difference < 1e-3 and embedded.table.num_rows == 20\n"
        "assert tokens.shape == (8, 65, 128) and accuracy > 0.1",
    ),
}


def test_the_notebooks_run_and_their_results_are_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # on busy cores small products wait for each other
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    cells = [_code("import torch; torch.set_num_threads(1)")]
    for name, (small, true) in NOTEBOOKS.items():
        for cell in _read(name).cells:
            cells.append(cell)
            if "parameters" in cell.metadata.get("tags", ()):
                cells.append(_code(small))
        # Nothing of one notebook is there for the next, but for modules already loaded.
        cells += [_code(true), _code("%reset -f")]
    book = nbformat.v4.new_notebook(cells=cells)
    where = {"metadata": {"path": str(tmp_path / "notebooks")}}
    nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", ())]
    pictures = [out for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= 7
    assert not [out for out in outputs if out["output_type"] == "error"]
    shutil.rmtree(tmp_path / "data")


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_small_and_carries_nothing_of_a_machine(name: str) -> None:
    book = _read(name)
    code = [cell for cell in book.cells if cell.cell_type == "code"]
    assert not [cell for cell in code if cell.outputs or cell.execution_count]
    assert sum("parameters" in cell.metadata.get("tags", ()) for cell in code) == 1
    assert len(code) <= 10
    text = "\n".join(cell.source for cell in book.cells)
    assert not [place for place in ("/work", "/home", "/root", "C:\\") if place in text]
    assert not re.search(r"^ *(def|class) \w+.*:$", text, re.MULTILINE)


def _read(name: str) -> Any:
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def _code(source: str) -> Any:
    return nbformat.v4.new_code_cell(source)
