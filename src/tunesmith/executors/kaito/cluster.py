"""A cluster with KAITO, through the official Kubernetes client.

Credentials are those of the kubeconfig (KUBECONFIG, or the usual place), or of the pod in which this runs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import NetworkError, RunError, TunesmithError, UsageError, missing_extra

_GROUP, _VERSION, _PLURAL = "kaito.sh", "v1beta1", "workspaces"
_TIMEOUT_SECONDS = 30.0
_NOT_FOUND, _CONFLICT = 404, 409
_WORDS_CHARACTERS = 1000


@dataclass(frozen=True)
class Cluster:
    """One namespace of a cluster. What is not there is None, and removing it is no error."""

    namespace: str
    client: Any

    def workspace(self, name: str) -> dict[str, Any] | None:
        """A Workspace as it is now."""
        with _telling(self.namespace):
            found: dict[str, Any] = self._custom().get_namespaced_custom_object(
                _GROUP, _VERSION, self.namespace, _PLURAL, name, _request_timeout=_TIMEOUT_SECONDS
            )
            return found
        return None

    def create_workspace(self, content: Mapping[str, Any]) -> bool:
        """Make a Workspace; False where there is one of its name.

        Raises:
            UsageError: ``kaito.refused``: the cluster or KAITO does not take it.
        """
        with _telling(self.namespace) as missed:
            self._custom().create_namespaced_custom_object(
                _GROUP, _VERSION, self.namespace, _PLURAL, dict(content), _request_timeout=_TIMEOUT_SECONDS
            )
            return True
        if _NOT_FOUND in missed:
            raise UsageError(
                "the cluster has no KAITO, or not this namespace",
                code="kaito.missing",
                place=self.namespace,
                value=f"{_PLURAL}.{_GROUP}",
                hint="install KAITO and make the namespace; see docs/guide/aks.md",
            )
        return False

    def create_of_key(self, workspace: Mapping[str, Any], config_maps: Sequence[Mapping[str, Any]], label: str) -> bool:
        """Make a Workspace and the ConfigMaps that it reads; False where one of its name has another ``label``.

        A Workspace with the same label is what an earlier try made, and stays.

        Raises:
            UsageError: As :meth:`create_workspace`; its ConfigMap is then gone again.
        """
        name, mine = workspace["metadata"]["name"], workspace["metadata"]["labels"][label]
        for config_map in config_maps:
            self.create_config_map(config_map)
        try:
            made = self.create_workspace(workspace)
        except UsageError:
            self.delete_config_map(name)
            raise
        there = {} if made else self.workspace(name) or {}
        return made or there.get("metadata", {}).get("labels", {}).get(label) == mine

    def delete_workspace(self, name: str) -> None:
        """Take a Workspace away, with the Job and pods that are made for it."""
        with _telling(self.namespace):
            self._custom().delete_namespaced_custom_object(
                _GROUP,
                _VERSION,
                self.namespace,
                _PLURAL,
                name,
                propagation_policy="Background",
                _request_timeout=_TIMEOUT_SECONDS,
            )

    def config_map(self, name: str) -> Any | None:
        """A ConfigMap as the client's own object."""
        with _telling(self.namespace):
            return self._core().read_namespaced_config_map(name, self.namespace, _request_timeout=_TIMEOUT_SECONDS)
        return None

    def config_maps(self, labels: str) -> list[Any]:
        """The ConfigMaps with some labels, written ``name=value``."""
        with _telling(self.namespace):
            found = self._core().list_namespaced_config_map(
                self.namespace, label_selector=labels, _request_timeout=_TIMEOUT_SECONDS
            )
            return list(found.items)
        return []

    def create_config_map(self, content: Mapping[str, Any]) -> bool:
        """Make a ConfigMap; False where there is one of its name."""
        with _telling(self.namespace) as missed:
            self._core().create_namespaced_config_map(self.namespace, dict(content), _request_timeout=_TIMEOUT_SECONDS)
            return True
        if _NOT_FOUND in missed:
            raise UsageError("the cluster has no such namespace", code="kaito.missing", place=self.namespace)
        return False

    def annotate_config_map(self, name: str, annotations: Mapping[str, str]) -> None:
        """Add annotations to a ConfigMap."""
        with _telling(self.namespace):
            self._core().patch_namespaced_config_map(
                name,
                self.namespace,
                {"metadata": {"annotations": dict(annotations)}},
                _request_timeout=_TIMEOUT_SECONDS,
            )

    def delete_config_map(self, name: str) -> None:
        """Take a ConfigMap away."""
        with _telling(self.namespace):
            self._core().delete_namespaced_config_map(name, self.namespace, _request_timeout=_TIMEOUT_SECONDS)

    def pods(self, job: str) -> Sequence[Any]:
        """The pods of a Job, oldest first."""
        with _telling(self.namespace):
            found = self._core().list_namespaced_pod(
                self.namespace, label_selector=f"job-name={job}", _request_timeout=_TIMEOUT_SECONDS
            )
            return sorted(found.items, key=lambda pod: str(pod.metadata.creation_timestamp))
        return []

    def log(self, pod: str, container: str) -> str:
        """What a container has printed; nothing where it has not begun."""
        try:
            with _telling(self.namespace):
                # The client would show bytes of a text as Python writes them.
                answer = self._core().read_namespaced_pod_log(
                    pod,
                    self.namespace,
                    container=container,
                    _preload_content=False,
                    _request_timeout=_TIMEOUT_SECONDS,
                )
                return bytes(answer.data).decode("utf-8", "replace")
        except UsageError:
            # "container is waiting to start" is a bad request.
            return ""
        return ""

    def _custom(self) -> Any:
        from kubernetes.client import CustomObjectsApi

        return CustomObjectsApi(self.client)

    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self.client)


