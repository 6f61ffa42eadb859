"""A small results folder as the stages of several experiments would leave it."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from faster_coco_eval.core.mask import encode
from PIL import Image, ImageDraw, ImageFont

from contramask.report.page import Report, ReportConfig, ReportInputs, build_report
from contramask.results import COLUMNS, StageOutput

NASTY = "<script>alert(1)</script>"
CLASSES = [*(str(digit) for digit in range(9)), NASTY]
#: (task, protocol, readout, metric, values of random_init, mae, cmae at seed 0)
VALUES = (
    ("probe", "knn", "mean", "knn_top1", (31.0, 28.5, 55.0)),
    ("probe", "5-shot", "mean", "low_shot_top1", (24.0, 33.0, 51.0)),
    ("probe", "linear", "mean", "linear_top1", (52.0, 70.0, 74.0)),
    ("finetune", "finetune", "mean", "finetune_top1", (81.0, 82.4, 82.0)),
    ("finetune", "finetune", "mean", "finetune_ece", (3.0, 4.5, 6.0)),
    ("segmentation", "linear", "patch", "miou", (21.0, 30.0, 38.0)),
    ("segmentation", "upernet", "patch", "miou", (41.0, 45.0, 47.0)),
    ("detection", "mask_rcnn", "patch", "box_ap", (11.0, 16.0, 15.5)),
    ("detection", "mask_rcnn", "patch", "mask_ap", (9.0, 13.0, 13.2)),
)
METHODS = ("random_init", "mae", "cmae")


@dataclass(frozen=True)
class Scenes:
    """Digits on grounds: images (n, 32, 32, 3), label maps, labels and boxes (n, 4) in pixels."""

    images: np.ndarray
    semantic: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray


def draw_scenes(count: int, size: int = 32) -> Scenes:
    """One large digit on a shaded, noisy ground in every image."""
    rng = np.random.default_rng(0)
    images = np.zeros((count, size, size, 3), np.uint8)
    semantic = np.zeros((count, size, size), np.uint8)
    labels = np.arange(count) % len(CLASSES)
    boxes = np.zeros((count, 4))
    rows, cols = np.mgrid[:size, :size] / size
    for i in range(count):
        ground = (
            rng.uniform(40, 150, 3) + 70 * (rng.normal() * rows + rng.normal() * cols)[..., None]
        )
        picture = Image.fromarray(
            np.clip(ground + rng.normal(0, 9, (size, size, 3)), 0, 255).astype(np.uint8)
        )
        shape = Image.new("L", (size, size))
        place = rng.integers(2, size // 3, 2)
        ImageDraw.Draw(shape).text(
            place, str(labels[i]), fill=255, font=ImageFont.load_default(size * 0.65)
        )
        picture.paste(tuple(int(v) for v in rng.integers(150, 255, 3)), mask=shape)
        images[i] = picture
        semantic[i][np.array(shape) > 127] = labels[i]
        boxes[i] = shape.getbbox()
    return Scenes(images, semantic, labels, boxes)


def rows_of(method: str, seed: int, task: str, hashes: dict[str, str]) -> pd.DataFrame:
    """The rows one encoder gets from one task; a seed adds a point."""
    anchor = method == "random_init"
    config = "none" if anchor else hashes[method]
    name = f"random_init-s{seed}" if anchor else f"{method}-{config}-s{seed}"
    rows = []
    for own, protocol, readout, metric, values in VALUES:
        if own == task:
            value = values[METHODS.index(method)] + seed * (1.0 + METHODS.index(method) / 4)
            rows.append((protocol, readout, metric, value))
            if task == "probe":
                rows.append((protocol, "cls", metric, value - 5))
    if task == "pretrain":
        costs = {"loss": 0.41, "images_per_s": 950.0, "seconds": 210.0, "gflop_per_image": 0.08}
        rows = [("pretrain", "none", metric, value) for metric, value in costs.items()]
    common = {
        "experiment": name,
        "method": method,
        "encoder": "128x6/4",
        "data": "digit_scenes",
        "split": "train" if task == "pretrain" else "val",
        "seed": seed,
        "config_hash": config,
        "code_revision": "abc123def456",
        "date": "2026-11-02",
    }
    named = [
        {**common, "protocol": p, "readout": r, "metric": m, "value": v} for p, r, m, v in rows
    ]
    return pd.DataFrame(named, columns=COLUMNS)


def pretrain_output(method: str, seed: int, scenes: Scenes) -> StageOutput:
    """Curve, previews and plan."""
    step = np.arange(200)
    rng = np.random.default_rng(seed)
    recon = 0.4 + 0.6 * np.exp(-step / 40) + rng.normal(0, 0.01, 200)
    curve = pd.DataFrame({"step": step, "epoch": step / 10, "lr": 1e-3 * np.cos(step / 130)})
    curve["recon_loss"] = curve["loss"] = recon
    if method == "cmae":
        falls = 2.5 * np.exp(-step / 30) + 2.2 + 0.004 * np.maximum(step - 80, 0)
        curve["contrast_loss"] = falls + rng.normal(0, 0.02, 200)
        curve["loss"] = recon + 0.14 * curve["contrast_loss"]
        curve["positive_cosine"] = 0.9 - 0.5 * np.exp(-step / 50)
        curve["negative_cosine"] = 0.3 * np.exp(-step / 30)
        curve["contrast_top1"] = 1 - np.exp(-step / 60)
        curve["feature_std"] = 0.9 - 0.3 * np.exp(-step / 20)
    images = scenes.images[:6]
    hidden = np.kron(rng.random((6, 8, 8)) < 0.7, np.ones((4, 4), bool))[..., None]
    smooth = images.reshape(6, 8, 4, 8, 4, 3).mean(axis=(2, 4)).astype(np.uint8)
    painted = np.where(hidden, np.kron(smooth, np.ones((1, 4, 4, 1), np.uint8)), images)
    arrays = {
        "original": images,
        "masked": np.where(hidden, np.uint8(127), images),
        "reconstruction": painted,
        "view": images[:, :, ::-1],
    }
    if method == "cmae":
        arrays["target_view"] = np.roll(images, 3, axis=2) // 2 + 60
    facts = {
        "plan": {"epochs": 20, "steps": 200, "batch size": 1200, "lr": 2.5e-4, "images": 12000},
        "config": {"method": {"name": method, "mask_ratio": 0.75}, "note": NASTY},
        "machine": "2 cores, 8 GB, no accelerator",
        "seconds": 210.0 + seed,
        "command": f"kedro run --params pretrain.method.name={method},seed={seed}",
        "versions": {"torch": "2.15.0", "timm": "1.0.31"},
        "finished": "2026-11-02T10:00:00+00:00",
        "mlflow": {
            "run_id": f"run-of-{method}-{seed}",
            "url": "javascript:alert(1)" if method == "mae" else "https://host/#/runs/1?a=b&c=d",
        },
    }
    return StageOutput(tables={"curve": curve}, arrays=arrays, facts=facts)


def transfer_output(task: str, methods: tuple[str, ...], seed: int, scenes: Scenes) -> StageOutput:
    """Arrays, tables and facts of one transfer task for the experiment's encoder and the anchor."""
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {}
    tables: dict[str, pd.DataFrame] = {}
    for method in methods:
        good = {"random_init": 0.6, "mae": 1.2, "cmae": 2.6}[method]
        if task == "probe":
            labels = np.repeat(np.arange(len(CLASSES)), 15)
            centres = np.random.default_rng(1).normal(size=(len(CLASSES), 16))
            features = good * centres[labels] + rng.normal(size=(len(labels), 16))
            arrays |= {
                f"{method}/features": features.astype(np.float16),
                f"{method}/labels": labels,
                **pictured(method, scenes, rng),
            }
            tables[f"{method}-near"] = nearest(good)
        elif task == "finetune":
            count = rng.integers(0, 5, (10, 10)) + np.diag(np.full(10, int(40 * good)))
            arrays[f"{method}/confusion"] = count
            epoch = np.arange(20)
            top1 = 80 * (1 - np.exp(-epoch / 6 * good))
            tables[f"{method}-curve"] = pd.DataFrame(
                {"step": epoch * 9, "epoch": epoch, "top1": top1}
            )
            sure = np.linspace(10, 95, 6)
            tables[f"{method}-calibration"] = pd.DataFrame(
                {"bin": range(6), "confidence": sure, "accuracy": 0.8 * sure, "images": 20}
            )
            tables[f"{method}-worst"] = pd.DataFrame(
                {"id": ["x", NASTY], "row": [3, 4], "truth": 9, "predicted": 1, "probability": 97.4}
            )
            arrays[f"{method}/worst_images"] = scenes.images[:2]
        elif task == "segmentation":
            images, truth = scenes.images[:4], scenes.semantic[:4].copy()
            truth[:, :2] = 255
            guess = np.where(rng.random(truth.shape) < 0.1, 3, scenes.semantic[:4]).astype(np.uint8)
            arrays |= {f"{method}/images": images, f"{method}/truth": truth}
            arrays |= {f"{method}/predicted_linear": guess, f"{method}/predicted_upernet": truth}
            tables[f"{method}-linear-per_class"] = pd.DataFrame({"class": CLASSES, "iou": 51.25})
        else:
            arrays[f"{method}/images"] = scenes.images[:4]
            tables[f"{method}-boxes"] = detections(scenes, good)
            if method != "cmae":  # an older version kept neither
                shares = rng.uniform(0, 10 * good, len(CLASSES))
                tables[f"{method}-per_class"] = pd.DataFrame(
                    {"class": CLASSES, "objects": 4, "box_ap": shares, "mask_ap": shares / 2}
                )
                tables[f"{method}-mistakes"] = wrong_detections(scenes)
                arrays[f"{method}/mistakes"] = scenes.images[:3]
    config = {"k": 20, "temperature": 0.07} if task == "probe" else {"epochs": 20}
    facts = {"config": config, "machine": "2 cores, 8 GB, no accelerator", "seconds": 30.5}
    facts["classes"] = ["background", *CLASSES[1:]] if task == "segmentation" else CLASSES
    return StageOutput(tables=tables, arrays=arrays, facts=facts)


