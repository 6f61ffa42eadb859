"""All pictures and charts of the report, chosen from the stages and kept within a size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd

from contramask.report import charts, detection, figures, looks
from contramask.report.figures import Picture
from contramask.report.sections import Owner, firsts, owners
from contramask.report.tables import Stage

#: Sides of a tile in pixels that are tried, largest first, until the pictures fit.
TILES = (128, 96, 64, 48)
#: Mistakes of a classifier that are shown, the surest ones.
MAX_MISTAKES = 6


@dataclass(frozen=True)
class Gallery:
    """The pictures by section."""

    contact: tuple[Picture, ...]
    views: tuple[Picture, ...]
    reconstructions: tuple[Picture, ...]
    tokens: tuple[Picture, ...]
    boxes: tuple[Picture, ...]
    looks: tuple[Picture, ...]
    nearest: tuple[Picture, ...]
    mistakes: tuple[tuple[str, tuple[Picture, ...]], ...]  # variant, its mistakes
    segmentations: tuple[Picture, ...]
    detections: tuple[Picture, ...]
    errors: tuple[detection.Errors, ...]

    def pictures(self) -> list[Picture]:
        """All pictures of the page."""
        single = [*(own for _, own in self.mistakes), *(e.pictures() for e in self.errors)]
        return [*self.sheets(), *(picture for own in single for picture in own)]

    def sheets(self) -> list[Picture]:
        """Those that show several images and can stand alone, in the order of the page."""
        single = ("mistakes", "errors")
        parts = [getattr(self, part.name) for part in fields(self) if part.name not in single]
        return [picture for part in parts for picture in part]


@dataclass(frozen=True)
class Material:
    """What pictures are drawn from, and how many images and how sure boxes they show."""

    stages: Sequence[Stage]
    variants: Mapping[str, str]  # experiment -> variant
    order: list[str]  # of the variants; a place in it is a colour
    classes: Mapping[str, list[str]]  # classes, semantic_classes, instance_classes
    contact_sheet: np.ndarray
    preview: Mapping[str, np.ndarray]
    count: int
    min_score: float

    def owners(self, task: str) -> list[Owner]:
        """Who has pictures and tables in a task, in the order of the tables."""
        found = owners(self.stages, task, self.variants, self.order)
        return sorted(found, key=lambda owner: self.place(owner.variant))

    def place(self, variant: str) -> int:
        """A variant's place in `order`; the anchor is 0."""
        return self.order.index(variant) if variant in self.order else 0

    def names(self, kind: str, stage: Stage) -> list[str]:
        """Class names: the stage's own where it states them, else the data card's of a kind."""
        return list(stage.output.facts.get("classes") or self.classes.get(kind) or [])


def draw(material: Material, budget: int) -> Gallery:
    """All pictures, with the largest tiles for which their PNG files stay under `budget` bytes.

    When even the smallest do not fit, they are kept: a large page is better than an empty one.
    """
    gallery, drawn, size = _draw(material, TILES[0]), TILES[0], 0
    for tile in TILES:
        if size * (tile / drawn) ** 2 > 1.2 * budget:
            continue  # sizes go with the area, so this one would be far too large
        if tile != drawn:
            gallery, drawn = _draw(material, tile), tile
        size = sum(len(picture.png) for picture in gallery.pictures())
        if size <= budget:
            break
    return gallery


