"""`contramask evaluate` on files, against pycocotools, brute force and scikit-learn."""

import contextlib
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from contramask.cli import main
from contramask.transfer.metrics import COCO_METRICS, encode_masks

HEIGHT, WIDTH = 150, 210


def run(capsys: pytest.CaptureFixture[str], *words: object) -> Any:
    """What the command prints, which must be one JSON object and nothing else."""
    assert main(["evaluate", *map(str, words)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    return json.loads(printed)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The sentence with which the command refuses; nothing may stand on stdout."""
    assert main(["evaluate", *map(str, words)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    _, found, sentence = captured.err.rpartition("contramask evaluate: ")  # below progress bars
    assert found
    return sentence


# -- detection


def boxed_mask(rng: np.random.Generator) -> tuple[np.ndarray, list[float]]:
    """An ellipse of 3 to 120 pixels a side and the box it was drawn in."""
    longest = rng.choice([8, 25, 60, 120])
    h, w = rng.integers(3, longest, 2)
    y, x = rng.integers(0, HEIGHT - h), rng.integers(0, WIDTH - w)
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    middle = ((down - y - h / 2 + 0.5) / h) ** 2 + ((across - x - w / 2 + 0.5) / w) ** 2
    mask = middle <= 0.25
    return mask, [float(x), float(y), float(w), float(h)]


def rle(mask: np.ndarray) -> dict[str, Any]:
    return {"size": [HEIGHT, WIDTH], "counts": encode_masks(mask[None])[0]}


def coco_files(seed: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Five images with crowds, equal scores, over 100 detections, polygons, an empty category.

    One image has no object, and some detections lie there.
    """
    rng = np.random.default_rng(seed)
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []

    def found(image: int, category: int, box: list[float], mask: np.ndarray) -> None:
        score = round(float(rng.random()), 1)
        place = {"image_id": image, "category_id": category, "score": score}
        results.append({**place, "bbox": box, "segmentation": rle(mask)})

    for image in (7, 8, 9, 11):
        for number in range(6):
            mask, (x, y, w, h) = boxed_mask(rng)
            outline = rle(mask) if number else [[x, y, x + w, y, x + w, y + h, x, y + h]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": int(rng.choice([1, 3])),
                    "bbox": [x, y, w, h],
                    "area": float(mask.sum()),
                    "iscrowd": int(number == 5),
                    "segmentation": outline,
                }
            )
            for _ in range(rng.integers(0, 4)):
                dx, dy = (int(d) for d in rng.integers(-2, 3, 2))
                category = int(rng.choice([1, 3, 90]))
                found(image, category, [x + dx, y + dy, w, h], np.roll(mask, (dy, dx), (0, 1)))
    for _ in range(130):
        mask, box = boxed_mask(rng)
        found(7, 1, box, mask)
    found(12, 3, box, mask)
    truth = {
        "images": [{"id": i, "height": HEIGHT, "width": WIDTH} for i in (7, 8, 9, 11, 12)],
        "categories": [{"id": i, "name": f"c{i}"} for i in (1, 3, 90)],
        "annotations": annotations,
    }
    return truth, results


def pycocotools(gt: Path, predictions: Path, kind: str) -> list[float]:
    """The twelve numbers, from the files themselves."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(gt))
        evaluation = COCOeval(reference, reference.loadRes(str(predictions)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats]


def written(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("kind", "without"),
    [
        *(("bbox", "nothing"), ("bbox", "bbox"), ("bbox", "segmentation")),
        *(("segm", "nothing"), ("segm", "bbox")),
    ],
)
def test_detection_equals_pycocotools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, without: str
) -> None:
    for seed in (0, 1):
        truth, results = coco_files(seed)
        for result in results:
            result.pop(without, None)
        gt = written(tmp_path, "gt.json", truth)
        predictions = written(tmp_path, "p.json", results)
        ours = run(
            capsys, "detection", "--gt", gt, "--predictions", predictions, "--iou-type", kind
        )
        assert tuple(ours) == COCO_METRICS
        expected = pycocotools(gt, predictions, kind)
        assert list(ours.values()) == pytest.approx(expected, abs=1e-6)
        assert 0.02 < ours["AP"] < 0.9


def test_boxes_are_compared_unless_masks_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, results = coco_files(0)
    gt, predictions = written(tmp_path, "gt.json", truth), written(tmp_path, "p.json", results)
    files = ("detection", "--gt", gt, "--predictions", predictions)
    assert run(capsys, *files) == run(capsys, *files, "--iou-type", "bbox")
    assert run(capsys, *files) != run(capsys, *files, "--iou-type", "segm")


def test_no_detection_at_all_scores_zero_and_what_cannot_be_measured_minus_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, _ = coco_files(0)
    small = [a for a in truth["annotations"] if a["area"] < 32**2]
    gt = written(tmp_path, "gt.json", {**truth, "annotations": small})
    ours = run(capsys, "detection", "--gt", gt, "--predictions", written(tmp_path, "p.json", []))
    undefined = {"APm", "APl", "ARm", "ARl"}
    assert ours == {name: -1.0 if name in undefined else 0.0 for name in COCO_METRICS}


def test_what_pycocotools_drops_in_silence_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    truth, results = coco_files(0)
    for annotation in truth["annotations"]:
        annotation["id"] -= 1
    results[0]["category_id"] = 4
    gt, predictions = written(tmp_path, "gt.json", truth), written(tmp_path, "p.json", results)
    ours = run(capsys, "detection", "--gt", gt, "--predictions", predictions)
    assert list(ours.values()) == pytest.approx(pycocotools(gt, predictions, "bbox"), abs=1e-6)
    assert "1 detections are of categories that the ground truth does not list (4)" in caplog.text
    assert "id 0, which COCO's evaluation takes for 'not found'" in caplog.text


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"image_id": 99}, "detection 3 is in image 99, which the ground truth does not list"),
        ({"image_id": "7"}, "detection 3: image_id must be a whole number, and is '7'"),
        ({"score": None}, "detection 3: score must be a number, and is None"),
        ({"score": float("nan")}, "detection 3: score must be a number, and is nan"),
        ({"bbox": [1, 2, 3]}, r"bbox must be [x, y, width, height] in pixels, and is [1, 2, 3]"),
    ],
)
def test_a_detection_that_is_wrong_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], sentence: str
) -> None:
    truth, results = coco_files(0)
    results[3] |= change
    gt, predictions = written(tmp_path, "gt.json", truth), written(tmp_path, "p.json", results)
    text = refused(capsys, "detection", "--gt", gt, "--predictions", predictions)
    assert f"p.json: {sentence}" in text or sentence in text


def test_a_mask_of_another_size_and_a_missing_mask_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, results = coco_files(0)
    gt = written(tmp_path, "gt.json", truth)
    files = ("detection", "--gt", gt, "--predictions", tmp_path / "p.json", "--iou-type", "segm")
    results[2]["segmentation"]["size"] = [WIDTH, HEIGHT]
    written(tmp_path, "p.json", results)
    sentence = "detection 2: the mask is of [210, 150] pixels (rows, columns), its image of [150,"
    assert sentence in refused(capsys, *files)
    results[2].pop("segmentation")
    written(tmp_path, "p.json", results)
    assert "detection 2 needs a segmentation in run lengths" in refused(capsys, *files)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "gt.json is no JSON file"),
        ("[]", "gt.json is no COCO annotation file: it holds a list"),
        ('{"images": [], "categories": []}', "the list 'annotations' is missing"),
        (
            '{"images": [{"id": 1}, {"id": 1}], "categories": [], "annotations": []}',
            "the image id 1 is given twice",
        ),
        (
            '{"images": [], "categories": [], "annotations": [{"id": 5, "image_id": 1, '
            '"category_id": 1, "bbox": [0, 0, 2, 2]}]}',
            "annotation 5: area must be a number, and is None",
        ),
    ],
)
def test_a_ground_truth_that_is_wrong_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, sentence: str
) -> None:
    (tmp_path / "gt.json").write_text(text)
    predictions = written(tmp_path, "p.json", [])
    words = ("detection", "--gt", tmp_path / "gt.json", "--predictions", predictions)
    assert sentence in refused(capsys, *words)


def test_two_files_exchanged_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, _ = coco_files(0)
    gt = written(tmp_path, "gt.json", truth)
    text = refused(capsys, "detection", "--gt", gt, "--predictions", gt)
    assert "is no COCO result file: give a list of detections" in text
    assert "No such file" in refused(
        capsys, "detection", "--gt", tmp_path / "none.json", "--predictions", gt
    )


# -- segmentation


def class_maps(folder: Path) -> tuple[Path, Path]:
    """Three maps of classes 0..4 (4 never true, 3 never predicted) and predictions of them."""
    rng = np.random.default_rng(0)
    for number in range(3):
        shape = (20 + number, 31)
        truth = rng.choice([0, 1, 2, 3, 255], size=shape).astype(np.uint8)
        guess = rng.choice([0, 1, 2, 4], size=shape)
        predicted = np.where((rng.random(shape) < 0.5) & (truth < 3), truth, guess)
        predicted[rng.random(shape) < 0.1] = 255  # no class
        for name, values in (("gt", truth), ("predicted", predicted.astype(np.uint8))):
            path = folder / name / "val" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    return folder / "gt", folder / "predicted"


def brute_force(gt: Path, predicted: Path, num_classes: int, ignore: int) -> dict[str, Any]:
    """The scores from their definitions, over all pixels of all files."""
    files = sorted(path.relative_to(gt) for path in gt.rglob("*.png"))
    true = np.concatenate([np.asarray(Image.open(gt / f)).ravel() for f in files])
    pred = np.concatenate([np.asarray(Image.open(predicted / f)).ravel() for f in files])
    pred, true = pred[true != ignore], true[true != ignore]
    ious, accuracies, weighted = [], [], 0.0
    for c in range(num_classes):
        hits, either = ((true == c) & (pred == c)).sum(), ((true == c) | (pred == c)).sum()
        ious.append(hits / either if either else None)
        accuracies += [hits / (true == c).sum()] if (true == c).any() else []
        weighted += (ious[-1] or 0) * (true == c).mean()
    return {
        "mIoU": np.mean([iou for iou in ious if iou is not None]),
        "mAcc": np.mean(accuracies),
        "aAcc": (true == pred).mean(),
        "fwIoU": weighted,
        "IoU": ious,
    }


def zipped(folder: Path, inside: str) -> Path:
    """The files of a folder as an archive, below a folder of that name."""
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._0.png", b"not an image")
        archive.writestr(f"{inside}readme.txt", b"class maps")
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, inside + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_segmentation_equals_brute_force(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], packed: bool
) -> None:
    gt, predicted = class_maps(tmp_path)
    given = (zipped(gt, "masks/"), zipped(predicted, "")) if packed else (gt, predicted)
    words = ("segmentation", "--gt", given[0], "--predictions", given[1], "--num-classes", 6)
    ours, expected = run(capsys, *words), brute_force(gt, predicted, 6, 255)
    assert list(ours) == ["mIoU", "mAcc", "aAcc", "fwIoU", "IoU"]
    by_class, expected_by_class = ours.pop("IoU"), expected.pop("IoU")
    assert ours == pytest.approx(expected, abs=1e-12)
    assert by_class[:5] == pytest.approx(expected_by_class[:5], abs=1e-12)
    assert by_class[5] is None  # in neither truth nor prediction
    assert by_class[4] == 0.0  # predicted, never true


def test_another_value_may_be_ignored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gt, predicted = class_maps(tmp_path)
    for file in [*gt.rglob("*.png"), *predicted.rglob("*.png")]:
        values = np.asarray(Image.open(file)).copy()
        values[values == 255] = 9
        Image.fromarray(values).save(file)
    words = ("segmentation", "--gt", gt, "--predictions", predicted, "--num-classes", 5)
    ours = run(capsys, *words, "--ignore", 9)
    expected = brute_force(gt, predicted, 5, 9)
    assert ours["mIoU"] == pytest.approx(expected["mIoU"], abs=1e-12)
    text = refused(capsys, *words)
    assert "holds the value 9, which is neither a class (0..4) nor 255, the ignored value" in text


def test_palette_and_deep_grey_maps_hold_class_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.arange(600, dtype=np.uint16).reshape(20, 30) % 300
    (tmp_path / "gt").mkdir()
    Image.fromarray(values).save(tmp_path / "gt" / "deep.png")
    small = Image.fromarray((values % 7).astype(np.uint8), mode="P")
    small.putpalette(list(range(21)))
    small.save(tmp_path / "gt" / "palette.png")
    words = ("segmentation", "--gt", tmp_path / "gt", "--predictions", tmp_path / "gt")
    assert run(capsys, *words, "--num-classes", 300, "--ignore", 999)["mIoU"] == 1.0


def test_files_without_partner_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, predicted = class_maps(tmp_path)
    words = ("segmentation", "--gt", gt, "--predictions", predicted, "--num-classes", 5)
    (predicted / "val" / "1.png").rename(predicted / "val" / "one.png")
    text = refused(capsys, *words)
    assert f"{predicted} lacks 1.png; {predicted} holds one.png without ground truth" in text


def test_a_map_of_another_shape_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, predicted = class_maps(tmp_path)
    Image.fromarray(np.zeros((31, 20), dtype=np.uint8)).save(predicted / "val" / "0.png")
    words = ("segmentation", "--gt", gt, "--predictions", predicted, "--num-classes", 5)
    assert "0.png has 31x20 pixels (rows x columns) in" in refused(capsys, *words)


@pytest.mark.parametrize("side", ["gt", "predicted"])
def test_a_value_that_is_no_class_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], side: str
) -> None:
    gt, predicted = class_maps(tmp_path)
    values = np.asarray(Image.open(tmp_path / side / "val" / "2.png")).copy()
    values[np.asarray(Image.open(gt / "val" / "2.png")) == 0] = 77
    Image.fromarray(values).save(tmp_path / side / "val" / "2.png")
    words = ("segmentation", "--gt", gt, "--predictions", predicted, "--num-classes", 5)
    text = refused(capsys, *words)
    assert f"{tmp_path / side}: 2.png holds the value 77, which is neither a class (0..4)" in text


def test_maps_that_cannot_be_used_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gt, _ = class_maps(tmp_path)
    tail = ("--predictions", gt, "--num-classes", 5)
    (tmp_path / "empty").mkdir()
    assert "holds no PNG files" in refused(
        capsys, "segmentation", "--gt", tmp_path / "empty", *tail
    )
    assert "does not exist" in refused(capsys, "segmentation", "--gt", tmp_path / "none", *tail)
    note = tmp_path / "note.zip"
    note.write_text("hello")
    text = refused(capsys, "segmentation", "--gt", note, *tail)
    assert "is neither a folder nor a ZIP archive" in text
    words = ("segmentation", "--gt", gt, *tail)
    (gt / "val" / "0.png").write_bytes(b"hello")
    assert "0.png cannot be read" in refused(capsys, *words)
    Image.new("RGB", (31, 20)).save(gt / "val" / "0.png")
    assert "0.png is in RGB colours; a class map holds one class number" in refused(capsys, *words)


def test_ground_truth_that_is_ignored_everywhere_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gt").mkdir()
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint8)).save(tmp_path / "gt" / "a.png")
    words = ("segmentation", "--gt", tmp_path / "gt", "--predictions", tmp_path / "gt")
    assert "every pixel" in refused(capsys, *words, "--num-classes", 2)
    assert "--num-classes must be at least 1" in refused(capsys, *words, "--num-classes", 0)


# -- knn


def arrays(folder: Path, name: str, x: np.ndarray, y: np.ndarray) -> Path:
    np.savez(folder / name, x=x, y=y)
    return folder / name


def clusters(count: int, seed: int, dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Features around eight overlapping centres, labels 10, 20, ... 80."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(5).normal(size=(8, 12))
    y = rng.integers(0, 8, count)
    return (centres[y] + 1.5 * rng.normal(size=(count, 12))).astype(dtype), 10 * (y + 1)


def scikit_learn(
    train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, np.ndarray], k: int, t: float
) -> dict[str, float]:
    """top1 and top5 from scikit-learn's votes."""
    reference = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / t)
    ).fit(*train)
    share = reference.predict_proba(test[0])
    ranked = reference.classes_[np.argsort(-share, axis=1, kind="stable")]
    return {
        "top1": float((reference.predict(test[0]) == test[1]).mean()),
        "top5": float((ranked[:, : min(5, k)] == test[1][:, None]).any(axis=1).mean()),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (3, 0.5), (200, 0.07)])
