"""The box stage: a crop box for every train image, judged before anything trains with it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from contramask.boxes.box_set import COLUMNS, BoxSet, content_id
from contramask.boxes.config import RULES, BoxConfig
from contramask.boxes.encoder_maps import ENCODER_MAPS, MapChoice, encoder_maps, read_decoder
from contramask.boxes.gates import alarms, statistics, warnings
from contramask.boxes.heatmaps import PRODUCERS, Producer, box_maps
from contramask.boxes.origin import origin
from contramask.boxes.quality import (
    CENTRE_HALF,
    GroundTruth,
    compare_boxes,
    compare_crops,
    crop_pairs,
    ground_truth,
    shuffled,
)
from contramask.boxes.rules import (
    CORNERS,
    WHOLE,
    RuleConfig,
    binding_share,
    box_table,
    find_boxes,
)
from contramask.data.store import Store, StoreSplit
from contramask.models.bundle import EncoderBundle
from contramask.progress import track

__all__ = ["RULES", "BoxConfig", "BoxSet", "generate_boxes"]

logger = logging.getLogger(__name__)

_BATCH = 256  # images whose intermediate arrays stay in the processor's cache
_PREVIEW = 12

_NO_EFFECT = {
    "full": "method full was chosen: every box is the whole image, so no box moves any crop",
    "center_half": (
        "method center_half was chosen: the same box for every image, which rules out about 1% of"
        " the crop positions; what changes training is the centre suppression alone"
    ),
}


@dataclass(frozen=True)
class _Finding:
    """Boxes and maps of all images, before judgement."""

    table: pd.DataFrame  # the columns of `find_boxes`
    heatmaps: np.ndarray  # uint8 (N, g, g)
    rule: RuleConfig | None


def generate_boxes(store: Store, config: BoxConfig, parent: str | None = None) -> BoxSet:
    """One crop box for each train image, with evidence, quality and acceptance.

    `parent` is the id of the set that this one is to replace in a training. A set that fails the
    gates is returned with `accepted` False and logged as a warning. Raises `ValueError` when `gt`
    is asked for and the data have no boxes, or an encoder's map without the encoder (or, for
    `rec_err`, the decoder) it needs. Equal inputs, equal bytes; an encoder's maps are so on
    processors of one kind.
    """
    split = store["train"]
    truth = _truth(split)
    bundle = _bundle(config)
    producer = _producer(config, bundle)
    if producer:
        finding = _from_maps(split, producer, config)
    else:
        finding = _without_maps(split, truth, config)
    if config.deal == "shuffled":
        finding = _dealt(finding)
    facts = origin(store, config, finding.rule, bundle) | {"parent": parent}
    return _judged(store, finding, truth, config, facts)


def _truth(split: StoreSplit) -> GroundTruth | None:
    """The usable true boxes, or None where there are too few for groups by size and offset."""
    if split.instances is None:
        return None
    truth = ground_truth(split.instances, (split.height, split.width))
    return truth if len(truth.first) >= 3 else None


def _bundle(config: BoxConfig) -> EncoderBundle | None:
    """The encoder to ask; None for boxes that need none."""
    if config.method not in ENCODER_MAPS:
        return None
    if config.encoder is None:
        raise ValueError(
            f"crop_boxes.method is {config.method}, which reads a trained encoder; set"
            " crop_boxes.encoder to its folder (06_models/<experiment>), or choose edge_energy or"
            " spectral_residual"
        )
    return EncoderBundle.read(config.encoder)


def _producer(config: BoxConfig, bundle: EncoderBundle | None) -> Producer | None:
    """What makes the heat maps; None for boxes that need none."""
    for name in ENCODER_MAPS:
        if config.method == name and bundle is not None and config.encoder is not None:
            choice = MapChoice(name, config.block, config.baseline)
            return encoder_maps(bundle, choice, read_decoder(config.encoder, bundle, name))
    return PRODUCERS.get(config.method)


def _dealt(finding: _Finding) -> _Finding:
    """Every row and map given to another image, always in the same way."""
    order = shuffled(np.arange(len(finding.table)))
    table = finding.table.iloc[order].reset_index(drop=True)
    return _Finding(table, finding.heatmaps[order], finding.rule)


def _from_maps(split: StoreSplit, producer: Producer, config: BoxConfig) -> _Finding:
    """Boxes by the rule from the maps as they are stored, so a rule can be tried again on those."""
    rule = config.rule or RULES[config.method]
    tables, heatmaps = [], []
    for images in _batches(split, f"crop boxes ({config.method})"):
        maps = np.rint(producer(images, config.grid) * 255).astype(np.uint8)
        tables.append(find_boxes(maps.astype(np.float32) / 255, rule))
        heatmaps.append(maps)
    return _Finding(pd.concat(tables, ignore_index=True), np.concatenate(heatmaps), rule)


def _without_maps(split: StoreSplit, truth: GroundTruth | None, config: BoxConfig) -> _Finding:
    """Boxes known without looking at a pixel; the stored maps draw them."""
    boxes = np.tile(CENTRE_HALF if config.method == "center_half" else WHOLE, (len(split), 1))
    reason = np.full(len(split), "", dtype=object)
    if config.method == "gt":
        if truth is None:
            raise ValueError(
                "crop_boxes.method is gt, and these data have no boxes of their own to take;"
                " choose edge_energy, spectral_residual, center_half or full"
            )
        boxes[truth.images] = truth.main
        reason[np.setdiff1d(np.arange(len(split)), truth.images)] = "empty_mask"
    maps = box_maps(boxes, config.grid)
    # No pixel speaks for these boxes, so the score is not the map's: 1 where the box is the truth.
    score = np.float32(config.method == "gt") * (reason == "").astype(np.float32)
    table = box_table(boxes, maps, reason).assign(score=score)
    return _Finding(table, np.rint(maps * 255).astype(np.uint8), None)


def _batches(split: StoreSplit, description: str) -> Iterator[np.ndarray]:
    """The split's images in order, uint8 (B, H, W, C), under a progress bar."""
    starts = range(0, len(split), _BATCH)
    for start in track(starts, description, len(starts)):
        yield np.asarray(split.images[start : start + _BATCH])


