"""Which heat map and which rule find the objects of one data set: every pair against true boxes.

True boxes choose here, so what is chosen looks better than it is; the winner is therefore measured
once more on images that had no say.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from contramask.boxes.encoder_maps import (
    ENCODER_MAPS,
    RELATIVE,
    Baseline,
    EncoderMaps,
    MapChoice,
    find_decoder,
)
from contramask.boxes.gates import GateConfig
from contramask.boxes.heatmaps import PRODUCERS
from contramask.boxes.quality import (
    CENTRE_HALF,
    GroundTruth,
    box_scores,
    ground_truth,
    shuffled,
    summary,
)
from contramask.boxes.rules import CORNERS, REFERENCE_RULE, WHOLE, RuleConfig, find_boxes
from contramask.data.store import Store, StoreSplit
from contramask.models.bundle import EncoderBundle
from contramask.progress import track
from contramask.typed import to_plain

logger = logging.getLogger(__name__)

#: Rules for dense and for sparse maps and a few between them; smoothing in cells of the map.
RULES_COMPARED = {
    "reference": REFERENCE_RULE,
    "closure-0.3": RuleConfig(smooth_sigma=0, threshold=0.3, component="all"),
    "closure-0.5": RuleConfig(smooth_sigma=0, threshold=0.5, component="all"),
    "largest-0.5": RuleConfig(smooth_sigma=0, threshold=0.5),
    "smooth-0.2": RuleConfig(threshold=0.2),
    "smooth-0.35": RuleConfig(threshold=0.35),
    "smooth-0.5": RuleConfig(threshold=0.5),
    "smooth-0.65": RuleConfig(threshold=0.65),
    "smoother-0.5": RuleConfig(smooth_sigma=2, threshold=0.5),
    "peak-0.5": RuleConfig(threshold=0.5, component="peak"),
    "mass": RuleConfig(smooth_sigma=0, component="mass"),
}

#: Columns of `compare_candidates`; all shares are fractions.
COLUMNS = [
    *("part", "map", "block", "baseline", "rule", "images", "corloc", "coverage", "iou"),
    *("fallback", "area", "large", "shuffled", "gain", "passes"),
]
CONTROLS = ("full", "center_half", "mean_box")

_GRID = 16
_BATCH = 256
_LARGE = 0.9


def compare_candidates(
    store: Store, encoder: Path | None, limit: int, split: str | None = None
) -> pd.DataFrame:
    """Every heat map with every rule against the true boxes of at most `limit` images.

    One row a candidate (`COLUMNS`), part `check`, those that pass the gates first and then by
    CorLoc; then the `CONTROLS`; then, part `held_out`, the first row's candidate and the controls
    on as many other images, where there are any. `shuffled` is the CorLoc of the same boxes dealt
    to other images, `gain` what the own ones are above it. `passes`: the acceptance of the method
    notes 4.3, and a higher IoU than every control. `split` is val where it has true boxes, unless
    given.
    Raises `ValueError` for a store without true boxes and for an encoder that does not fit.
    """
    part, truth = _annotated(store, split)
    if limit < 3:
        raise ValueError(f"a limit of {limit} images is too few to compare on; give 3 or more")
    check, rest = _rows(truth.images, limit)
    own = truth.among(check)
    mean_box = own.main.mean(axis=0)
    controls = _controls(own, mean_box)
    floor = max(row["iou"] for row in controls)
    every = _all_maps(part, check, encoder)
    found = [
        _measured(described, rule, maps, own, floor)
        for described, maps in track(every, "boxes and their scores", len(every))
        for rule in RULES_COMPARED
    ]
    found.sort(key=lambda row: (row["passes"], row["corloc"], row["iou"]), reverse=True)
    rows = [{"part": "check", **row} for row in [*found, *controls]]
    if len(rest) >= 3:
        best, others = found[0], truth.among(rest)
        only = {name: best[name] for name in ("map", "block", "baseline")}
        [(described, maps)] = _all_maps(part, rest, encoder, only)
        controls = _controls(others, mean_box)
        floor = max(row["iou"] for row in controls)
        again = _measured(described, best["rule"], maps, others, floor)
        rows += [{"part": "held_out", **row} for row in [again, *controls]]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"block": "Int64"})


def configuration(best: pd.Series) -> dict[str, Any]:
    """A row of `compare_candidates` as the keys of `crop_boxes` that ask for it."""
    keys = {"method": best["map"], "block": best["block"], "baseline": best["baseline"]}
    given = {key: value for key, value in keys.items() if not pd.isna(value)}
    return {**given, "rule": to_plain(RULES_COMPARED[best["rule"]])}


def _annotated(store: Store, name: str | None) -> tuple[StoreSplit, GroundTruth]:
    """The split to compare on and its usable true boxes."""
    for each in [name] if name else ["val", "train"]:
        if each in store or name:
            split = store[each]
            if split.instances is None:
                continue
            truth = ground_truth(split.instances, (split.height, split.width))
            if len(truth.first) >= 3:
                return split, truth
    raise ValueError(
        f"the store {store.folder} has no true boxes in {name or 'val or train'} to compare with;"
        " look at the previews of the crop_boxes stage instead, or give a store with boxes"
    )


def _rows(annotated: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` of these images, and at most as many of the others; always the same ones.

    Drawn, not counted off: in many stores classes take turns, and every fifth image is of few.
    """
    order = np.random.default_rng(0).permutation(annotated)
    return np.sort(order[:limit]), np.sort(order[limit : 2 * limit])


