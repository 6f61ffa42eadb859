"""The pre-training methods; a new one is added to the two lines that list them here."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from contramask.methods.base import Method
from contramask.methods.cmae import CMAE, CMAEConfig
from contramask.methods.cmae_mao import CMAEMao, CMAEMaoConfig
from contramask.methods.conmim import ConMIM, ConMIMConfig
from contramask.methods.mae import MAE, MAEConfig
from contramask.methods.supmim import SupMIM, SupMIMConfig, check_classes
from contramask.models.beit import build_beit
from contramask.models.encoder import EncoderConfig, Size, build_encoder
from contramask.models.family import Encoder

Config = MAEConfig | CMAEConfig | CMAEMaoConfig | ConMIMConfig | SupMIMConfig
MethodConfig = Annotated[Config, Field(discriminator="name")]

#: The names `pretrain.method.name` may take.
OFFERED = ("mae", "cmae", "cmae_mao", "conmim", "supmim")

_METHODS = {
    MAEConfig: MAE,
    CMAEConfig: CMAE,
    CMAEMaoConfig: CMAEMao,
    ConMIMConfig: ConMIM,
    SupMIMConfig: SupMIM,
}


def build_method(config: Config, encoder: Encoder) -> Method:
    """Wrap an encoder into the method that `config` belongs to."""
    return _METHODS[type(config)](encoder, config)  # type: ignore[no-any-return]


def check_data(config: Config, data: Mapping[str, Any]) -> None:
    """Raise `ValueError` if the method cannot learn from a store with this manifest.

    `attach` refuses the same; this is for whoever spends time before a method is built.
    """
    if isinstance(config, SupMIMConfig):
        check_classes(data)


def encoder_for(
    method: Config,
    config: EncoderConfig,
    image_size: Size,
    in_chans: int,
) -> Encoder:
    """The fresh encoder a method trains: BEiT's for ConMIM, a plain Vision Transformer else.

    Raises `ValueError` if the sizes do not fit together.
    """
    if isinstance(method, ConMIMConfig):
        return build_beit(config, method.beit, image_size, in_chans)
    return build_encoder(config, image_size, in_chans)
