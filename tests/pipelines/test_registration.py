"""On request, an encoder is a registered model that anything with MLflow can load."""

from pathlib import Path

import mlflow
import numpy as np
import pytest

from contramask.models.bundle import EncoderBundle
from contramask.transfer.serving import Embedder
from pipelines.registration import register_encoder
from pipelines.tracking import start_run

SETTINGS = {"tracking_uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts", "experiment": "e"}


def test_a_registered_encoder_embeds_images(
    mlflow_project: Path, tiny_bundle: EncoderBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = start_run(SETTINGS, mlflow_project, "mae", {}, {})
    first = register_encoder(tracker.client, tracker.run_id, tiny_bundle, "contramask-mae")
    tracker.close("FINISHED")
    assert first == "models:/contramask-mae/1"
    made = tracker.client.get_model_version("contramask-mae", "1")
    assert made.run_id == tracker.run_id
    assert made.tags["data_hash"] == str(tiny_bundle.manifest["data_hash"])
    mlflow.set_tracking_uri(f"sqlite:///{mlflow_project}/mlflow.db")
    model = mlflow.pyfunc.load_model(first)
    assert model.metadata.signature.inputs.inputs[0].shape[0] == -1
    assert model.input_example.dtype == np.uint8 or model.input_example.shape[0] == 1
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    features = model.predict(images)
    assert features.shape == (3, tiny_bundle.encoder.embed_dim)
    np.testing.assert_allclose(features, Embedder(tiny_bundle).predict(images), rtol=1e-5)
    cls = model.predict(images, params={"readout": "cls"})
    assert not np.allclose(cls, features)
