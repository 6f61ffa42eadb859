"""Detection: what is measured and kept, targets, repeatability, boxes alone, and skipped stores."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from faster_coco_eval.core import mask as coco_mask

from contramask.cli import main
from contramask.data.objects import instance_table
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.models.mask_rcnn import DetectorConfig, MaskRCNN
from contramask.results import COLUMNS, StageOutput
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.transfer import detect
from contramask.transfer.detect import DetectionConfig, DetectorTune, run_detection
from contramask.transfer.instances import BOX_COLUMNS, objects_of, pictured_boxes, results_of
from contramask.transfer.jitter import JitterConfig

FP32 = LaunchConfig(device="cpu", precision="fp32")
SHORT = DetectionConfig(
    train_limit=16,
    val_limit=8,
    tune=DetectorTune(epochs=2, batch_size=8),
    detector=DetectorConfig(
        channels=16,
        train_proposals=20,
        test_proposals=10,
        rpn_samples=32,
        roi_samples=16,
        box_hidden=32,
        mask_convs=1,
        score_threshold=0.0,
        max_detections=5,
    ),
    pictures=3,
)
ONE = replace(SHORT, anchor=False)
KINDS = {"box": "bbox", "mask": "segm"}
#: What the tiny scenes' objects, all small, can tell.
BOX_METRICS, MASK_METRICS = (
    [f"{kind}_{name}" for name in ("ap", "ap50", "ap75", "aps", "ar1", "ar10", "ar100", "ars")]
    for kind in KINDS
)
METRICS = BOX_METRICS + MASK_METRICS


def run(
    bundle: EncoderBundle, store: Store, config: DetectionConfig, launch: LaunchConfig = FP32
) -> StageOutput:
    return run_detection(bundle, store, config, launch, NullTracker())


def test_rows_tables_arrays_and_facts(
    tiny_store: Store, tiny_bundle: EncoderBundle, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("detection")
    run(tiny_bundle, tiny_store, SHORT).write(folder)
    output = StageOutput.read(folder)
    rows = output.rows
    assert rows.columns.tolist() == COLUMNS
    assert rows.loc[rows["method"] == "cmae", "metric"].tolist() == METRICS
    assert set(rows["method"]) == {"cmae", "random_init"}
    assert set(rows["protocol"]) == {"mask_rcnn"}
    assert rows["value"].between(0, 100).all()
    for method in ("cmae", "random_init"):
        assert output.arrays[f"{method}/images"].shape == (3, 32, 32, 3)
        mistakes = output.tables[f"{method}-mistakes"]
        assert set(mistakes["kind"]) <= {"invented", "missed"}
        assert output.arrays[f"{method}/mistakes"].shape == (len(mistakes), 64, 64, 3)
        boxes = output.tables[f"{method}-boxes"]
        assert boxes.columns.tolist() == BOX_COLUMNS
        assert set(boxes["image"]) <= {0, 1, 2}
        assert boxes["category"].between(0, 9).all()
        assert boxes[["x0", "y0", "x1", "y1"]].to_numpy().max() <= 32
        mask = coco_mask.decode({"size": [32, 32], "counts": boxes["rle"][0]})
        assert mask.shape == (32, 32)
        table = output.tables[f"{method}-per_class"]
        assert table["class"].tolist() == tiny_store.manifest["instance_classes"]
        assert {"objects", "box_ap", "mask_ap"} <= set(table)
        assert {"loss", "loss_mask"} <= set(output.tables[f"{method}-curve"])
    assert output.facts["classes"] == tiny_store.manifest["instance_classes"]
    assert output.facts["val_images"] == 8


def test_written_results_give_the_rows_numbers(
    tiny_store: Store,
    tiny_bundle: EncoderBundle,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = replace(SHORT, tune=DetectorTune(epochs=12, batch_size=8, lr=3e-3))
    run(tiny_bundle, tiny_store, config).write(tmp_path)
    rows = StageOutput.read(tmp_path).rows
    truth = json.loads((tmp_path / "files" / "ground_truth.json").read_text())
    assert len(truth["images"]) == 8
    assert {image["file_name"] for image in truth["images"]} <= set(tiny_store["val"].ids)
    for method in ("cmae", "random_init"):
        predictions = tmp_path / "files" / f"{method}-results.json"
        assert {"image_id", "category_id", "score", "bbox", "segmentation"} == set(
            json.loads(predictions.read_text())[0]
        )
        own = rows[rows["method"] == method].set_index("metric")["value"]
        for name, kind in KINDS.items():
            words = ("--gt", str(tmp_path / "files" / "ground_truth.json"), "--iou-type", kind)
            main(["evaluate", "detection", "--predictions", str(predictions), *words])
            printed = json.loads(capsys.readouterr().out.splitlines()[-1])
            measured = {f"{name}_{k.lower()}": 100 * v for k, v in printed.items() if v >= 0}
            kept = own[own.index.str.startswith(f"{name}_")]
            assert kept.to_dict() == pytest.approx(measured, abs=1e-6)
    assert rows["value"].max() > 0


def test_large_images_are_evaluated_few_at_a_time(
    tiny_store: Store, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = MaskRCNN.detect

    def noted(net: MaskRCNN, images: torch.Tensor) -> Any:
        sizes.append(len(images))
        return plain(net, images)

    monkeypatch.setattr(MaskRCNN, "detect", noted)
    monkeypatch.setattr(detect, "EVAL_PIXELS", 3 * 32 * 32)
    run(tiny_bundle, tiny_store, ONE)
    assert sizes == [3, 3, 2]


def test_the_same_seed_gives_the_same_numbers(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    first, second = (run(tiny_bundle, tiny_store, ONE) for _ in range(2))
    losses = [o.tables["cmae-curve"]["loss"].tolist() for o in (first, second)]
    assert losses[0] == losses[1]
    pd.testing.assert_frame_equal(first.rows, second.rows)
    pd.testing.assert_frame_equal(first.tables["cmae-boxes"], second.tables["cmae-boxes"])


def test_the_loss_falls_and_jitter_enlarging_and_bf16_work(
    tiny_store: Store, tiny_bundle: EncoderBundle
) -> None:
    config = replace(
        ONE,
        upscale=1.5,
        jitter=JitterConfig(scale=(0.8, 1.25), flip=0.5),
        tune=DetectorTune(epochs=10, batch_size=8, lr=2e-3),
    )
    launch = LaunchConfig(device="cpu", precision="bf16")
    output = run(tiny_bundle, tiny_store, config, launch)
    losses = output.tables["cmae-curve"]["loss"]
    assert losses.iloc[-1] < 0.9 * losses.iloc[0]
    assert output.facts["encoder_input"] == [48, 48]


def test_objects_are_found_with_conmims_beit(
    tiny_store: Store, conmim_bundle: EncoderBundle
) -> None:
    tune = replace(SHORT.tune, epochs=3, lr=2e-3, drop_path=0.2)
    output = run(conmim_bundle, tiny_store, replace(SHORT, upscale=1.5, tune=tune))
    rows = output.rows
    count = len(METRICS)
    assert rows["method"].tolist() == ["conmim"] * count + ["random_init"] * count
    assert set(rows["encoder"]) == {"BEiT 32x2/8, 2 heads, MLP 4, 32x32 px"}
    assert rows["value"].between(0, 100).all()
    assert output.facts["encoder_input"] == [48, 48]  # its bias tables are resampled
    losses = output.tables["conmim-curve"]["loss"]
    assert losses.iloc[-1] < losses.iloc[0]


def test_a_store_without_objects_is_skipped(
    shade_store: Store, shade_bundle: EncoderBundle
) -> None:
    output = run(shade_bundle, shade_store, SHORT)
    assert output.rows.empty
    assert output.facts["skipped"] == "the images have no objects with boxes"


@pytest.fixture
def edited_store(tiny_store: Store, tmp_path: Path) -> Store:
    """A copy: image 0 without objects, one crowd and one empty box in image 1, no masks at all."""
    tiny_store.write(tmp_path / "store")
    store = Store.read(tmp_path / "store")
    store.manifest["instance_masks"] = False
    for split in ("train", "val"):
        table = store[split].instances
        assert table is not None
        table = table[table["image"] != 0].assign(rle="")
        extra = table.iloc[0].to_dict() | {"image": 1}
        odd = [extra | {"iscrowd": True}, extra | {"x1": extra["x0"]}]
        instance_table([*table.to_dict("records"), *odd]).to_parquet(
            store[split].folder / "instances.parquet"
        )
    return Store(store.folder, store.manifest)


def test_boxes_without_masks_train_a_faster_rcnn(
    edited_store: Store, tiny_bundle: EncoderBundle
) -> None:
    output = run(tiny_bundle, edited_store, ONE)
    assert set(output.rows["protocol"]) == {"faster_rcnn"}
    assert output.rows["metric"].tolist() == BOX_METRICS
    assert (output.tables["cmae-boxes"]["rle"] == "").all()
    assert "loss_mask" not in output.tables["cmae-curve"]


def test_crowds_and_empty_boxes_are_no_targets(edited_store: Store) -> None:
    split = edited_store["train"]
    assert len(objects_of(split, 0, (32, 32))["boxes"]) == 0
    assert "masks" not in objects_of(split, 0, (32, 32))  # the store has boxes only
    proper = [o for o in split.instances_of(1) if not o[3] and o[1][2] > o[1][0]]
    assert len(objects_of(split, 1, (32, 32))["boxes"]) == len(proper)
    assert len(split.instances_of(1)) == len(proper) + 2


def test_targets_are_enlarged_with_labels_from_one(tiny_store: Store) -> None:
    split = tiny_store["train"]
    target = objects_of(split, 3, (64, 64))
    category, box, mask, _ = split.instances_of(3)[0]
    assert target["boxes"][0].tolist() == [2 * side for side in box]
    assert int(target["labels"][0]) == category + 1
    assert np.array_equal(target["masks"][0].numpy(), mask.repeat(2, 0).repeat(2, 1))


def test_detections_come_back_in_store_pixels(tiny_store: Store) -> None:
    found = {
        "boxes": torch.tensor([[8.0, 16, 40, 32]]),  # of a 64 px input
        "labels": torch.tensor([4]),
        "scores": torch.tensor([0.75]),
        "masks": torch.ones(1, 1, 28, 28),
    }
    (result,) = results_of(5, found, tiny_store["val"], (64, 64))
    assert result["image_id"] == 5
    assert result["category_id"] == 3
    assert result["bbox"] == [4, 8, 16, 8]
    drawn = coco_mask.decode(result["segmentation"]).astype(bool)
    expected = np.zeros((32, 32), dtype=bool)
    expected[8:16, 4:20] = True
    assert np.array_equal(drawn, expected)
    table = pictured_boxes([result], np.array([2, 5]))
    assert table.iloc[0][["image", "category", "x0", "y1"]].tolist() == [1, 3, 4, 16]
    assert pictured_boxes([], np.array([2])).columns.tolist() == BOX_COLUMNS


def test_windows_and_a_cascade_in_bf16(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    detector = replace(SHORT.detector, window=2, cascade=True)
    tune = replace(SHORT.tune, drop_path=0.2)
    launch = LaunchConfig(device="cpu", precision="bf16")
    output = run(tiny_bundle, tiny_store, replace(ONE, detector=detector, tune=tune), launch)
    assert set(output.rows["protocol"]) == {"cascade_mask_rcnn"}
    assert output.rows["metric"].tolist() == METRICS
    assert np.isfinite(output.tables["cmae-curve"]["loss"]).all()


def test_windows_are_refused_for_conmims_beit(
    tiny_store: Store, conmim_bundle: EncoderBundle
) -> None:
    config = replace(ONE, detector=replace(SHORT.detector, window=2))
    with pytest.raises(ValueError, match="window needs a plain Vision Transformer"):
        run(conmim_bundle, tiny_store, config)


def test_no_detection_at_all_scores_zero(tiny_store: Store, tiny_bundle: EncoderBundle) -> None:
    silent = replace(ONE, detector=replace(ONE.detector, score_threshold=1.0))
    output = run(tiny_bundle, tiny_store, silent)
    assert (output.rows["value"] == 0).all()
    assert output.tables["cmae-boxes"].empty