def _all_maps(
    split: StoreSplit,
    rows: np.ndarray,
    encoder: Path | None,
    only: dict[str, Any] | None = None,
) -> list[tuple[dict[str, Any], np.ndarray]]:
    """Each map's description and its values for these images, as a box set would store them."""
    classical = [name for name in PRODUCERS if only is None or only["map"] == name]
    maker: EncoderMaps | None = None
    choices: list[MapChoice] = []
    if encoder is not None and not (only and classical):
        maker, choices = _maker(encoder, only)
    parts: list[list[np.ndarray]] = []
    starts = range(0, len(rows), _BATCH)
    for start in track(starts, "heat maps", len(starts)):
        images = split.__getitems__(rows[start : start + _BATCH])
        maps = [PRODUCERS[name](images, _GRID) for name in classical]
        maps += maker(images, _GRID) if maker else []
        parts.append([np.rint(each * 255).astype(np.uint8) for each in maps])
    described = [{"map": name, "block": None, "baseline": None} for name in classical]
    described += [_described(choice) for choice in choices]
    whole = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return list(zip(described, whole, strict=True))


def _described(choice: MapChoice) -> dict[str, Any]:
    baseline = choice.baseline if choice.name in RELATIVE else None
    return {"map": choice.name, "block": choice.block, "baseline": baseline}


def _maker(folder: Path, only: dict[str, Any] | None) -> tuple[EncoderMaps, list[MapChoice]]:
    """The encoder's maps: those of its last third of blocks, or the one described."""
    bundle = EncoderBundle.read(folder)
    decoder = find_decoder(folder, bundle)
    if decoder is None:
        logger.info("%s holds no pixel decoder, so the map rec_err is left out", folder)
    choices = candidates(len(bundle.encoder.blocks), decoder is not None)
    if only is not None:
        choices = [choice for choice in choices if _described(choice) == only]
    return EncoderMaps(bundle, choices, decoder), choices


def candidates(depth: int, has_decoder: bool) -> list[MapChoice]:
    """Every map of the last third of an encoder's `depth` blocks, with and without a baseline."""
    found = []
    baselines: tuple[Baseline, ...] = ("blank", "none")
    for name in ENCODER_MAPS[:-1]:
        for block in range(depth - max(depth // 3, 1) + 1, depth + 1):
            for baseline in baselines if name in RELATIVE else baselines[:1]:
                found.append(MapChoice(name, block, baseline))
    return [*found, MapChoice("rec_err")] if has_decoder else found


def _measured(
    described: dict[str, Any], rule: str, maps: np.ndarray, truth: GroundTruth, floor: float
) -> dict[str, Any]:
    """One candidate's row; maps uint8 (N, g, g), floor: the IoU it has to be above."""
    table = find_boxes(maps.astype(np.float32) / 255, RULES_COMPARED[rule])
    boxes = table[CORNERS].to_numpy(dtype=np.float32)
    row = {**described, "rule": rule, **_scores(boxes, truth)}
    row["fallback"] = float(table["is_fallback"].mean())
    row["large"] = float((table["box_area"] >= _LARGE).mean())
    passes = _passes(row, float(table["box_area"].median()))
    return {**row, "passes": passes and row["iou"] > floor}


def _scores(boxes: np.ndarray, truth: GroundTruth) -> dict[str, Any]:
    own, dealt = (summary(box_scores(each, truth)) for each in (boxes, shuffled(boxes)))
    scores = {name: own[name] for name in ("images", "corloc", "coverage", "iou", "area")}
    return {**scores, "shuffled": dealt["corloc"], "gain": own["corloc"] - dealt["corloc"]}


def _passes(row: dict[str, Any], median_area: float) -> bool:
    """What a set must reach for training, all but the crops' share."""
    gates = GateConfig()
    return bool(
        row["fallback"] <= gates.warn_fallback
        and row["large"] <= gates.warn_large
        and gates.min_median_area <= median_area <= gates.max_median_area
        and row["coverage"] >= gates.min_coverage
        and row["gain"] >= gates.min_corloc_gain
    )


def _controls(truth: GroundTruth, mean_box: np.ndarray) -> list[dict[str, Any]]:
    """Boxes that know nothing of the image: whole image, centre half, mean true box."""
    rows = []
    for name, box in zip(CONTROLS, (WHOLE, CENTRE_HALF, mean_box), strict=True):
        scores = _scores(np.tile(box, (len(truth.first), 1)), truth)
        large = float(scores["area"] >= _LARGE)
        rows.append({"map": name, **scores, "fallback": 0.0, "large": large, "passes": False})
    return rows