def _draw(material: Material, tile: int) -> Gallery:
    contact = figures.contact_sheet(material.contact_sheet, 9 * tile)
    return Gallery(
        contact=() if contact is None else (contact,),
        views=tuple(_views(material, 3 * tile // 4)),
        reconstructions=tuple(_reconstructions(material, tile)),
        tokens=tuple(_tokens(material, tile)),
        boxes=tuple(figures.box_pictures(material.preview, material.count, tile)),
        looks=tuple(_looks(material, tile)),
        nearest=tuple(_nearest(material, 3 * tile // 4)),
        mistakes=tuple(_mistakes(material, tile)),
        segmentations=tuple(_segmentations(material, tile)),
        detections=tuple(_detections(material, 5 * tile // 4)),
        errors=tuple(_errors(material, tile)),
    )


def _views(material: Material, tile: int) -> list[Picture]:
    wanted = {"view": "view", "target_view": "target view"}
    return [
        figures.rows_picture(f"views-{experiment}", found, tile, title)
        for experiment, title, found in _previews(material, wanted)
    ]


def _reconstructions(material: Material, tile: int) -> list[Picture]:
    wanted = {name: name for name in ("original", "masked", "reconstruction")}
    return [
        figures.columns_picture(f"reconstruction-{experiment}", found, tile, title)
        for experiment, title, found in _previews(material, wanted)
    ]


def _tokens(material: Material, tile: int) -> list[Picture]:
    wanted = {"original": "original", "reconstruction": "drawn from its tokens"}
    return [
        figures.columns_picture(f"tokens-{experiment}", found, tile, title)
        for experiment, title, found in _previews(material, wanted, "tokenizer")
    ]


def _previews(
    material: Material, wanted: Mapping[str, str], task: str = "pretrain"
) -> list[tuple[str, str, dict[str, np.ndarray]]]:
    """(experiment, title, heading -> images) of every variant's first stage that kept any.

    `wanted` maps the names of arrays to their headings.
    """
    first = firsts(material.stages, task, material.variants)
    previews = []
    for variant in sorted(first, key=material.place):
        experiment, arrays = first[variant].experiment, first[variant].output.arrays
        found = {head: arrays[n][: material.count] for n, head in wanted.items() if n in arrays}
        if found:
            title = f"{variant}, {experiment}" if variant != experiment else variant
            previews.append((experiment, title, found))
    return previews


def _looks(material: Material, tile: int) -> list[Picture]:
    owners = material.owners("probe")
    drawn = (looks.look_pictures(owners, kind, material.count, tile) for kind in looks.KINDS)
    return [picture for pictures in drawn for picture in pictures]


def _nearest(material: Material, tile: int) -> list[Picture]:
    drawn = [
        looks.near_picture(owner, material.names("classes", owner.stage), material.count, tile)
        for owner in material.owners("probe")
    ]
    return [picture for picture in drawn if picture is not None]


def _mistakes(material: Material, tile: int) -> list[tuple[str, tuple[Picture, ...]]]:
    found = []
    for owner in material.owners("finetune"):
        names = material.names("classes", owner.stage)
        drawn = looks.mistakes(owner, names, MAX_MISTAKES, tile)
        if drawn:
            found.append((owner.variant, tuple(drawn)))
    return found


def _segmentations(material: Material, tile: int) -> list[Picture]:
    pictures = []
    for owner in material.owners("segmentation"):
        arrays = {name: stack[: material.count] for name, stack in owner.arrays().items()}
        if {"images", "truth"} <= set(arrays):
            names = material.names("semantic_classes", owner.stage)
            file = f"segmentation-{owner.stage.experiment}-{owner.key}"
            pictures.append(figures.segmentation_picture(file, owner.variant, arrays, names, tile))
    return pictures


def _detections(material: Material, tile: int) -> list[Picture]:
    drawn = []
    for owner in material.owners("detection"):
        names = material.names("instance_classes", owner.stage)
        shown = (names, material.count, material.min_score, tile)
        drawn.append(detection.found_picture(owner, *shown))
    return [picture for picture in drawn if picture is not None]


def _errors(material: Material, tile: int) -> list[detection.Errors]:
    drawn = [
        detection.errors(owner, material.names("instance_classes", owner.stage), tile)
        for owner in material.owners("detection")
    ]
    return [found for found in drawn if found is not None]


def dots(material: Material) -> list[charts.Dots]:
    """Feature scatters of all variants whose probe kept features and labels."""
    found = []
    for owner in material.owners("probe"):
        features, labels = owner.array("features"), owner.array("labels")
        if features is None or labels is None or min(features.shape) < 3:
            continue
        names = material.names("classes", owner.stage)
        found.append(charts.feature_dots(owner.variant, features, labels, names))
    return found


def confusions(material: Material) -> list[charts.Confusion]:
    """Confusion matrices of all variants that were fine-tuned."""
    found = []
    for owner in material.owners("finetune"):
        counts = owner.array("confusion")
        if counts is not None:
            names = material.names("classes", owner.stage)
            found.append(charts.confusion_chart(owner.variant, counts, names))
    return found


def pretraining_curves(stages: Sequence[Stage]) -> dict[str, pd.DataFrame]:
    """Experiment -> its curve of pre-training."""
    return {
        stage.experiment: stage.output.tables["curve"]
        for stage in stages
        if stage.task == "pretrain" and "curve" in stage.output.tables
    }


def finetuning_curves(material: Material) -> dict[str, pd.DataFrame]:
    """Variant -> its first curve of fine-tuning."""
    tables = {owner.variant: owner.tables() for owner in material.owners("finetune")}
    return {variant: found["curve"] for variant, found in tables.items() if "curve" in found}


def calibrations(material: Material) -> dict[str, pd.DataFrame]:
    """Variant -> how sure its fine-tuned classifier was and how often it was right, by bins."""
    tables = {owner.variant: owner.tables() for owner in material.owners("finetune")}
    return {name: found["calibration"] for name, found in tables.items() if "calibration" in found}


def calibration_errors(material: Material) -> dict[str, float]:
    """Variant -> the first measured calibration error of its fine-tuned classifier, percent."""
    errors = {}
    for owner in material.owners("finetune"):
        rows = owner.stage.output.rows
        own = rows[(rows["metric"] == "finetune_ece") & (rows["method"] == owner.key)]
        if len(own):
            errors[owner.variant] = float(own["value"].iloc[0])
    return errors


def class_charts(material: Material) -> list[detection.ClassChart]:
    """Average precision by class of all variants whose detector was measured."""
    tables = {owner.variant: owner.tables() for owner in material.owners("detection")}
    found = {name: own["per_class"] for name, own in tables.items() if "per_class" in own}
    return detection.class_charts(found, material.order)


def class_tables(material: Material) -> dict[str, dict[str, pd.DataFrame]]:
    """Table's name -> variant -> table, of all tables by class that transfer tasks kept."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for task in ("finetune", "segmentation", "detection"):
        for owner in material.owners(task):
            for name, table in owner.tables().items():
                if name.endswith("per_class"):
                    found.setdefault(f"{task} {name}", {})[owner.variant] = table
    return found
