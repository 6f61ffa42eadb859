"""An encoder of the other family, for the tasks that must take both."""

from pathlib import Path

import pytest

from contramask.data.store import Store
from contramask.methods.conmim import ConMIMConfig
from contramask.models.bundle import EncoderBundle
from contramask.models.encoder import EncoderConfig
from contramask.results import RunInfo
from contramask.tracker import NullTracker
from contramask.train.device import LaunchConfig
from contramask.train.pretrain import pretrain
from contramask.train.pretrain_config import PretrainConfig


@pytest.fixture(scope="session")
def conmim_folder(tiny_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BEiT that ConMIM trained for one epoch, as it is written."""
    folder = tmp_path_factory.mktemp("conmim")
    config = PretrainConfig(
        method=ConMIMConfig(head_hidden_dim=16, head_out_dim=8),
        encoder=EncoderConfig(patch_size=8, embed_dim=32, depth=2, num_heads=2),
        epochs=1,
        batch_size=32,
        warmup_epochs=0,
    )
    run = RunInfo(experiment="conmim-0000-s3", config_hash="0000", seed=3)
    launch = LaunchConfig(device="cpu", precision="fp32")
    result = pretrain(tiny_store, None, config, run, launch, folder / "work", NullTracker())
    result.bundle.write(folder / "encoder")
    return folder / "encoder"


@pytest.fixture
def conmim_bundle(conmim_folder: Path) -> EncoderBundle:
    """That encoder, read again."""
    return EncoderBundle.read(conmim_folder)
