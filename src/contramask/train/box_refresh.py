"""Crop boxes made anew while training: every few epochs the encoder says where the objects are."""

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import distributed as dist

from contramask.boxes.box_set import BoxSet
from contramask.boxes.config import BoxConfig
from contramask.boxes.encoder_maps import Baseline
from contramask.boxes.gates import GateConfig
from contramask.boxes.generate import generate_boxes
from contramask.boxes.quality import CropConfig
from contramask.data.loader import Batch, ImageLoader
from contramask.data.store import Store
from contramask.models.bundle import EncoderBundle
from contramask.typed import STRICT, parse

_log = logging.getLogger(__name__)


@dataclass(frozen=True, config=STRICT)
class RefreshConfig:
    """When crop boxes are made anew from the encoder in training, and from which of its maps.

    Grid, gates, crops and dealing stay those of the box set that the training began with.
    """

    every: int = Field(ge=1)  # epochs
    method: Literal["cls_attn", "rollout", "key_sim", "ncut", "pc1", "token_norm"] = "pc1"
    block: int | None = Field(default=None, ge=1)  # from 1; None: the last
    baseline: Baseline = "blank"


class RefreshedBoxes:
    """An `ImageLoader` whose boxes are made anew before every `config.every`-th epoch.

    Each new set is an immutable folder of its own, `folder/<box-set id>`; `folder/refreshes.json`
    says from which epoch on which set holds, so that a training that was stopped goes on with the
    boxes it had. A set that the gates refuse is not used: the one before stays. Of several
    processes the first makes the boxes, and the others wait and read them.
    """

    def __init__(
        self,
        loader: ImageLoader,
        store: Store,
        first: BoxSet,
        config: RefreshConfig,
        folder: Path,
        bundle: Callable[[], EncoderBundle],
    ) -> None:
        self.loader, self.store, self.config, self.folder = loader, store, config, folder
        self.first, self.bundle = first, bundle
        self.batch_size, self.steps_per_epoch = loader.batch_size, loader.steps_per_epoch
        self.current = str(first.manifest["box_set_id"])
        self.since = 0  # the epoch before which the boxes in use were settled

    @property
    def tolerated_wait(self) -> float:
        """Share of the time that these batches may cost without a word."""
        return self.loader.tolerated_wait

    @property
    def advice(self) -> str:
        """What to do when training waits for these batches."""
        return self.loader.advice

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Batches of one epoch from step `start` on, cropped by the boxes that hold in it."""
        due = epoch - epoch % self.config.every
        if due == epoch > 0 and start == 0:
            self._refresh(epoch)
        elif due != self.since:
            self._resume(due)
        return self.loader.epoch(epoch, start)

    def history(self) -> list[dict[str, Any]]:
        """What happened at each refresh: epoch, the set made, accepted or not, the set in use."""
        path = self.folder / "refreshes.json"
        if not path.is_file():
            return []
        found: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def _refresh(self, epoch: int) -> None:
        """Settle on the boxes that hold from `epoch` on."""
        is_alone = not (dist.is_available() and dist.is_initialized())
        if is_alone or dist.get_rank() == 0:
            self._make(epoch)
        if not is_alone:
            dist.barrier()
        self._resume(epoch)

    def _make(self, epoch: int) -> None:
        """Make a set from the encoder as it is now, and write down whether it is to be used."""
        weights = self.folder / f"epoch-{epoch:04d}"
        self.bundle().write(weights)
        made = generate_boxes(self.store, self._box_config(weights), self.current)
        shutil.rmtree(weights)  # the set's manifest names them by hash
        name = str(made.manifest["box_set_id"])
        if made.accepted and not (self.folder / name).is_dir():
            draft = self.folder / f".{name}"
            made.write(draft)
            draft.rename(self.folder / name)
        if not made.accepted:
            _log.warning(
                "epoch %d: the new boxes were refused (%s); training goes on with the box set %s",
                *(epoch, "; ".join(made.reasons), self.current),
            )
        entry = {
            "epoch": epoch,
            "made": name,
            "accepted": made.accepted,
            "reasons": made.reasons,
            "in_use": name if made.accepted else self.current,
        }
        self._record([*(each for each in self.history() if each["epoch"] < epoch), entry])

    def _resume(self, due: int) -> None:
        """Take up the set that was settled on before epoch `due`, by this call or a stopped one."""
        name = next((each["in_use"] for each in self.history() if each["epoch"] == due), None)
        if name is None:
            raise ValueError(
                f"{self.folder} does not say which boxes were in use from epoch {due} on, so the"
                " training cannot be continued as it was; delete the running checkpoint beside it"
                " to start anew"
            )
        if name != self.current:
            boxes = BoxSet.read(self.folder / name)
            self.loader.boxes = torch.tensor(boxes.boxes, device=self.loader.device)
        self.current, self.since = name, due

    def _box_config(self, encoder: Path) -> BoxConfig:
        first, config = self.first.manifest, self.config
        return BoxConfig(
            method=config.method,
            encoder=encoder,
            block=config.block,
            baseline=config.baseline,
            deal=first["deal"],
            grid=first["producer"]["grid"],
            crop=parse(CropConfig, first["crop"], "crop_boxes.crop"),
            gates=parse(GateConfig, first["gates"], "crop_boxes.gates"),
        )

    def _record(self, entries: list[dict[str, Any]]) -> None:
        path = self.folder / "refreshes.json"
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
        temporary.replace(path)
