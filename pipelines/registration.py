"""On request, an encoder becomes a version of a registered model in MLflow.

Only `tracking.register` leads here: describing a model imports much of MLflow and takes seconds.
"""

from __future__ import annotations

import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from contramask.models.bundle import EncoderBundle

#: The module whose `_load_pyfunc` opens the model; it must be installed where it is served.
LOADER = "contramask.transfer.serving"
#: What the served model needs; the versions are those it was made with.
NEEDS = ("torch", "timm", "numpy")
FOLDER = "encoder"


def register_encoder(client: MlflowClient, run_id: str, bundle: EncoderBundle, name: str) -> str:
    """Store the encoder under the run and make it the newest version of model `name`.

    Returns its address, `models:/<name>/<version>`.
    """
    with tempfile.TemporaryDirectory() as scratch:
        describe(bundle, Path(scratch) / FOLDER)
        client.log_artifacts(run_id, str(Path(scratch) / FOLDER), FOLDER)
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name, description="Encoders pre-trained by contramask.")
    manifest = bundle.manifest
    told = ("experiment", "method", "seed", "config_hash", "data", "data_hash", "code_revision")
    tags = {key: str(manifest[key]) for key in told}
    source = f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}"
    about = (
        f"`{manifest['experiment']}`: {manifest['method']} on {manifest['data']}, uint8 images "
        "(N, H, W, C) of any size to float32 features (N, D). Loaded by "
        "`mlflow.pyfunc.load_model`; the run that made it has its parameters and numbers."
    )
    made = client.create_model_version(name, source, run_id, tags=tags, description=about)
    return f"models:/{name}/{made.version}"


def describe(bundle: EncoderBundle, folder: Path) -> None:
    """Write the encoder as an MLflow model with signature and example; no pickle is involved."""
    import mlflow.pyfunc
    import numpy as np
    from mlflow.models.signature import ModelSignature
    from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

    rows, cols = bundle.manifest["arch"]["image_size"]
    channels, width = bundle.encoder.in_chans, bundle.encoder.embed_dim
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, channels))]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, width))]),
        params=ParamSchema([ParamSpec("readout", DataType.string, "mean")]),
    )
    ramp = np.linspace(0, 255, rows * cols * channels).astype(np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        bundle.write(Path(scratch) / "bundle")
        mlflow.pyfunc.save_model(
            folder,
            loader_module=LOADER,
            data_path=str(Path(scratch) / "bundle"),
            signature=signature,
            input_example=ramp.reshape(1, rows, cols, channels),
            pip_requirements=[f"{package}=={version(package)}" for package in NEEDS],
            metadata={key: bundle.manifest[key] for key in ("experiment", "method", "data")},
        )