def _judged(
    store: Store,
    finding: _Finding,
    truth: GroundTruth | None,
    config: BoxConfig,
    facts: dict[str, Any],
) -> BoxSet:
    """Complete the table, measure, judge, say so in the log, and put the set together."""
    split = store["train"]
    size, crop = (split.height, split.width), config.crops
    boxes = finding.table[CORNERS].to_numpy(dtype=np.float32)
    table = finding.table.assign(
        image_id=split.ids,
        split="train",
        method=config.method,
        binds=binding_share(boxes, size, crop.scale, crop.ratio),
    )[COLUMNS]
    stats = statistics(table)
    quality = None
    if truth is not None:
        quality = compare_boxes(boxes, truth)
        quality["crops"] = compare_crops(boxes, truth, size, crop)
    no_effect = _NO_EFFECT.get(config.method)
    refusals = [] if config.method == "full" else alarms(stats, config.gates)
    verdict = {
        "accepted": not refusals,
        "reasons": refusals + ([no_effect] if no_effect else []),
        "warnings": [] if no_effect else warnings(stats, quality, config.gates),
    }
    measured = _rounded({"stats": stats, "quality": quality})
    manifest = {**facts, **measured, **verdict}
    manifest["box_set_id"] = content_id(manifest, table, finding.heatmaps)
    _log(manifest)
    preview = _preview(split, boxes, finding, truth)
    preview["pairs"] = crop_pairs(preview["boxes"], preview["rows"], size, crop)
    return BoxSet(table, finding.heatmaps, manifest, preview)


def _preview(
    split: StoreSplit, boxes: np.ndarray, finding: _Finding, truth: GroundTruth | None
) -> dict[str, np.ndarray]:
    """A dozen images spread evenly over the split, with what was found and what is true."""
    rows = np.unique(np.linspace(0, len(split) - 1, _PREVIEW).astype(np.int64))
    known = np.full((len(split), 4), np.nan, dtype=np.float32)
    if truth is not None:
        known[truth.images] = truth.main
    return {
        "images": split.__getitems__(rows),
        "boxes": boxes[rows],
        "heatmaps": finding.heatmaps[rows],
        "truth": known[rows],
        "rows": rows,
    }


def _log(manifest: dict[str, Any]) -> None:
    name = f"box set {manifest['box_set_id']} ({manifest['method']})"
    stats = manifest["stats"]
    logger.info(
        "%s: %d images, mean box %.0f%% of the image, whole-image fallback %.1f%%",
        name,
        manifest["n_images"],
        100 * stats["area_mean"],
        100 * stats["fallback_share"],
    )
    for reason in manifest["reasons"]:
        logger.warning("%s: %s%s", name, "" if manifest["accepted"] else "REFUSED: ", reason)
    for warning in manifest["warnings"]:
        logger.warning("%s: %s", name, warning)


def _rounded(value: Any) -> Any:
    """The same containers, floats to 6 digits: what differs below is the machine, not the boxes."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return round(value, 6) if isinstance(value, float) else value
