"""Models that answer on a cluster of Kubernetes: a Deployment of our server, and a Service before it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from tunesmith.errors import UsageError
from tunesmith.executors.deploying import Endpoint, EndpointStatus
from tunesmith.executors.kubernetes.cluster import DEPLOYMENT, SERVICE, Cluster
from tunesmith.executors.kubernetes.fitting import is_seen
from tunesmith.executors.kubernetes.pod import (
    Manifest,
    container_security,
    labels_of,
    mounts,
    pod_settings,
    resources,
)
from tunesmith.executors.kubernetes.states import is_waiting, why_ended, why_waiting
from tunesmith.executors.protocol import Handle
from tunesmith.recipe.executors.kubernetes import Kubernetes

CONTAINER = "server"
_OF_JOBS = ("kind", "runtime", "deadline_seconds", "ttl_seconds", "retries")
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
PORT = 8000
_SERVICE_PORT = 80
_APP = "app.kubernetes.io/instance"
_KEY_VARIABLE = "TUNESMITH_API_KEY"
# The server fetches its models before it listens.
_START_SECONDS = 1800
_PERIOD_SECONDS = 5
# It finishes the answers that are under way, for at most a minute.
_GRACE_SECONDS = 75
_GONE_FROM_SERVICE_SECONDS = 5


class KubernetesDeployer:
    """See :class:`tunesmith.executors.deploying.Deployer`.

    Args:
        spec: Where and with what: image, namespace, service account, the Secret that has TUNESMITH_API_KEY and what the
            storage needs, claim, resources, nodes. What means something to jobs alone is refused.
    """

    def __init__(self, spec: Kubernetes) -> None:
        self._spec = spec
        self._clusters: dict[str, Cluster] = {}

    def render_endpoint(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The two manifests."""
        require_servable(endpoint, self._spec)
        made = {"deployment.yaml": deployment(endpoint, self._spec), "service.yaml": service(endpoint, self._spec)}
        return {name: yaml.safe_dump(manifest, sort_keys=False) for name, manifest in made.items()}

    def deploy(self, endpoint: Endpoint) -> Handle:
        """Make both, or find those that were made under the same key."""
        require_servable(endpoint, self._spec)
        cluster = self._cluster(self._spec.namespace)
        cluster.make(DEPLOYMENT, deployment(endpoint, self._spec))
        cluster.make(SERVICE, service(endpoint, self._spec))
        return {"namespace": self._spec.namespace, "name": endpoint.name}

    def status(self, handle: Handle) -> EndpointStatus:
        """See :class:`tunesmith.executors.deploying.Deployer`; the address is reached from within the cluster."""
        name, namespace = handle["name"], handle["namespace"]
        cluster = self._cluster(namespace)
        found = cluster.find(DEPLOYMENT, name)
        if found is None:
            return EndpointStatus("lost", "not there", reason=f"the cluster has no Deployment {name}")
        return endpoint_state(found, cluster.pods(f"{_APP}={name}"), f"http://{name}.{namespace}.svc/v1")

    def delete(self, handle: Handle) -> None:
        """Take both away."""
        cluster = self._cluster(handle["namespace"])
        cluster.remove(SERVICE, handle["name"])
        cluster.remove(DEPLOYMENT, handle["name"])

    def _cluster(self, namespace: str) -> Cluster:
        return self._clusters.setdefault(namespace, Cluster(self._spec.context, namespace))


def endpoint_state(found: Mapping[str, Any], pods: list[dict[str, Any]], address: str) -> EndpointStatus:
    """What the platform says of a Deployment, as an endpoint's state."""
    wanted, status = int(found["spec"].get("replicas", 1)), found.get("status") or {}
    if found["metadata"].get("deletionTimestamp") or wanted == 0:
        return EndpointStatus("stopped", "no replica is wanted" if wanted == 0 else "being removed")
    available = int(status.get("availableReplicas") or 0)
    words = f"{available} of {wanted} answer"
    if available >= wanted:
        return EndpointStatus("ready", words, address)
    stuck = [
        one
        for one in status.get("conditions") or []
        if (one.get("type"), one.get("status")) == ("Progressing", "False")
    ]
    if stuck:
        return EndpointStatus("failed", words, reason=why_ended(pods) or stuck[0].get("message"))
    waiting = [why_waiting(one) for one in pods if is_waiting(one)]
    return EndpointStatus("starting", f"{words}; {waiting[-1]}" if waiting else words)


