"""From a recipe's executor to the one that does it. Each is imported only when it is asked for."""

from __future__ import annotations

from pathlib import Path

from tunesmith.executors.protocol import Executor
from tunesmith.recipe.executors import ExecutorSpec
from tunesmith.recipe.executors.azure import AzureML, ContainerApps
from tunesmith.recipe.executors.ray import Ray

# Their runs lie in a folder that the worker sees under the same path.
_ON_THIS_MACHINE = frozenset({"local"})
# They train with a trainer of their own: no worker of ours, no store.
_OWN_TRAINER: frozenset[str] = frozenset({"kaito", "openai"})


def make_executor(spec: ExecutorSpec, runs_folder: Path) -> Executor:
    """The executor of a recipe.

    Args:
        spec: The recipe's ``executor``.
        runs_folder: Where runs of this machine lie.

    Raises:
        UsageError: ``usage.missing_extra``: its library is not installed.
    """
    if isinstance(spec, Ray):
        from tunesmith.executors.ray import RayJobs

        return RayJobs(spec)
    if spec.name == "kubernetes":
        from tunesmith.executors.kubernetes.executor import KubernetesExecutor

        return KubernetesExecutor(spec)
    if isinstance(spec, AzureML):
        from tunesmith.executors.azureml.executor import make_azureml

        return make_azureml(spec)
    if isinstance(spec, ContainerApps):
        from tunesmith.executors.aca import ContainerAppsJobs

        return ContainerAppsJobs(spec)
    if spec.name == "kaito":
        from tunesmith.executors.kaito.executor import KaitoExecutor

        return KaitoExecutor(spec)
    if spec.name == "openai":
        from tunesmith.executors.openai.executor import OpenAiService

        return OpenAiService(spec)
    from tunesmith.executors.local.queue import LocalQueue

    return LocalQueue(runs_folder, spec)


def trains_by_itself(spec: ExecutorSpec) -> bool:
    """Whether it has a trainer of its own: models and data may be its, and mean nothing here."""
    return spec.name in _OWN_TRAINER or (isinstance(spec, AzureML) and spec.trains_itself)


def needs_store(spec: ExecutorSpec) -> bool:
    """Whether its workers find the run in a store, since they may be on other machines."""
    return spec.name not in _ON_THIS_MACHINE and not trains_by_itself(spec)
