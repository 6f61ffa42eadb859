"""A pre-training as one JSON file: what processes of one or many machines are started from."""

import hashlib
import json
from contextlib import suppress
from dataclasses import field, replace
from pathlib import Path

from pydantic import Field
from pydantic.dataclasses import dataclass

from contramask.boxes.box_set import BoxSet
from contramask.data.store import Store
from contramask.failures import StageFailure
from contramask.models.bundle import EncoderBundle
from contramask.models.tokenizer_bundle import TokenizerBundle
from contramask.results import RunInfo, StageOutput
from contramask.tracker import JsonLinesTracker, NullTracker, Tracker
from contramask.train.device import LaunchConfig, device_count, pick_machine
from contramask.train.leftovers import forget
from contramask.train.pretrain import PretrainResult, check, pretrain
from contramask.train.pretrain_config import PretrainConfig
from contramask.train.world import joined, restart_count, started_as_main
from contramask.typed import STRICT, ConfigError, parse, to_plain


@dataclass(frozen=True, config=STRICT)
class PretrainJob:
    """Folders, configuration and identity of one pre-training.

    store, boxes and tokenizer are folders that the pipeline's stages wrote. output gets `encoder/`,
    `pretrain/` (the stage's output) and `metrics.jsonl`; work holds the running checkpoint. Where
    several machines work, all see the same folders.
    """

    store: Path
    output: Path
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    launch: LaunchConfig = field(default_factory=LaunchConfig)
    boxes: Path | None = None
    tokenizer: Path | None = None
    work: Path | None = None  # None: `work` inside output
    seed: int = Field(default=0, ge=0, lt=2**31)
    experiment: str | None = None  # None: method, hash and seed
    config_hash: str | None = None

    @property
    def run(self) -> RunInfo:
        """The run's identity, made from the configuration where the file names none."""
        plain = json.dumps(to_plain(self.pretrain), sort_keys=True)
        made = self.config_hash or hashlib.sha256(plain.encode()).hexdigest()[:4]
        name = self.experiment or f"{self.pretrain.method.name}-{made}-s{self.seed}"
        return RunInfo(name, made, self.seed)

    @property
    def work_folder(self) -> Path:
        """Where the running checkpoint lies."""
        return self.output / "work" if self.work is None else self.work


def read_job(path: Path) -> PretrainJob:
    """Read a job; relative folders are meant from the file's own.

    Raises `ConfigError` that lists every mistake.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds no JSON object with the keys of a job")
    job = parse(PretrainJob, values, path.stem)
    given = {name: getattr(job, name) for name in ("store", "output", "boxes", "tokenizer", "work")}
    here = path.resolve().parent
    return replace(job, **{k: here / v for k, v in given.items() if v is not None})


def write_job(job: PretrainJob, path: Path) -> None:
    """Write a job with every default filled in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(to_plain(job), indent=2) + "\n", encoding="utf-8")


def run_job(job: PretrainJob) -> None:
    """Train in this process, together with those it was started with, and write the output.

    The running checkpoint is forgotten once all is written, except where `output` lies in the work
    folder: then whoever started this takes the result from there, saves it and forgets both.
    A failure that a sentence explains is written to `failed.txt` in the work folder, too, so that
    whoever started the processes can tell it and does not start them again for the same end.
    """
    failed = job.work_folder / "failed.txt"
    if restart_count() and failed.is_file():
        raise StageFailure(failed.read_text(encoding="utf-8").strip())
    if started_as_main():
        failed.unlink(missing_ok=True)
    try:
        with joined(pick_machine(job.launch).device.type) as world:
            path = job.output / "metrics.jsonl"
            tracker: Tracker = JsonLinesTracker(path) if world.is_main else NullTracker()
            result = _trained(job, tracker)
            if world.is_main:
                result.bundle.write(job.output / "encoder")
                result.output.write(job.output / "pretrain")
                if not job.output.is_relative_to(job.work_folder):  # else it is work itself
                    forget(job.work_folder)
    except (ValueError, OSError) as error:
        with suppress(OSError):  # a full disk has no room for its own story either
            job.work_folder.mkdir(parents=True, exist_ok=True)
            failed.write_text(f"{error}\n", encoding="utf-8")
        raise


def check_job(job: PretrainJob) -> None:
    """Raise the `ValueError` or `OSError` in which all processes of a job would end alike."""
    store, boxes, tokenizer = _inputs(job)
    processes = job.launch.nodes * device_count(job.launch)
    check(store, boxes, job.pretrain, tokenizer, job.launch, processes)


def read_result(job: PretrainJob) -> PretrainResult:
    """What a finished job wrote."""
    bundle = EncoderBundle.read(job.output / "encoder")
    return PretrainResult(bundle, StageOutput.read(job.output / "pretrain"))


def _trained(job: PretrainJob, tracker: Tracker) -> PretrainResult:
    store, boxes, tokenizer = _inputs(job)
    work, launch = job.work_folder, job.launch
    return pretrain(store, boxes, job.pretrain, job.run, launch, work, tracker, tokenizer)


def _inputs(job: PretrainJob) -> tuple[Store, BoxSet | None, TokenizerBundle | None]:
    boxes = None if job.boxes is None else BoxSet.read(job.boxes)
    tokenizer = None if job.tokenizer is None else TokenizerBundle.read(job.tokenizer)
    return Store.read(job.store), boxes, tokenizer
