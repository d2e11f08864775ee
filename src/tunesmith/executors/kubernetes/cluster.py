"""The official client, for plain data: what is made, read and removed, and its errors told as ours.

Credentials are those of the kubeconfig (KUBECONFIG, ~/.kube/config), its login helpers included, or of the pod that
this process runs in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import NetworkError, RecipeError, RunError, TunesmithError, UsageError, missing_extra
from tunesmith.executors.kubernetes.pod import KEY_LABEL, Manifest

# To connect, and for an answer.
_TIMEOUT_SECONDS = (5.0, 30.0)
_BAD_REQUEST, _NOT_FOUND, _CONFLICT = 400, 404, 409


@dataclass(frozen=True)
class Kind:
    """Where the API server keeps objects of a kind."""

    name: str
    group: str
    version: str
    plural: str


JOB = Kind("Job", "batch", "v1", "jobs")
TRAIN_JOB = Kind("TrainJob", "trainer.kubeflow.org", "v1alpha1", "trainjobs")
RAY_JOB = Kind("RayJob", "ray.io", "v1", "rayjobs")
DEPLOYMENT = Kind("Deployment", "apps", "v1", "deployments")
SERVICE = Kind("Service", "", "v1", "services")
POD = Kind("Pod", "", "v1", "pods")


class Cluster:
    """One cluster; nothing is asked before it is needed.

    Args:
        context: Of the kubeconfig; None takes its current one.
        namespace: The namespace of everything here.
    """

    def __init__(self, context: str | None, namespace: str) -> None:
        self._context = context
        self._namespace = namespace
        self._client: Any = None

    def make(self, kind: Kind, manifest: Manifest) -> dict[str, Any]:
        """Make an object, or find the one that was made under the same key; the object.

        Raises:
            RunError: ``kubernetes.name_taken``: another object has its name.
            TunesmithError: The cluster refuses it, or does not answer.
        """
        name = manifest["metadata"]["name"]
        created = self._create(kind, manifest)
        if created is not None:
            return created
        there = self.find(kind, name)
        key = manifest["metadata"]["labels"][KEY_LABEL]
        if there is not None and (there["metadata"].get("labels") or {}).get(KEY_LABEL) == key:
            return there
        raise RunError(
            f"a {kind.name} of this name is there, and not ours",
            code="kubernetes.name_taken",
            place=self._namespace,
            value=name,
            hint="choose another name, or another namespace",
        )

    def find(self, kind: Kind, name: str) -> dict[str, Any] | None:
        """An object; None where there is none."""
        with self._telling(kind, name) as missing:
            found = self._call(kind, "get", name=name)
        return None if missing else dict(found)

    def remove(self, kind: Kind, name: str) -> None:
        """Remove an object and, before it is gone, everything that was made for it."""
        with self._telling(kind, name):
            self._call(kind, "delete", name=name, propagation_policy="Foreground")

    def pods(self, selector: str) -> list[dict[str, Any]]:
        """Pods by labels, oldest first."""
        found: list[dict[str, Any]] = []
        with self._telling(POD, selector):
            core = self._core()
            listed = core.list_namespaced_pod(
                self._namespace, label_selector=selector, _request_timeout=_TIMEOUT_SECONDS
            )
            found = core.api_client.sanitize_for_serialization(listed.items)
        return sorted(found, key=lambda pod: (pod["metadata"].get("creationTimestamp") or "", pod["metadata"]["name"]))

    def log(self, pod: str, container: str) -> Iterator[str]:
        """The lines that a container has printed so far; none where it has not begun, or is gone."""
        with self._telling(POD, pod):
            answer = self._open_log(pod, container)
            if answer is None:
                return
            try:
                for line in answer:
                    yield line.decode("utf-8", "replace").rstrip("\n")
            finally:
                answer.release_conn()

    def _open_log(self, pod: str, container: str) -> Any:
        from kubernetes.client.exceptions import ApiException

        try:
            return self._core().read_namespaced_pod_log(
                pod, self._namespace, container=container, _preload_content=False, _request_timeout=_TIMEOUT_SECONDS
            )
        except ApiException as error:
            # The container waits to start.
            if error.status == _BAD_REQUEST:
                return None
            raise

    def _create(self, kind: Kind, manifest: Manifest) -> dict[str, Any] | None:
        """The new object; None where there is one of its name."""
        from kubernetes.client.exceptions import ApiException

        with self._telling(kind, manifest["metadata"]["name"], create=True):
            try:
                # Strict: a field that this cluster does not know is refused, and not dropped.
                return dict(self._call(kind, "create", body=manifest, field_validation="Strict"))
            except ApiException as error:
                if error.status != _CONFLICT:
                    raise
        return None

    def _call(self, kind: Kind, verb: str, **arguments: Any) -> Mapping[str, Any]:
        arguments = {**arguments, "namespace": self._namespace, "_request_timeout": _TIMEOUT_SECONDS}
        if not kind.group:
            word = {"get": "read"}.get(verb, verb)
            core = self._core()
            answer = getattr(core, f"{word}_namespaced_{kind.name.lower()}")(**arguments)
            found: Mapping[str, Any] = {"kind": kind.name, **core.api_client.sanitize_for_serialization(answer)}
            return found
        from kubernetes.client import CustomObjectsApi

        # It takes and gives plain data for every group, those of Kubernetes itself among them.
        call = getattr(CustomObjectsApi(self._open()), f"{verb}_namespaced_custom_object")
        answer = call(group=kind.group, version=kind.version, plural=kind.plural, **arguments)
        return {"kind": kind.name, **answer}

    def _core(self) -> Any:
        from kubernetes.client import CoreV1Api

        return CoreV1Api(self._open())

    def _open(self) -> Any:
        if self._client is None:
            self._client = _connect(self._context)
        return self._client

    @contextmanager
    def _telling(self, kind: Kind, name: str, *, create: bool = False) -> Iterator[list[str]]:
        """Turn the client's errors into ours; where the object is not there, the list that is given is not empty."""
        missing: list[str] = []
        client_errors = _client_errors()
        try:
            yield missing
        except TunesmithError:
            raise
        except client_errors as error:
            if getattr(error, "status", None) == _NOT_FOUND and not create:
                missing.append(name)
                return
            raise _told(error, kind.name, name) from error


