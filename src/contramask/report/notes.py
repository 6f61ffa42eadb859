"""What a stranger needs to be told: what each method does, and which odd numbers are normal."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from contramask.report.tables import METHOD_NAMES, Measured
from contramask.report.verdict import RANDOM, signed

#: Method -> what it does, in a sentence.
METHODS = {
    "random_init": "The same network with weights that never saw an image: the anchor. "
    "What it scores, the architecture alone gives.",
    "mae": "Hides most patches of an image and learns to paint their pixels back.",
    "cmae": "MAE, and in addition the masked image must recognise a complete, slightly shifted "
    "view of itself among those of all other images.",
    "cmae_mao": "MAE with a small decoder; the encoder must also match two views of an image and "
    "tell where its patches lie. Reconstructed from an abstract and a successor's code.",
    "conmim": "Hides patches and must tell, for each, which patch of the complete image it was.",
    "supmim": "Learns the labels of the training images and, from masked ones, predicts what was "
    "hidden. It has seen labels, all others have not. Reconstructed from an abstract.",
    "supervised": "Learns labels only; no masking.",
}


#: Questions people ask of a report, and their answers.
NORMAL = (
    (
        "The kNN of MAE is poor",
        "By nature: its features describe how patches look, and nothing pulls images of one "
        "class together. ViT-B after 100 epochs on ImageNet reaches 11 % by kNN, yet 46 % with "
        "a linear head and 81 % when fine-tuned. Judge MAE by linear and dense numbers.",
    ),
    (
        "The contrastive loss falls and then rises",
        "Seen with CMAE late in training: reconstruction goes on improving while the target "
        "network keeps moving. It is healthy as long as the positive cosine stays above the "
        "negative one, and the feature spread stays away from 0. Small batches make it harder.",
    ),
    (
        "A pre-trained encoder is below random init",
        "An under-trained MAE can be: in the first epochs its features get worse before they "
        "get better, while the loss only falls. A falling loss is no test. Train longer before "
        "you doubt the method.",
    ),
    (
        "Fine-tuning shows hardly any difference",
        "It is the least informative number: with all labels and all weights free, the start "
        "matters little. Five labels a class, kNN and frozen segmentation separate encoders "
        "far better.",
    ),
    (
        "SupMIM is far ahead where labels are few",
        "It has learnt from all labels of the training images, so five labels a class and kNN "
        "only repeat what it was told. Compare it with its own baseline, the same training "
        "with lambda_mim = 0, which tables call supervised, and on tasks with other labels.",
    ),
    (
        "Two runs of the same recipe differ",
        "Seeds change the weights at the start, the order of images, the masks and the crops. "
        "With ImageNet the spread is about 0.1 points; with small data and short training some "
        "points. One seed is an anecdote, three are a measurement. With two, the 95 % interval "
        "is wide by nature: it reaches 6 times as far to each side of the mean as the two runs "
        "lie apart.",
    ),
)


@dataclass(frozen=True)
class Note:
    """One answer to "is this normal?", and where this report shows it."""

    question: str
    answer: str
    seen: tuple[str, ...] = ()


def methods_shown(methods: Iterable[str]) -> list[tuple[str, str]]:
    """(name, what it does) of the methods that are known by description."""
    present = set(methods)
    return [(METHOD_NAMES[key], text) for key, text in METHODS.items() if key in present]


def normal_notes(columns: Sequence[Measured], curves: Mapping[str, pd.DataFrame]) -> list[Note]:
    """The notes, each with what of it is seen in these columns and pre-training curves."""
    knn = [column for column in columns if column.task.metric == "knn_top1"]
    seen = (
        _below_anchor(knn, "MAE"),
        _rising(curves),
        _below_anchor(columns),
        _close_finetuning(columns),
        (),  # said wherever there is a report
        (),
    )
    return [Note(*texts, found) for texts, found in zip(NORMAL, seen, strict=True)]


def _below_anchor(columns: Sequence[Measured], prefix: str = "") -> tuple[str, ...]:
    seen = []
    for column in columns:
        for name, cell in column.cells.items():
            gap = cell.difference
            if gap is not None and gap <= -0.05 and name.startswith(prefix):
                seen.append(f"{name}, {column.task.title}: {signed(gap)} points to {RANDOM}")
    return tuple(seen)


def _rising(curves: Mapping[str, pd.DataFrame]) -> tuple[str, ...]:
    """Experiments whose contrastive loss ends clearly above its lowest value."""
    seen = []
    for experiment, frame in curves.items():
        if "contrast_loss" not in frame or len(frame) < 10:
            continue
        smooth = frame["contrast_loss"].rolling(5, center=True, min_periods=1).mean()
        low, first, last = smooth.min(), smooth.iloc[0], smooth.iloc[-1]
        if last - low > 0.1 * (first - low) and last > low:
            seen.append(f"{experiment}: {low:.3g} at the lowest, {last:.3g} at the end")
    return tuple(seen)


def _close_finetuning(columns: Sequence[Measured]) -> tuple[str, ...]:
    for column in columns:
        means = [cell.mean for cell in column.cells.values()]
        if column.task.metric == "finetune_top1" and len(means) > 1:
            spread = max(means) - min(means)
            if spread < 3:
                return (f"all encoders lie within {spread:.1f} points",)
    return ()
