"""On request, an encoder is a registered model that anything with MLflow can load."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest
from kedro.io import DataCatalog, MemoryDataset

from contramask.models.bundle import EncoderBundle
from contramask.results import RunInfo
from contramask.transfer.serving import Embedder
from pipelines import registration
from pipelines.registration import register_encoder
from pipelines.tracking import start_run
from pipelines.tracking_hooks import TrackingHooks

SETTINGS = {"tracking_uri": "sqlite:///mlflow.db", "artifacts": "mlartifacts", "experiment": "e"}


def test_a_registered_encoder_embeds_images(
    mlflow_project: Path, tiny_bundle: EncoderBundle
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
    assert np.asarray(model.input_example).shape == (1, *tiny_bundle.encoder.image_size, 3)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 36, 3), dtype=np.uint8)
    features = model.predict(images)
    assert features.shape == (3, tiny_bundle.encoder.embed_dim)
    np.testing.assert_allclose(features, Embedder(tiny_bundle).predict(images), rtol=1e-5)
    cls = model.predict(images, params={"readout": "cls"})
    assert not np.allclose(cls, features)


@pytest.mark.parametrize(("asked", "made"), [({}, []), ({"register": True}, ["e-cmae"])])
def test_a_run_registers_its_encoder_only_on_request(
    mlflow_project: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    made: list[str],
) -> None:
    names: list[str] = []
    monkeypatch.setattr(
        registration, "register_encoder", lambda client, run_id, bundle, name: names.append(name)
    )
    hooks, catalog = TrackingHooks(), DataCatalog({})
    conf = {"mlflow": {**SETTINGS, "enabled": True, "register": False}}
    hooks.after_context_created(
        SimpleNamespace(project_path=mlflow_project, env="base", config_loader=conf)
    )
    catalog["params:experiment"] = RunInfo("mae-s0", "12ab", 0)
    catalog["parameters"] = {"tracking": asked}
    catalog["encoder"] = MemoryDataset()
    hooks.before_pipeline_run({"pipeline_names": ["pretrain"]}, catalog)
    hooks.after_dataset_saved("encoder", SimpleNamespace(manifest={"method": "cmae"}))
    hooks.after_pipeline_run()
    assert names == made