def require_servable(endpoint: Endpoint, spec: Kubernetes) -> None:
    """Refuse what a Deployment is not.

    Raises:
        UsageError: Settings of jobs are given, requests come in files, nobody would be asked for a key, no Service may
            have the name, or the pods do not see the registry.
    """
    of_jobs = [name for name in _OF_JOBS if name in spec.model_fields_set]
    if of_jobs:
        raise UsageError(
            "these settings mean something to trainings alone",
            code="endpoint.setting",
            value=", ".join(of_jobs),
            hint="leave them out",
        )
    if not _NAME.fullmatch(endpoint.name):
        raise UsageError(
            "no Service may have this name",
            code="endpoint.name",
            place="name",
            value=endpoint.name,
            hint="use lowercase letters, digits and `-`, at most 63, beginning with a letter",
        )
    if endpoint.kind == "batch":
        raise UsageError(
            "a Deployment answers requests one by one",
            code="endpoint.batch",
            place="kind",
            value=endpoint.kind,
            hint="`tunesmith batch` answers a file of requests",
        )
    registry = endpoint.environment.get("TUNESMITH_REGISTRY", "")
    if registry and not is_seen(registry, spec):
        raise UsageError(
            "the pods do not see the folder in which the registry lies",
            code="endpoint.registry",
            place="TUNESMITH_REGISTRY",
            value=registry,
            hint="mount a claim there with claim and mount_path, or keep the registry at s3:// or az://",
        )
    if spec.secret is None:
        raise UsageError(
            "whoever reaches the server could ask, and no key is asked for",
            code="endpoint.no_key",
            place="executor.secret",
            hint=f"name a Secret of the namespace with a key {_KEY_VARIABLE}",
        )


def deployment(endpoint: Endpoint, spec: Kubernetes) -> Manifest:
    """The server's Deployment."""
    chosen = {_APP: endpoint.name}
    labels = {**labels_of(endpoint.key), **chosen}
    pod = {
        **pod_settings(spec),
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "containers": [_server(endpoint, spec)],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _metadata(endpoint, spec),
        "spec": {
            "replicas": endpoint.replicas,
            "progressDeadlineSeconds": _START_SECONDS + 60,
            "selector": {"matchLabels": chosen},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def service(endpoint: Endpoint, spec: Kubernetes) -> Manifest:
    """The address before the server's replicas."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(endpoint, spec),
        "spec": {
            "selector": {_APP: endpoint.name},
            "ports": [{"name": "http", "port": _SERVICE_PORT, "targetPort": "http"}],
        },
    }


def _metadata(endpoint: Endpoint, spec: Kubernetes) -> Manifest:
    labels = {**labels_of(endpoint.key), _APP: endpoint.name}
    return {"name": endpoint.name, "namespace": spec.namespace, "labels": labels}


def _server(endpoint: Endpoint, spec: Kubernetes) -> Manifest:
    models = [f"{name}={model}" for name, model in sorted(endpoint.models.items())]
    given = {"HOME": "/cache", "TUNESMITH_CACHE": "/cache", **endpoint.environment}
    named = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": spec.secret, "key": key}}} for key in spec.secret_keys
    ]
    found: Manifest = {
        "name": CONTAINER,
        "image": spec.image,
        "command": ["tunesmith", "serve", *models, "--host", "0.0.0.0", "--port", str(PORT)],  # noqa: S104
        "env": [*({"name": name, "value": value} for name, value in sorted(given.items())), *named],
        "ports": [{"name": "http", "containerPort": PORT}],
        "startupProbe": {**_probe("/health"), "failureThreshold": _START_SECONDS // _PERIOD_SECONDS},
        "readinessProbe": _probe("/ready"),
        "livenessProbe": {**_probe("/health"), "failureThreshold": 6},
        # Until nobody sends requests here any more.
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(_GONE_FROM_SERVICE_SECONDS)]}}},
        "securityContext": container_security(),
        "volumeMounts": mounts(spec),
    }
    if not spec.secret_keys:
        found["envFrom"] = [{"secretRef": {"name": spec.secret}}]
    if asked := resources(spec):
        found["resources"] = asked
    return found


def _probe(path: str) -> Manifest:
    return {"httpGet": {"path": path, "port": "http"}, "periodSeconds": _PERIOD_SECONDS, "timeoutSeconds": 5}