def pictured(method: str, scenes: Scenes, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """What the probe keeps of three images and of the four nearest of two queries."""
    found = {
        "look_images": scenes.images[:3],
        "look_attention": rng.random((3, 2, 8, 8)).astype(np.float16),
        "look_colours": rng.random((3, 8, 8, 3)).astype(np.float16),
        "attention_images": scenes.images[:3],
        "attention_ep": rng.random((3, 4, 8, 8)).astype(np.float16),
        "near_queries": scenes.images[8:10],
        "near_images": scenes.images[:8].reshape(2, 4, *scenes.images.shape[1:]),
    }
    return {f"{method}/{name}": array for name, array in found.items()}


def nearest(good: float) -> pd.DataFrame:
    """Two queries of the classes 8 and 9; the better the encoder, the more neighbours are right."""
    rank = np.tile(np.arange(1, 5), 2)
    truth = np.repeat([8, 9], 4)
    same = rank <= round(good)
    label = np.where(same, truth, 0)
    columns = {"query": truth - 8, "rank": rank, "id": "x", "label": label, "truth": truth}
    return pd.DataFrame({**columns, "similarity": 1 - 0.1 * rank, "same": same})


def detections(scenes: Scenes, good: float) -> pd.DataFrame:
    """For each of four images the right box and a wrong, unsure one."""
    found = []
    for i in range(4):
        x0, y0, x1, y1 = scenes.boxes[i]
        mask = np.asfortranarray((scenes.semantic[i] > 0).astype(np.uint8))
        right = {"image": i, "category": int(scenes.labels[i]), "score": min(0.3 * good, 0.97)}
        right |= {"x0": x0, "y0": y0, "x1": x1, "y1": y1, "rle": encode(mask)["counts"]}
        wrong = {**right, "category": 3, "score": 0.1, "x0": 0.0, "y0": 0.0, "rle": ""}
        if isinstance(right["rle"], bytes):
            right["rle"] = right["rle"].decode("ascii")
        found += [right, wrong]
    return pd.DataFrame(found)


def wrong_detections(scenes: Scenes) -> pd.DataFrame:
    """Two invented objects, the second of a class with an odd name, and a missed one."""
    columns = {"kind": ["invented", "invented", "missed"], "image": [0, 1, 2]}
    columns |= {"category": [3, 9, 2], "score": [0.96, 0.41, float("nan")]}
    corners = dict(zip(("x0", "y0", "x1", "y1"), scenes.boxes[:3].T, strict=True))
    return pd.DataFrame({**columns, **corners})


def write_results(folder: Path, seeds: tuple[int, ...], scenes: Scenes) -> None:
    """mae and cmae over `seeds`, the anchor measured inside each, segmentation skipped for mae."""
    hashes = {"mae": "a1b2", "cmae": "c3d4"}
    for method in ("mae", "cmae"):
        for seed in seeds:
            home = folder / f"{method}-{hashes[method]}-s{seed}"
            for task in ("pretrain", "probe", "finetune", "segmentation", "detection"):
                methods = (method,) if task == "pretrain" else (method, "random_init")
                if task == "segmentation" and method == "mae":
                    StageOutput.skipped(task, "no semantic masks <b>here</b>").write(home / task)
                    continue
                made = (
                    pretrain_output(method, seed, scenes)
                    if task == "pretrain"
                    else transfer_output(task, methods, seed, scenes)
                )
                rows = [rows_of(name, seed, task, hashes) for name in methods]
                rows = pd.concat(rows, ignore_index=True)
                StageOutput(rows, made.tables, made.arrays, made.facts).write(home / task)


def write_boxes(folder: Path, scenes: Scenes) -> None:
    """A crop box folder with its preview."""
    folder.mkdir(parents=True)
    manifest = {
        "producer": "attention",
        "rule": {"name": "quantile", "share": 0.25},
        "accepted": False,
        "reasons": ["41 % of the boxes touch all four edges"],
        "warnings": ["the median box covers 8% of its image"],
        "stats": {"area_mean": 0.31, "fallback_share": 0.02},
        "quality": {"boxes": {"found": {"iou": 0.61}, "shuffled": {"iou": 0.22}}},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    solid = 255 * (scenes.semantic[:8] > 0).astype(np.uint8)
    heat = np.stack([np.array(Image.fromarray(mask).resize((8, 8))) for mask in solid])
    np.savez(
        folder / "preview.npz",
        images=scenes.images[:8],
        boxes=scenes.boxes[:8] / scenes.images.shape[1],
        truth=np.where(np.arange(8)[:, None] < 4, 0.9 * scenes.boxes[:8] / 32, np.nan),
        heatmaps=heat,
    )


def make_inputs(root: Path, seeds: tuple[int, ...] = (0, 1)) -> ReportInputs:
    """Everything a report reads, written under `root`."""
    scenes = draw_scenes(40)
    write_results(root / "results", seeds, scenes)
    write_boxes(root / "boxes", scenes)
    card = {
        "name": "digit_scenes",
        "splits": {"train": 12000, "val": 2000},
        "image_size": [32, 32],
        "channels": 3,
        "classes": CLASSES,
        "semantic_classes": ["background", *CLASSES[1:]],
        "instance_classes": CLASSES,
        "class_counts": {"train": dict.fromkeys(CLASSES, 1200)},
        "sizes": {"height": {"min": 32.0, "max": 32.0}},
    }
    problems = pd.DataFrame(
        {
            "id": ["a", "b"],
            "path": [f"raw/{NASTY}.jpg", "raw/wide.tif"],
            "problem": ["cannot be decoded", "16 bit grey & more"],
            "action": ["skipped", "converted"],
        }
    )
    sheet = scenes.images[:40].reshape(4, 10, 32, 32, 3).swapaxes(1, 2).reshape(128, 320, 3)
    return ReportInputs(root / "results", card, problems, sheet, root / "boxes")


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """Two seeds of mae and cmae."""
    return make_inputs(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="session")
def page(inputs: ReportInputs) -> Report:
    """The report of `inputs`, two images in a picture to be quick."""
    return build_report(inputs, ReportConfig(pictures=2))


@pytest.fixture(scope="session")
def one_seed(tmp_path_factory: pytest.TempPathFactory) -> ReportInputs:
    """One seed of mae and cmae."""
    return make_inputs(tmp_path_factory.mktemp("report_one"), seeds=(0,))
