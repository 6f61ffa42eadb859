"""The page: one self-contained HTML file, a pure function of what the stages left on disk."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from pydantic import Field
from pydantic.dataclasses import dataclass as typed

from contramask.report import (
    cards,
    charts,
    fairness,
    gallery,
    looks,
    notes,
    provenance,
    scatter,
    sections,
    spending,
    tables,
    verdict,
)
from contramask.typed import STRICT

#: base64 makes 4 bytes out of 3; what is left of the page besides pictures is about a tenth.
SHARE_OF_PICTURES = 0.68


@typed(frozen=True, config=STRICT)
class ReportConfig:
    """What the page shows, and when it calls a difference noise."""

    title: str = ""  # empty: made from the data's name
    readout: Literal["mean", "cls"] = "mean"  # which features the main table shows
    baseline: str = "mae"  # method to which the others' differences are shown, paired by seed
    noise_points: float = Field(
        default=2.0, gt=0
    )  # single runs differ by this much at least by chance
    pictures: int = Field(default=5, ge=1, le=16)  # images a picture shows
    min_score: float = Field(default=0.3, ge=0, le=1)  # detections drawn
    max_mb: float = Field(default=3.0, gt=0)  # size of the page aimed at


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made of: the data's card, the crop boxes' folder, the results' folder.

    `card` and `problems` as `build_dataset` gives them; `contact_sheet` uint8 (H, W[, C]); `boxes`
    holds manifest.json and perhaps preview.npz; `results_folder` holds `<experiment>/<task>/`.
    """

    results_folder: Path
    card: dict[str, Any] = field(default_factory=dict)
    problems: pd.DataFrame = field(default_factory=pd.DataFrame)
    contact_sheet: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))
    boxes: Path | None = None


@dataclass(frozen=True)
class Report:
    """The page, the results frame it shows (`contramask.results.COLUMNS`), its pictures as PNG."""

    html: str
    results: pd.DataFrame
    figures: dict[str, bytes]


def build_report(inputs: ReportInputs, config: ReportConfig) -> Report:
    """Make the page from everything that exists; what is missing is said, not failed on.

    Equal folders give equal bytes: no clock and no chance is involved.
    """
    gathered = tables.gather(inputs.results_folder)
    results = tables.collect_rows(gathered.stages)
    rows = tables.add_variants(results)
    manifest, preview = _read_boxes(inputs.boxes)
    variants = sections.variants_of(gathered.stages, rows)
    material = gallery.Material(
        stages=gathered.stages,
        variants=variants,
        order=list(dict.fromkeys([*tables.variant_order(rows), *variants.values()])),
        classes={key: inputs.card.get(key) or [] for key in CLASS_LISTS},
        contact_sheet=inputs.contact_sheet,
        preview=preview,
        count=config.pictures,
        min_score=config.min_score,
    )
    pictures = gallery.draw(material, int(config.max_mb * 1e6 * SHARE_OF_PICTURES))
    context = {
        "title": config.title or _title(inputs.card, rows),
        "summary": _summary(inputs.card, rows, config),
        "order": material.order,
        "gallery": pictures,
        "config": config,
        "card": cards.data_facts(inputs.card),
        "class_counts": cards.class_counts(inputs.card),
        "problems": cards.problem_table(inputs.problems),
        "boxes": manifest,
        "box_remarks": cards.box_remarks(manifest or {}),
        "box_facts": cards.box_facts(manifest or {}),
        "box_quality": cards.box_quality(manifest or {}),
        "box_groups": cards.box_groups(manifest or {}),
        "box_truth": "truth" in preview and bool(np.isfinite(preview["truth"]).any()),
        **_results(rows, inputs.card, config, gathered),
        **_fairness(rows, material, config),
        **_training(rows, material),
        **_transfer(material),
        **_provenance(rows, gathered.stages),
    }
    found = {picture.name: picture.png for picture in pictures.sheets()}
    return Report(_render(context), results, found)


#: Keys of the data card that name classes.
CLASS_LISTS = ("classes", "semantic_classes", "instance_classes")


def _read_boxes(folder: Path | None) -> tuple[dict[str, Any] | None, dict[str, np.ndarray]]:
    """The crop boxes' manifest, None without one, and the arrays of their preview."""
    if folder is None or not (folder / "manifest.json").is_file():
        return None, {}
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    if not (folder / "preview.npz").is_file():
        return manifest, {}
    with np.load(folder / "preview.npz", allow_pickle=False) as archive:
        return manifest, {name: archive[name] for name in archive.files}


def _title(card: dict[str, Any], rows: pd.DataFrame) -> str:
    names = [str(card["name"])] if card.get("name") else sorted(set(rows["data"]))
    return f"Which pre-training served {verdict.join(names)} best?" if names else "Nothing measured"


def _summary(card: dict[str, Any], rows: pd.DataFrame, config: ReportConfig) -> str:
    """One line: what was trained on what, and how often."""
    if rows.empty:
        return "No results were found, so this page has nothing to compare."
    order = tables.variant_order(rows)
    shown = tables.main_tables(rows, config.readout)
    seeds = max((table.seeds(name) for table in shown for name in table.variants), default=1)
    often = "with one seed" if seeds == 1 else f"over {seeds} seeds"
    text = f"{verdict.join(order)} compared {often}"
    splits, size = card.get("splits") or {}, card.get("image_size")
    if splits.get("train"):
        text += f", pre-trained on {verdict.count(int(splits['train']), 'image')}"
    if isinstance(size, list | tuple) and len(size) >= 2:
        text += f" of {size[0]} \N{MULTIPLICATION SIGN} {size[1]} pixels"
    return text[0].upper() + text[1:] + "."


