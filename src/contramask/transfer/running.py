"""Running checkpoints of the evaluation stages: one for every training that a stage is made of."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.tracker import Tracker
from contramask.train.checkpoint import Keeper
from contramask.train.device import LaunchConfig
from contramask.transfer.feature_cache import encoder_hash
from contramask.typed import to_plain


@dataclass(frozen=True)
class Work:
    """Where the trainings of one stage are kept, and what must be equal for one to continue.

    Each has a folder of its own, and its last checkpoint stays when it is over: a stage that is
    started again trains on where it was, and what was finished is only measured again. With other
    settings (a smaller batch after memory ran out) a training has another folder and begins anew.
    Whoever saved the stage's results forgets all (`train.leftovers`). Without a folder nothing is
    kept.
    """

    folder: Path | None
    task: str
    config: Mapping[str, Any]
    data_hash: str
    keep_last: int = 1

    def keeper(
        self,
        part: str,
        bundle: EncoderBundle,
        extent: Mapping[str, Any] | None = None,
        without: Collection[str] = (),
    ) -> Keeper | None:
        """What keeps one training: of which head or share of labels, on which encoder.

        extent: what this part does differently from the stage's configuration; without: keys of
        that which say nothing about it.
        """
        if self.folder is None:
            return None
        method = bundle.manifest["method"]
        fingerprint = {
            "task": self.task,
            "part": part,
            self.task: {key: v for key, v in self.config.items() if key not in without},
            "encoder": encoder_hash(bundle),
            "seed": bundle.manifest["seed"],
            "data_hash": self.data_hash,
            **(extent or {}),
        }
        text = json.dumps(fingerprint, sort_keys=True)
        name = f"{method}-{part}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
        return Keeper(self.folder / name, fingerprint, self.keep_last)


def work_of(
    folder: Path | None,
    task: str,
    config: Any,
    free: tuple[str, ...],
    store: Store,
    launch: LaunchConfig,
) -> Work:
    """A stage's work; `free` are the keys of its configuration that change no training."""
    plain = {key: value for key, value in to_plain(config).items() if key not in free}
    return Work(folder, task, plain, store.data_hash, launch.keep_last)


@dataclass(frozen=True)
class Named:
    """What one training is called, what fixes its randomness, where it is logged and kept."""

    name: str
    seed: int
    tracker: Tracker
    keeper: Keeper | None = None