def test_knn_equals_scikit_learns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dtype: type, k: int, temperature: float
) -> None:
    train, test = clusters(300, 0, dtype), clusters(150, 1, dtype)
    t, s = arrays(tmp_path, "t.npz", *train), arrays(tmp_path, "s.npz", *test)
    words = ("knn", "--train", t, "--test", s, "--k", k, "--temperature", temperature)
    expected = scikit_learn(train, test, k, temperature) | {"k": k, "temperature": temperature}
    assert run(capsys, *words) == pytest.approx(expected, abs=1e-12)


def test_more_neighbours_than_train_images_are_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = clusters(40, 0, np.float64), clusters(60, 1, np.float64)
    t, s = arrays(tmp_path, "t.npz", *train), arrays(tmp_path, "s.npz", *test)
    ours = run(capsys, "knn", "--train", t, "--test", s, "--k", 500)
    expected = scikit_learn(train, test, 40, 0.07)
    assert {name: ours[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_of_equally_voted_classes_the_lower_wins_as_in_scikit_learn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Every feature stands three times in train, each time with another label.
    x, y = np.repeat(np.eye(6), 3, axis=0), np.tile([7, 3, 5], 6)
    test = (np.eye(6), np.array([3, 3, 3, 3, 3, 5]))
    t, s = arrays(tmp_path, "t.npz", x, y), arrays(tmp_path, "s.npz", *test)
    ours = run(capsys, "knn", "--train", t, "--test", s, "--k", 3)
    assert scikit_learn((x, y), test, 3, 0.07)["top1"] == pytest.approx(5 / 6)
    assert ours["top1"] == pytest.approx(5 / 6)
    assert ours["top5"] == 1.0


def test_of_equally_similar_neighbours_the_first_vote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.tile(np.array([[1.0, 0.0]]), (40, 1))
    y = np.array([2] * 4 + [1] * 36)
    t = arrays(tmp_path, "t.npz", x, y)
    s = arrays(tmp_path, "s.npz", x[:2], np.array([2, 1]))
    assert run(capsys, "knn", "--train", t, "--test", s, "--k", 4)["top1"] == 0.5
    assert run(capsys, "knn", "--train", t, "--test", s, "--k", 4)["top5"] == 1.0


def test_labels_may_be_text_and_unknown_ones_are_not_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.eye(3, dtype=np.float16)
    t = arrays(tmp_path, "t.npz", x, np.array(["cat", "dog", "cow"]))
    s = arrays(tmp_path, "s.npz", x, np.array(["cat", "zebra", "ape"]))
    ours = run(capsys, "knn", "--train", t, "--test", s)
    assert (ours["top1"], ours["top5"]) == pytest.approx((1 / 3, 1 / 3))


@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        ({"x": np.ones((2, 3))}, "needs the arrays x (features) and y (labels) and holds: x"),
        ({"x": np.ones((2, 3)), "y": np.ones(3, int)}, "not (2, 3) and (3,)"),
        ({"x": np.full((2, 3), np.nan), "y": np.ones(2, int)}, "must hold finite numbers"),
        ({"x": np.ones((2, 3)), "y": np.ones(2)}, "y (float64) must hold whole numbers or text"),
        ({"x": np.ones((2, 4)), "y": np.ones(2, int)}, "4 dimensions and test features 3"),
        ({"x": np.ones((2, 3)), "y": np.array(["a", "b"])}, "labels are <U1 in train and int64"),
    ],
)
def test_arrays_that_cannot_be_used_are_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    held: dict[str, np.ndarray],
    sentence: str,
) -> None:
    np.savez(tmp_path / "t.npz", **held)  # type: ignore[arg-type]
    s = arrays(tmp_path, "s.npz", np.ones((2, 3)), np.ones(2, int))
    assert sentence in refused(capsys, "knn", "--train", tmp_path / "t.npz", "--test", s)


def test_no_npz_file_and_no_neighbour_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s = arrays(tmp_path, "s.npz", np.ones((2, 3)), np.ones(2, int))
    np.save(tmp_path / "t.npy", np.ones((2, 3)))
    (tmp_path / "t.txt").write_text("hello")
    for name in ("t.npy", "t.txt"):
        text = refused(capsys, "knn", "--train", tmp_path / name, "--test", s)
        assert f"{name} is no .npz file of plain arrays" in text
    assert "k must be at least 1" in refused(capsys, "knn", "--train", s, "--test", s, "--k", 0)