def open_cluster(namespace: str, context: str | None) -> Cluster:
    """A namespace of the cluster of a context; nothing is asked of it yet.

    Raises:
        UsageError: ``usage.missing_extra``: the client is not installed; ``kaito.kubeconfig``: there are no
            credentials, or no such context.
    """
    try:
        from kubernetes import client as kubernetes_client
        from kubernetes import config
    except ImportError as error:
        raise missing_extra("KAITO needs a library that is not installed", "kubernetes", value=error.name) from error
    # The client's types are those of its generator.
    loading: Any = config
    try:
        client = loading.new_client_from_config(os.environ.get("KUBECONFIG"), context, persist_config=False)
    except Exception as error:
        if context is None and os.environ.get("KUBERNETES_SERVICE_HOST"):
            settings = kubernetes_client.Configuration()
            loading.load_incluster_config(client_configuration=settings)
            return Cluster(namespace, kubernetes_client.ApiClient(settings))
        raise UsageError(
            "there is no way to the cluster",
            code="kaito.kubeconfig",
            place=context,
            value=str(error).splitlines()[0][:200],
            hint="az aks get-credentials writes a kubeconfig; KUBECONFIG names another",
        ) from error
    return Cluster(namespace, client)


@contextmanager
def _telling(namespace: str) -> Iterator[list[int]]:
    """Turn the client's errors into ours; "not there" and "there already" end the block, and are noted in its list.

    What a server answers may hold what was sent, which has no secret in it, and never the credentials.
    """
    missed: list[int] = []
    try:
        yield missed
    except TunesmithError:
        raise
    except Exception as error:
        status = getattr(error, "status", None)
        if status in (_NOT_FOUND, _CONFLICT):
            missed.append(status)
            return
        raise _as_ours(error, status, namespace) from error


def _as_ours(error: Exception, status: Any, namespace: str) -> TunesmithError:
    words = _message(error)
    if status in (401, 403):
        return RunError(
            "the cluster does not allow this",
            code="kaito.forbidden",
            place=namespace,
            value=words,
            hint="the kubeconfig's user needs to get, list, create and delete workspaces, config maps, pods and logs",
        )
    if isinstance(status, int) and 400 <= status < 500 and status != 429:
        return UsageError("the cluster does not take this", code="kaito.refused", place=namespace, value=words)
    return NetworkError(
        "the cluster did not answer as it should",
        code="network.cluster",
        place=namespace,
        value=words,
        hint="check the network and the kubeconfig, then try again",
    )


def _message(error: Exception) -> str:
    """The cluster's own words out of the JSON of its answer."""
    import json

    try:
        told = json.loads(getattr(error, "body", None) or "")
        return str(told["message"])[:_WORDS_CHARACTERS]
    except (ValueError, KeyError, TypeError):
        return f"{type(error).__name__}: {(str(error).strip() or 'no word').splitlines()[0]}"[:_WORDS_CHARACTERS]
