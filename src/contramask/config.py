"""All typed configuration of a project, joined; each class lives beside the thing it configures."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from contramask.boxes.generate import BoxConfig
from contramask.data.config import DatasetConfig
from contramask.report.page import ReportConfig
from contramask.train.device import LaunchConfig
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.tokenizer import TokenizerConfig
from contramask.transfer.detect import DetectionConfig
from contramask.transfer.finetune_config import FinetuneConfig
from contramask.transfer.probe_config import ProbeConfig
from contramask.transfer.segment_config import SegmentationConfig
from contramask.typed import ConfigError, parse

#: Top-level key of the parameters -> the class that checks what stands under it.
SECTIONS: dict[str, type] = {
    "dataset": DatasetConfig,
    "crop_boxes": BoxConfig,
    "tokenizer": TokenizerConfig,
    "pretrain": PretrainConfig,
    "probe": ProbeConfig,
    "finetune": FinetuneConfig,
    "segmentation": SegmentationConfig,
    "detection": DetectionConfig,
    "report": ReportConfig,
    "launch": LaunchConfig,
}


def parse_parameters(
    parameters: Mapping[str, Any], elsewhere: Sequence[str] = ()
) -> dict[str, Any]:
    """Check every section at once and return typed objects by section name, and `seed`.

    Sections that are not given take their defaults; `elsewhere` are keys that the caller reads
    itself, named where a key is misspelt. Raises `ConfigError` that lists every mistake
    of every section, unknown top-level keys included.
    """
    typed: dict[str, Any] = {}
    mistakes: list[str] = []
    for key in parameters:
        if key not in SECTIONS and key != "seed":
            mistakes.append(_unknown(key, [*SECTIONS, "seed", *elsewhere]))
    for name, kind in SECTIONS.items():
        values = parameters.get(name)
        values = {} if values is None else values
        if not isinstance(values, Mapping):
            mistakes.append(f"{name}: given {values!r}, a group of keys is expected here")
            continue
        try:
            typed[name] = parse(kind, values, name)
        except ConfigError as error:
            mistakes += [line.removeprefix("  - ") for line in str(error).splitlines()[1:]]
    seed = parameters.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**31:
        mistakes.append(f"seed: given {seed!r}, a whole number from 0 to 2147483647 is expected")
    if mistakes:
        listed = "\n".join(f"  - {line}" for line in mistakes)
        raise ConfigError(f"the configuration cannot be used:\n{listed}")
    return {**typed, "seed": seed}


def _unknown(key: str, known: Sequence[str]) -> str:
    near = get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`? " if near else ""
    return f"{key}: there is no such key; {hint}allowed here: {', '.join(known)}"
