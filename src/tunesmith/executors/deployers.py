"""From the name of a platform to the one that deploys there. Each is imported only when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from tunesmith.errors import Problem, UsageError
from tunesmith.executors.deploying import Deployer

Settings = TypeVar("Settings", bound=BaseModel)

# Platforms that deploy, in the order in which they are told.
NAMES = ("local", "kaito", "kubernetes", "azureml")


def make_deployer(on: str, runs_folder: Path, settings: Mapping[str, Any]) -> Deployer:
    """The deployer of a platform.

    Args:
        on: One of :data:`NAMES`.
        runs_folder: Where runs of this machine lie, and records of deployments beside them.
        settings: The platform's own settings by name.

    Raises:
        UsageError: ``usage.deployer``: there is none of that name; ``usage.deployment_setting``: a setting is unknown
            or wrong; ``usage.missing_extra``: its library is not installed.
    """
    if on == "local":
        from tunesmith.executors.local.deployer import LocalServing, LocalServingSettings

        return LocalServing(runs_folder, read_settings(LocalServingSettings, on, settings))
    if on == "kaito":
        from tunesmith.executors.kaito.deployer import KaitoDeployer
        from tunesmith.recipe.executors.kaito import KaitoServing

        return KaitoDeployer(read_settings(KaitoServing, on, settings))
    if on == "kubernetes":
        from tunesmith.executors.kubernetes.deployer import KubernetesDeployer
        from tunesmith.recipe.executors.kubernetes import Kubernetes

        return KubernetesDeployer(read_settings(Kubernetes, on, settings))
    if on == "azureml":
        from tunesmith.executors.azureml.deployer import AzureMLDeployer
        from tunesmith.executors.azureml.endpoints import AzureMLPlace

        return AzureMLDeployer(read_settings(AzureMLPlace, on, settings))
    raise UsageError(
        "nothing is deployed there", code="usage.deployer", value=on, hint=f"platforms are {', '.join(NAMES)}"
    )


def read_settings(kind: type[Settings], on: str, settings: Mapping[str, Any]) -> Settings:
    """The settings of a platform, checked.

    Raises:
        UsageError: ``usage.deployment_setting``, with one problem for each.
    """
    try:
        return kind.model_validate({**({"name": on} if "name" in kind.model_fields else {}), **settings})
    except ValidationError as error:
        problems = [
            Problem(
                "usage.deployment_setting",
                str(one["msg"]).removeprefix("Value error, "),
                place=".".join(map(str, one["loc"])) or on,
            )
            for one in error.errors(include_url=False, include_input=False)
        ]
        known = ", ".join(name for name in kind.model_fields if name != "name")
        raise UsageError("settings of the deployment are wrong", problems=problems, hint=f"{on} has {known}") from None
