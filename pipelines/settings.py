"""Kedro's settings. Imports nothing heavy: every `kedro` command reads this file first."""

import os

from contramask.startup import tune_process

# Before torch, albumentations and mlflow are imported: they read these once.
tune_process()
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "1")

from pipelines.hooks import ConsoleHooks, ParameterHooks  # noqa: E402
from pipelines.loader import ExperimentConfigLoader  # noqa: E402
from pipelines.tracking_hooks import TrackingHooks  # noqa: E402
from pipelines.work_hooks import WorkHooks  # noqa: E402

HOOKS = (ParameterHooks(), TrackingHooks(), WorkHooks(), ConsoleHooks())
DISABLE_HOOKS_FOR_PLUGINS = ("kedro-telemetry", "kedro-viz")

CONFIG_LOADER_CLASS = ExperimentConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "config_patterns": {"mlflow": ["mlflow*"]},
    # Kedro's default drops every neighbour of a key that an environment changes.
    "merge_strategy": dict.fromkeys(("parameters", "catalog", "globals", "mlflow"), "soft"),
}
