"""What the user may choose about the data: source, size, split, and how the digit scenes look."""

from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic.dataclasses import dataclass

from contramask.data.framing import Fit
from contramask.typed import STRICT

_SIDES = (8, 2048)  # smallest and largest side of a stored image


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError(f"a range is written [low, high], and {pair[0]} is above {pair[1]}")
    return pair


def _square(value: Any) -> Any:
    if not isinstance(value, int):
        return value
    if not _SIDES[0] <= value <= _SIDES[1]:
        raise ValueError(
            f"a side in pixels is from {_SIDES[0]} to {_SIDES[1]}; write one number for a square, "
            "or [rows, columns]"
        )
    return value, value


Share = Annotated[float, Field(ge=0, le=1)]
#: [low, high], both in [0, 1], drawn from uniformly.
ShareRange = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
Scale = Annotated[float, Field(gt=0, le=1)]
ScaleRange = Annotated[tuple[Scale, Scale], AfterValidator(_ascending)]
Side = Annotated[int, Field(ge=_SIDES[0], le=_SIDES[1])]
#: (rows, columns) in pixels; one number stands for a square.
Size = Annotated[tuple[Side, Side], BeforeValidator(_square)]
Zoom = Annotated[float, Field(ge=0.25, le=16)]
ZoomRange = Annotated[tuple[Zoom, Zoom], AfterValidator(_ascending)]


@dataclass(frozen=True, config=STRICT)
class ScenesConfig:
    """How the built-in digit scenes are drawn; brightness is in [0, 1], 1 = white.

    Every pair is a [low, high] range from which each scene draws uniformly.
    """

    #: Scenes of the two splits; scene i is the same whatever these are.
    num_train: int = Field(default=12_000, ge=1, le=1_000_000)
    num_val: int = Field(default=2_000, ge=0, le=1_000_000)
    #: Side of the drawn scene in pixels; null draws at the store's `image_size`.
    side: int | None = Field(default=None, ge=16, le=1024)
    #: Longer side of the main digit's ink as a share of the scene's side.
    main_scale: ScaleRange = (0.60, 0.95)
    #: Share of scenes in which a second, smaller digit is tried.
    second_probability: Share = 0.35
    #: Longer side of the second digit as a share of the scene's side.
    second_scale: ScaleRange = (0.25, 0.40)
    #: The second digit is left out when less than this share of its ink stays visible.
    second_visible: Share = 0.6
    #: Brightness of the digits before tinting.
    digit_brightness: ShareRange = (0.60, 1.0)
    #: Each colour channel of a digit is lowered by up to this share.
    tint: Share = 0.5
    #: Mean brightness of the background.
    background_brightness: ShareRange = (0.12, 0.32)
    #: What is left of the photograph's contrast (1 = all of it).
    background_contrast: ShareRange = (0.20, 0.45)
    #: Side of the photograph's crop in scene sides: above 1 the photograph is shrunk.
    background_zoom: ZoomRange = (1.0, 3.0)
    #: Share of the 5,000 digits kept for val scenes only (stratified by class).
    val_digit_share: Annotated[float, Field(gt=0, lt=1)] = 0.2


SourceName = Literal[
    "digit_scenes",
    "folder",
    "manifest",
    "tiny_imagenet",
    "coco",
    "mask_pairs",
    "voc",
    "ade20k",
    "oxford_pets",
    "webdataset",
    "huggingface",
    "imagenette",
    "cifar10",
    "cifar100",
]
_TABLES = ("manifest", "huggingface")
#: Keys that only some sources have a use for.
_OWNERS: dict[str, tuple[str, ...]] = {
    "labels": ("folder",),
    "annotations": ("coco",),
    "images": ("coco", "mask_pairs", "manifest"),
    "masks": ("coco", "mask_pairs"),
    "classes_file": ("coco", "mask_pairs", "webdataset"),
    "image_column": _TABLES,
    "label_column": (*_TABLES, "webdataset"),
    "split_column": _TABLES,
    "dataset_id": ("huggingface",),
}


