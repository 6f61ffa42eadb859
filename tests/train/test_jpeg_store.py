"""Pre-training from a store of JPEG images: as from any other, and stopped without a trace."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from contramask.boxes.generate import BoxConfig, generate_boxes
from contramask.data.build import build_dataset
from contramask.data.config import DatasetConfig, ScenesConfig
from contramask.data.jpeg_loader import JpegLoader
from contramask.data.store import Store
from contramask.data.views import ViewConfig
from contramask.methods import MethodConfig
from contramask.methods.cmae import CMAEConfig
from contramask.methods.mae import MAEConfig
from contramask.models.decoder import DecoderConfig
from contramask.models.encoder import EncoderConfig
from contramask.results import RunInfo
from contramask.tracker import NullTracker
from contramask.train.batches import make_loader
from contramask.train.device import LaunchConfig, pick_machine
from contramask.train.pretrain import PretrainResult, pretrain
from contramask.train.pretrain_config import PretrainConfig

FP32 = LaunchConfig(device="cpu", precision="fp32", workers=2)
SMALL = DecoderConfig(embed_dim=16, depth=1, num_heads=2)
METHODS: dict[str, MethodConfig] = {
    "mae": MAEConfig(decoder=SMALL),
    "cmae": CMAEConfig(decoder=SMALL, feature_decoder=SMALL, head_hidden_dim=16, head_out_dim=8),
}
RUN = RunInfo(experiment="tiny-0000-s1", config_hash="0000", seed=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """96 train and 16 val scenes as JPEG."""
    config = DatasetConfig(scenes=ScenesConfig(num_train=96, num_val=16), store="jpeg")
    return build_dataset(config, tmp_path_factory.mktemp("work")).store


def config_of(method: MethodConfig, **given: Any) -> PretrainConfig:
    """Two epochs of three steps."""
    encoder = EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2)
    values = {"epochs": 2, "batch_size": 32, "warmup_epochs": 1, "log_every": 1, **given}
    return PretrainConfig(method=method, encoder=encoder, save_minutes=0, **values)


def train(store: Store, work: Path, config: PretrainConfig, **given: Any) -> PretrainResult:
    values = {"boxes": None, "run": RUN, "launch": FP32, "tracker": NullTracker(), **given}
    return pretrain(store, config=config, work=work, **values)


def outcome(result: PretrainResult) -> tuple[dict[str, torch.Tensor], pd.DataFrame]:
    times = ["images_per_s", "data_wait"]
    return result.bundle.encoder.state_dict(), result.output.tables["curve"].drop(columns=times)


class Stopping(NullTracker):
    """Stops the run at the first line from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def log(self, metrics: object, step: int) -> None:
        if step >= self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", METHODS)
def test_a_run_stopped_twice_ends_bit_for_bit_where_it_would_have(
    name: str, store: Store, tmp_path: Path
) -> None:
    config = config_of(METHODS[name])
    expected, curve = outcome(train(store, tmp_path / "whole", config))
    for step in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            train(store, tmp_path / "stopped", config, tracker=Stopping(step))
    one_thread = LaunchConfig(device="cpu", precision="fp32", workers=0)
    found, again = outcome(train(store, tmp_path / "stopped", config, launch=one_thread))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    pd.testing.assert_frame_equal(again, curve)
    assert curve["loss"].notna().all()


def test_boxes_place_the_crops(store: Store, tmp_path: Path) -> None:
    boxes = generate_boxes(store, BoxConfig(method="center_half"))
    config = config_of(METHODS["cmae"], views=ViewConfig(crop="boxes"), epochs=1, warmup_epochs=0)
    loader, _ = make_loader(store, boxes, config, 1, pick_machine(FP32), 2)
    assert isinstance(loader, JpegLoader)
    assert loader.boxes is not None
    assert train(store, tmp_path, config, boxes=boxes).output.tables["curve"]["loss"].notna().all()