def _results(
    rows: pd.DataFrame, card: dict[str, Any], config: ReportConfig, gathered: tables.Gathered
) -> dict[str, Any]:
    """Verdicts, main tables (one a data set), everything in full, and what was not run."""
    measured = tables.main_tables(rows, config.readout)
    images = int((card.get("splits") or {}).get("val") or 0)
    verdicts = {
        table.data: [verdict.judge(c, images, config.noise_points) for c in table.columns]
        for table in measured
    }
    said = [item for items in verdicts.values() for item in items]
    spoken = {item.confidence for item in said}
    curves = gallery.pretraining_curves(gathered.stages)
    return {
        "headline": verdict.headline(said),
        "verdicts": verdicts,
        "confidence": {word: t for word, t in verdict.CONFIDENCE.items() if word in spoken},
        "measured": measured,
        "protocols": provenance.protocol_lines(gathered.stages),
        "spectrum": {
            str(data): sections.spectrum_table(own, config.readout, tables.variant_order(own))
            for data, own in rows[rows["protocol"] == "spectrum"].groupby("data")
        },
        "long": sections.long_table(rows) if len(rows) else None,
        "not_run": sections.not_run(gathered),
        "notes": notes.normal_notes([c for table in measured for c in table.columns], curves),
        "methods": notes.methods_shown(rows["method"]),
    }


def _fairness(
    rows: pd.DataFrame, material: gallery.Material, config: ReportConfig
) -> dict[str, Any]:
    """What was spent, and the scores at equal epochs and at equal compute."""
    costs = spending.pretraining_costs(rows, material.stages, material.variants, material.order)
    measured = tables.main_tables(rows, config.readout)
    return {
        "spent": spending.cost_table(costs),
        "fair_remarks": fairness.remarks(costs),
        "equals": [t for table in measured for t in fairness.equal_tables(costs, table)],
        "score_panels": [
            p for table in measured for p in fairness.score_panels(costs, table, material.order)
        ],
        "baselines": [
            found
            for table in measured
            if (found := fairness.baseline_table(table, config.baseline)) is not None
        ],
    }


def _training(rows: pd.DataFrame, material: gallery.Material) -> dict[str, Any]:
    """What pre-training was planned to be, what it cost, and its curves."""
    first = sections.firsts(material.stages, "pretrain", material.variants)
    plans = {
        name: first[name].output.facts.get("plan") or {}
        for name in sorted(first, key=material.place)
    }
    curves = gallery.pretraining_curves(material.stages)
    names = {experiment: material.variants[experiment] for experiment in curves}
    return {
        "costs": sections.cost_table(rows, material.order),
        "token_health": sections.token_table(rows, material.order),
        "plan": sections.side_by_side("The plan, computed before the first step", plans),
        "panels": charts.curve_panels(curves, names, material.order),
        "panel_names": sorted(set(names.values()), key=material.place),
    }


def _transfer(material: gallery.Material) -> dict[str, Any]:
    """Charts of the transfer tasks: features, confusions, fine-tuning curves, tables by class."""
    curves = gallery.finetuning_curves(material)
    probed = material.owners("probe")
    return {
        "concentration": looks.concentration(probed),
        "near_tables": looks.near_tables(probed, partial(material.names, "classes")),
        "calibration": scatter.calibration_panel(gallery.calibrations(material), material.order),
        "calibration_errors": gallery.calibration_errors(material),
        "dots": gallery.dots(material),
        "confusions": gallery.confusions(material),
        "finetune_panels": charts.curve_panels(curves, {n: n for n in curves}, material.order),
        "finetune_names": list(curves),
        "class_charts": gallery.class_charts(material),
        "class_tables": [
            sections.merged_table(cards.words(name).capitalize(), frames)
            for name, frames in gallery.class_tables(material).items()
        ],
    }


def _provenance(rows: pd.DataFrame, stages: Sequence[tables.Stage]) -> dict[str, Any]:
    """Which code, configuration, machine and command made the numbers."""
    return {
        "experiments": provenance.experiment_table(rows) if len(rows) else None,
        "stages": provenance.stage_table(stages) if stages else None,
        "commands": provenance.plain_facts(stages, "command"),
        "versions": provenance.plain_facts(stages, "versions"),
        "configs": provenance.plain_facts(stages, "config"),
    }


def _render(context: dict[str, Any]) -> str:
    """Fill the template; everything that is not marked as ours is escaped."""
    # The style sheet is ours and stands inside <style>, where escapes would be read literally.
    return _template().render(style=Markup(_read("report.css")), chart=charts, **context)


@lru_cache(maxsize=1)
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_read),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["signed"] = verdict.signed
    return environment.get_template("report.html")


def _read(name: str) -> str:
    return (files("contramask.report") / name).read_text(encoding="utf-8")