@dataclass(frozen=True, config=STRICT)
class DatasetConfig:
    """Which images to use and how to store them.

    Paths other than `root` may be written relative to it. A key that the source has no use for is
    refused, but for `seed` and `scenes`.
    """

    #: `digit_scenes` needs no files; the others read `root`, and `contramask inspect` says which.
    source: SourceName = "digit_scenes"
    #: Folder (or zip, table or tar file) of the source; read only, never written to. null with
    #: imagenette, tiny_imagenet, cifar10, cifar100, oxford_pets or voc: that set is downloaded.
    root: Path | None = None
    #: Where sets are downloaded to, each into a folder of its name.
    downloads: Path = Path("data/01_raw")
    #: `folders` takes the folder under root (or under root/train, root/val) as the class.
    labels: Literal["none", "folders"] = "none"
    #: coco: the instances file, or the folder of such files; null looks for them.
    annotations: Path | None = None
    #: Folder of the images; null looks for it (manifest: the folder that paths start from).
    images: Path | None = None
    #: Folder of the semantic masks; null looks for it (mask_pairs) or uses none (coco).
    masks: Path | None = None
    #: Names of classes by value or colour (JSON, CSV or text); null looks for one.
    classes_file: Path | None = None
    #: Columns of a table; null looks for one of the usual names.
    image_column: str | None = None
    label_column: str | None = None
    split_column: str | None = None
    #: huggingface: a data set of the hub instead of local parquet files under `root`.
    dataset_id: str | None = None
    #: What the store keeps of every image, in pixels: the side of a square, or [rows, columns].
    image_size: Size = (32, 32)
    #: `crop` cuts what hangs over; `pad` keeps whole images with a black border: better for objects
    #: and masks, worse for pre-training, which sees the border as well.
    fit: Fit = "crop"
    #: Channels the store keeps: 3 makes everything RGB, 1 grey, others need images that have them.
    channels: int = Field(default=3, ge=1, le=64)
    #: How the store keeps pixels: `raw` (fastest), `jpeg` (a tenth of the size, not quite the same
    #: pixels, decoded at each use), `auto`: jpeg where raw pixels would not fit well into memory.
    store: Literal["raw", "jpeg", "auto"] = "raw"
    #: Values that become 0 and 255 where a file has more than 8 bits; null: each image's own range.
    value_range: tuple[float, float] | None = None
    #: Most train and val images used (classes stay balanced); null = all, `val_limit: 0` = no val.
    limit: int | None = Field(default=None, ge=1)
    val_limit: int | None = Field(default=None, ge=0)
    #: Share of images put into val where the source itself has no split.
    val_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    #: Draws the digit scenes; the val split of other sources does not depend on it.
    seed: int = Field(default=0, ge=0, lt=2**31)
    #: Above this share of unreadable images, and from 20 of them on, the run stops.
    max_problem_share: Share = 0.05
    #: Decoding threads; 0 = one for each processor core. The result does not depend on it.
    workers: int = Field(default=0, ge=0, le=256)
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    #: `data` measures mean and std on the train images, `imagenet` takes ImageNet's.
    normalize: Literal["data", "imagenet"] = "data"

    @field_validator("root", *_OWNERS)
    @classmethod
    def _belongs(cls, value: Any, info: ValidationInfo) -> Any:
        source, key = info.data.get("source"), str(info.field_name)
        if value is None or value == "none" or source is None:
            return value
        if key == "root" and source == "digit_scenes":
            raise ValueError(
                "the source digit_scenes reads no files; set dataset.source to what lies there"
                " (contramask inspect says it), or dataset.root to null"
            )
        owners = _OWNERS.get(key, (source,))
        if source not in owners:
            raise ValueError(
                f"the source {source} has no use for {key}, which belongs to"
                f" {', '.join(owners)}; leave it out, or set dataset.source"
            )
        return value

    @field_validator("store")
    @classmethod
    def _suits_channels(cls, value: str, info: ValidationInfo) -> str:
        channels = info.data.get("channels", 3)
        if value == "jpeg" and channels not in (1, 3):
            raise ValueError(
                f"JPEG keeps 3 channels or 1, and dataset.channels is {channels}; set it to raw"
            )
        return value

    @field_validator("value_range")
    @classmethod
    def _rises(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] >= value[1]:
            raise ValueError(
                f"a range is written [low, high], and {value[0]} is not below {value[1]}"
            )
        return value

    @field_validator("normalize")
    @classmethod
    def _fits_channels(cls, value: str, info: ValidationInfo) -> str:
        if value == "imagenet" and info.data.get("channels", 3) != 3:
            raise ValueError("ImageNet's mean and std are those of 3 channels; use data")
        return value
