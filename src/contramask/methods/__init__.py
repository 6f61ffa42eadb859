"""The pre-training methods; a new one is added to the two lines that list them here."""

from typing import Annotated

from pydantic import Field

from contramask.methods.base import Method
from contramask.methods.cmae import CMAE, CMAEConfig
from contramask.methods.cmae_mao import CMAEMao, CMAEMaoConfig
from contramask.methods.mae import MAE, MAEConfig
from contramask.models.encoder import VisionEncoder

Config = MAEConfig | CMAEConfig | CMAEMaoConfig
MethodConfig = Annotated[Config, Field(discriminator="name")]

#: The names `pretrain.method.name` may take.
OFFERED = ("mae", "cmae", "cmae_mao")

_METHODS = {MAEConfig: MAE, CMAEConfig: CMAE, CMAEMaoConfig: CMAEMao}


def build_method(config: Config, encoder: VisionEncoder) -> Method:
    """Wrap an encoder into the method that `config` belongs to."""
    return _METHODS[type(config)](encoder, config)  # type: ignore[no-any-return]
