"""`contramask evaluate`: the metrics of this library on files, to be checked against other tools.

Each sub-command prints one JSON object on stdout and nothing else; progress goes to stderr.
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contramask.commands.console import console_on_stderr

_DETECTION = """\
COCO's twelve numbers of a COCO result file, as COCO prints them: fractions of 1, and -1 where
nothing could be measured. Equal to pycocotools on the same files, also in this: where a detection
has both a box and a mask, its size class (APs, APm, APl) is that of the box."""
_SEGMENTATION = """\
mIoU, mAcc, aAcc, fwIoU and the IoU of each class, as fractions of 1, from one confusion matrix
over all pixels whose ground truth is not the ignored value. Files are matched by name. A class that
occurs in neither truth nor prediction has IoU null and enters no mean. Predicting the ignored value
is allowed and means 'no class': the pixel is missed by its true class and claimed by none."""
_KNN = """\
top1 and top5 as fractions of 1, DINO's protocol: cosine similarity, the k nearest train features
vote with weight exp(similarity / temperature)."""
#: Names in the field's spelling, and of `segmentation_scores`.
_SCORES = {"mIoU": "miou", "mAcc": "macc", "aAcc": "aacc", "fwIoU": "fwiou"}


def add(commands: Any) -> None:
    """Register the sub-command."""
    parser = commands.add_parser("evaluate", help="compute the standard metrics of files, as JSON")
    tasks = parser.add_subparsers(dest="task", required=True)
    _add_detection(tasks)
    _add_segmentation(tasks)
    _add_knn(tasks)


def _add_detection(tasks: Any) -> None:
    task = tasks.add_parser("detection", help="COCO's twelve numbers", description=_DETECTION)
    task.add_argument("--gt", type=Path, required=True, metavar="GT.json")
    task.add_argument("--predictions", type=Path, required=True, metavar="P.json")
    task.add_argument(
        "--iou-type",
        choices=("bbox", "segm"),
        default="bbox",
        help="compare boxes (default) or masks; a detection without a bbox has that of its mask",
    )
    task.set_defaults(run=_detection)


def _add_segmentation(tasks: Any) -> None:
    task = tasks.add_parser("segmentation", help="mIoU and others", description=_SEGMENTATION)
    task.add_argument("--gt", type=Path, required=True, metavar="DIR|ZIP")
    task.add_argument("--predictions", type=Path, required=True, metavar="DIR|ZIP")
    task.add_argument("--num-classes", type=int, required=True, metavar="N")
    task.add_argument("--ignore", type=int, default=255, help="value not counted (default 255)")
    task.set_defaults(run=_segmentation)


def _add_knn(tasks: Any) -> None:
    task = tasks.add_parser("knn", help="weighted nearest neighbours", description=_KNN)
    task.add_argument("--train", type=Path, required=True, metavar="T.npz", help="arrays x, y")
    task.add_argument("--test", type=Path, required=True, metavar="S.npz", help="arrays x, y")
    task.add_argument("--k", type=int, default=20, help="neighbours (default 20)")
    task.add_argument("--temperature", type=float, default=0.07, help="default 0.07")
    task.set_defaults(run=_knn)


def _detection(options: argparse.Namespace) -> int:
    from contramask.transfer.coco_files import read_results, read_truth
    from contramask.transfer.metrics import coco_standard

    with console_on_stderr(), warnings.catch_warnings():
        truth = read_truth(options.gt, options.iou_type)
        results = read_results(options.predictions, truth, options.iou_type)
        warnings.filterwarnings("ignore", "Found annotation id 0")  # read_truth has said it
        scores = coco_standard(truth, results, options.iou_type)
    return _print(scores)


def _segmentation(options: argparse.Namespace) -> int:
    from contramask.transfer.label_maps import LabelMaps, confusion_of_maps
    from contramask.transfer.metrics import per_class_table, segmentation_scores

    count = options.num_classes
    if count < 1:
        raise ValueError(f"--num-classes must be at least 1, not {count}")
    truth, predicted = LabelMaps(options.gt), LabelMaps(options.predictions)
    with console_on_stderr():
        confusion = confusion_of_maps(truth, predicted, count, options.ignore)
    scores = segmentation_scores(confusion)
    table = per_class_table(confusion, [str(number) for number in range(count)])
    by_class = [None if math.isnan(iou) else iou / 100 for iou in table["iou"]]
    return _print({name: scores[ours] / 100 for name, ours in _SCORES.items()} | {"IoU": by_class})


def _knn(options: argparse.Namespace) -> int:
    from contramask.transfer.knn import knn_accuracy, read_features

    train, test = read_features(options.train), read_features(options.test)
    return _print(knn_accuracy(train, test, options.k, options.temperature))


def _print(result: Mapping[str, Any]) -> int:
    sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    return 0