def _connect(context: str | None) -> Any:
    """A client by the kubeconfig, else by the account of the pod that this process runs in."""
    from kubernetes import client
    from kubernetes import config as untyped

    config: Any = untyped
    try:
        # Named here, since the client reads the variable only once, when it is imported.
        return config.new_client_from_config(config_file=os.environ.get("KUBECONFIG"), context=context)
    except config.ConfigException as error:
        if context is not None:
            raise _no_access(str(error)) from error
    try:
        configuration = client.Configuration()
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise _no_access("neither a kubeconfig nor the account of a pod is here") from error
    return client.ApiClient(configuration)


def _no_access(value: str) -> UsageError:
    return UsageError(
        "there is no way to a cluster",
        code="kubernetes.config",
        place="executor.context",
        value=value.strip().split("\n")[0][:200],
        hint="`kubectl config get-contexts` says which there are; KUBECONFIG names the file",
    )


def _client_errors() -> tuple[type[Exception], ...]:
    try:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError
    except ModuleNotFoundError as error:
        raise missing_extra(
            "Kubernetes needs a library that is not installed", "kubernetes", value=error.name
        ) from error
    return ApiException, HTTPError, OSError


def _told(error: Exception, kind: str, name: str) -> TunesmithError:
    """What went wrong with an object, by the API server's status and words."""
    status = getattr(error, "status", None) or 0
    place = f"{kind} {name}"
    if status in (_BAD_REQUEST, 422):
        return RecipeError(
            "the cluster refuses what it was given", code="kubernetes.refused", place=place, value=_says(error)
        )
    if status in (401, 403):
        return UsageError(
            "the cluster does not let this account do that",
            code="kubernetes.forbidden",
            place=place,
            value=_says(error),
            hint="deploy/kubernetes/submitter-role.yaml has the rights that are needed",
        )
    if status == _NOT_FOUND:
        return UsageError(
            f"the cluster has no such namespace, or knows no {kind}",
            code="kubernetes.unknown",
            place=place,
            value=_says(error),
            hint="see executor.namespace; a TrainJob needs Kubeflow Trainer, a RayJob needs KubeRay",
        )
    return NetworkError(
        "the cluster did not do what was asked",
        code="network.kubernetes",
        place=place,
        value=_says(error),
        hint="see that `kubectl get pods` works, then try again",
    )


def _says(error: Exception) -> str:
    """The message of the API server's answer; its headers are nobody's business."""
    try:
        return str(json.loads(getattr(error, "body", None) or "")["message"])[:600]
    except (ValueError, KeyError, TypeError):
        status = getattr(error, "status", None)
        return f"status {status}" if status else f"{type(error).__name__}: {str(error)[:200]}"
