"""The data card, its problems and the crop boxes in words."""

from typing import Any

import pandas as pd

from contramask.report.sections import Table, frame_table, in_words, side_by_side

#: What a reader wants to know of the data first; the rest follows in the card's order.
FIRST = ("name", "splits", "image_size", "classes", "semantic_classes", "instance_classes")

#: Statistic of a box set, a share -> what a reader calls it.
SHARES = {
    "area_mean": "Area of a box, mean",
    "fallback_share": "Images whose box is the whole image",
    "large_share": "Boxes of nearly the whole image",
    "binds_share": "Images whose crops the box restricts",
}
#: Kind of boxes in the quality table -> what a reader calls it.
KINDS = {
    "found": "these boxes",
    "shuffled": "the same, dealt to other images",
    "mean_box": "the mean true box for all",
    "center_half": "the centre half for all",
    "full": "the whole image for all",
}
#: How a set's quality is split up -> what the groups are called.
GROUPS = {
    "by_size": {
        "small": "small: under a tenth of the image",
        "middle": "middle: to four tenths",
        "large": "large",
    },
    "by_offset": {
        "centred": "the third nearest to the centre",
        "between": "the third between",
        "off_centre": "the third farthest from the centre",
    },
}
#: Measure of boxes against true objects, a share -> its heading.
MEASURES = {
    "iou": "Mean IoU",
    "corloc": "IoU of 0.5 and more",
    "coverage": "Object inside the box",
    "area": "Area of the box",
}


def data_facts(card: dict[str, Any]) -> dict[str, str]:
    """The data card as name -> words; counts by class are left to `class_counts`."""
    facts: dict[str, str] = {}
    for key in [*(k for k in FIRST if k in card), *(k for k in card if k not in FIRST)]:
        value = card[key]
        if key == "class_counts":
            continue
        if key == "image_size" and isinstance(value, list | tuple):
            facts["image size"] = " \N{MULTIPLICATION SIGN} ".join(map(str, value)) + " pixels"
        elif isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
            facts |= {f"{words(key)}, {name}": in_words(each) for name, each in value.items()}
        else:
            facts[words(key)] = in_words(value)
    return facts


def class_counts(card: dict[str, Any]) -> Table | None:
    """How many images each class has in each split; None without labels."""
    return side_by_side("Images of each class by split", card.get("class_counts") or {})


def problem_table(problems: pd.DataFrame) -> Table | None:
    """The files that gave trouble and what was done about them; None without any."""
    if problems.empty:
        return None
    heads = {"path": "File", "problem": "Problem", "action": "What was done"}
    table = problems[[name for name in heads if name in problems]].rename(columns=heads)
    return frame_table("Files that gave trouble", table, limit=200)


def box_facts(manifest: dict[str, Any]) -> dict[str, str]:
    """How the crop boxes were made, and what they look like."""
    facts: dict[str, str]
    facts = {key: in_words(manifest[key]) for key in ("method", "producer") if key in manifest}
    if manifest.get("rule"):
        facts["rule"] = in_words(manifest["rule"])
    for key, value in (manifest.get("stats") or {}).items():
        if key in SHARES:
            facts[SHARES[key]] = _percent(value)
    return facts


def box_remarks(manifest: dict[str, Any]) -> list[str]:
    """Why the boxes were refused, and what is worth knowing about them."""
    return [str(text) for key in ("reasons", "warnings") for text in manifest.get(key) or []]


def box_quality(manifest: dict[str, Any]) -> Table | None:
    """How well the boxes hit the true objects beside boxes that know nothing; None if unknown."""
    boxes = (manifest.get("quality") or {}).get("boxes") or {}
    kinds = [kind for kind in KINDS if kind in boxes]
    measures = [name for name in MEASURES if any(name in boxes[kind] for kind in kinds)]
    if not measures:
        return None
    rows = [
        (KINDS[kind], *(_percent(boxes[kind].get(name)) for name in measures)) for kind in kinds
    ]
    caption = "How well the boxes hit the true objects, beside boxes that know nothing of the image"
    return Table(caption, ("Boxes", *(MEASURES[name] for name in measures)), tuple(rows))


def box_groups(manifest: dict[str, Any]) -> Table | None:
    """The same by the objects' size and distance from the centre; None if unknown."""
    quality = manifest.get("quality") or {}
    found = [
        (name, quality[by][group])
        for by, groups in GROUPS.items()
        for group, name in groups.items()
        if group in (quality.get(by) or {})
    ]
    if not found:
        return None
    rows = [
        (name, f"{measured['images']:,}", *(_percent(measured.get(m)) for m in MEASURES))
        for name, measured in found
    ]
    caption = "The same by the objects' size and by their distance from the centre"
    return Table(caption, ("Objects", "Images", *MEASURES.values()), tuple(rows))


def words(key: str) -> str:
    """A key of ours as a reader writes it."""
    return key.replace("_", " ")


def _percent(share: Any) -> str:
    return f"{100 * share:.0f} %" if isinstance(share, int | float) else in_words(share)
