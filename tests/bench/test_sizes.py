"""What the benchmark may be asked for, and that peers get the same amount of work."""

import pytest

from contramask.bench.sizes import BenchConfig
from contramask.methods.cmae import CMAEConfig
from contramask.typed import ConfigError, parse


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"image_size": 60}, "60 px cannot be cut into patches of 8 px"),
        ({"method": "conmim", "peers": ("hf",)}, "no peer has an equivalent of conmim"),
        ({"peers": ("mmpretrain",)}, "bench.peers"),
        ({"method": "mea"}, "bench.method"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(
    given: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        parse(BenchConfig, given, "bench")


@pytest.mark.parametrize("method", ["mae", "cmae", "cmae_mao", "conmim", "supmim"])
def test_every_method_has_settings(method: str) -> None:
    config = BenchConfig(method=method)
    assert config.method_config().name == method


def test_a_small_encoder_gets_a_decoder_of_its_size() -> None:
    assert BenchConfig().decoder == (192, 4, 6)
    assert BenchConfig(arch="vit_large").decoder == (512, 8, 16)
    cmae = BenchConfig(method="cmae").method_config()
    assert isinstance(cmae, CMAEConfig)
    assert (cmae.decoder.depth, cmae.feature_decoder.depth) == (4, 2)


@pytest.mark.parametrize(
    ("method", "image_size", "patch_size", "visible"),
    [("mae", 64, 8, 16), ("mae", 224, 16, 49), ("cmae", 64, 8, 20), ("cmae", 224, 16, 68)],
)
def test_peers_hide_as_many_patches(
    method: str, image_size: int, patch_size: int, visible: int
) -> None:
    config = BenchConfig(method=method, image_size=image_size, patch_size=patch_size)
    assert int(config.num_patches * (1 - config.peer_mask_ratio())) == visible
