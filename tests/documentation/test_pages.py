"""The pages as such: they name what a run leaves, list every key, and lead somewhere."""

import re
from pathlib import Path

import pytest

from contramask.config import SECTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def test_the_run_the_pages_describe_left_what_they_name(there: Path) -> None:
    assert "demo" in (there / "data/08_reporting/report.html").read_text("utf-8")
    for task in ("pretrain", "probe", "finetune", "segmentation", "detection"):
        assert (there / "data/07_model_output/demo" / task / "results.parquet").is_file()


def test_the_reference_lists_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "scripts"))
    from settings_tables import settings_tables

    page = (ROOT / "docs/reference/configuration.md").read_text("utf-8")
    for section, kind in SECTIONS.items():
        assert f"<!-- settings: {kind.__module__}:{kind.__name__} {section} -->" in page
        text = settings_tables(kind.__module__, kind.__name__, section)
        for key in kind.__dataclass_fields__:
            assert f"| `{key}` |" in text


def test_links_and_pictures_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
            if not target.startswith(("http", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"
