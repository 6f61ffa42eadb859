"""Reads `conf/`: presets, a method's own settings, `${experiment:}` and `${recipe:}` in paths."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click
from kedro.config import MissingConfigException, OmegaConfigLoader
from omegaconf import OmegaConf

from pipelines.experiment import automatic_name, experiment_name
from pipelines.presets import PRESETS, names_one, with_presets


class ExperimentConfigLoader(OmegaConfigLoader):
    """Kedro's loader with two more resolvers, whose values come from the parameters.

    `${experiment:}` is the experiment's name, so that two experiments never overwrite each other.
    `${recipe:}` is the automatic one also when a name was given: a work folder is continued by the
    same recipe only.
    """

    def __getitem__(self, key: str) -> dict[str, Any]:
        """The merged configuration `key` (`catalog`, `parameters`, ...) of base and environment.

        An environment that is not there gets an answer instead of a traceback.
        """
        self._check_environment()
        if key == "parameters":
            return _with_method_settings(self._with_presets(super().__getitem__(key)))
        if key == "catalog":
            params = self["parameters"]
            # OmegaConf's resolvers belong to the process, so each loader puts its own in place.
            for word, name in (("experiment", experiment_name), ("recipe", automatic_name)):
                value = name(params)
                OmegaConf.register_new_resolver(word, lambda value=value: value, replace=True)
        return super().__getitem__(key)

    def _check_environment(self) -> None:
        env, folder = self.env, Path(self.conf_source)
        if env is None or not folder.is_dir() or (folder / env).is_dir():
            return
        known = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        near = get_close_matches(env, known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else ""
        raise click.ClickException(
            f"there is no environment {env!r}.{hint} There are: {', '.join(known)}."
        )

    def _with_presets(self, params: dict[str, Any]) -> dict[str, Any]:
        """The parameters with the values of the presets that they name."""
        if names_one(params):
            env = self.env or self.default_run_env
            own = {} if env == self.base_env else self._of_one(env)
            params = with_presets(params, [self._of_one(self.base_env), own, self.runtime_params])
        return {key: value for key, value in params.items() if key != PRESETS}

    def _of_one(self, env: str) -> dict[str, Any]:
        """The parameters of one folder of `conf/` alone, without those of the command line."""
        args = {"base_env": env, "default_run_env": env, "config_patterns": self.config_patterns}
        try:
            return OmegaConfigLoader(self.conf_source, **args)["parameters"]
        except MissingConfigException:
            return {}


def _with_method_settings(params: dict[str, Any]) -> dict[str, Any]:
    """Put `recipes.<name>` under `pretrain` and `methods.<name>` under its chosen `method`.

    The keys that stand there already win. Methods have different keys, so that the settings of one
    cannot stand where another is chosen; and each has colours and an optimiser of its own.
    """
    rest = {key: value for key, value in params.items() if key not in ("methods", "recipes")}
    pretrain = rest.get("pretrain")
    method = pretrain.get("method") if isinstance(pretrain, Mapping) else None
    if not isinstance(method, Mapping):
        return rest
    settings, recipe = (
        (params.get(key) or {}).get(method.get("name")) or {} for key in ("methods", "recipes")
    )
    merged = OmegaConf.merge(recipe, {"method": settings}, pretrain)
    return {**rest, "pretrain": OmegaConf.to_container(merged)}
