"""KAITO's inference Workspaces: a base model, and adapters that were tuned for it, behind OpenAI's paths.

KAITO serves with vLLM. Requests name an adapter in ``model`` by its name here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tunesmith.errors import Problem, RunError, UsageError
from tunesmith.executors.deploying import Endpoint, EndpointStatus
from tunesmith.executors.kaito.cluster import Cluster, open_cluster
from tunesmith.executors.kaito.manifests import (
    API_VERSION,
    KEY_LABEL,
    claim,
    key_label,
    manifest_text,
    node_resource,
    object_name,
)
from tunesmith.executors.kaito.state import conditions_of, holds, words_of
from tunesmith.executors.protocol import Handle
from tunesmith.recipe.executors.kaito import KaitoServing

INFERENCE_KEY = "inference_config.yaml"
_IMAGE_MARK, _CLAIM_MARK = "oci://", "pvc://"
_MOST_ADAPTERS = 10
# vLLM takes these ranks, and none above the first of them unless it is told.
_RANKS = (16, 32, 64, 128, 256, 320, 512)
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", re.ASCII)


class KaitoDeployer:
    """See :class:`tunesmith.executors.deploying.Deployer`; also renders."""

    def __init__(self, spec: KaitoServing) -> None:
        self._spec = spec

    def render_endpoint(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The manifests."""
        return {"workspace.yaml": manifest_text(*serving_objects(endpoint, self._spec))}

    def deploy(self, endpoint: Endpoint) -> Handle:
        """Make the Workspace, and where ranks are large a ConfigMap with what vLLM is told of them.

        Raises:
            UsageError: KAITO cannot serve it (``kaito.endpoint``), or the cluster does not take it.
            NetworkError: The cluster does not answer.
        """
        *config_maps, workspace = serving_objects(endpoint, self._spec)
        name = workspace["metadata"]["name"]
        if not self._cluster.create_of_key(workspace, config_maps, KEY_LABEL):
            raise RunError("another Workspace has this name", code="deployment.exists", place=name)
        return {"name": name, "namespace": self._spec.namespace, "context": self._spec.context}

    def status(self, handle: Handle) -> EndpointStatus:
        """See :class:`tunesmith.executors.deploying.Deployer`."""
        workspace = self._cluster.workspace(handle["name"])
        if workspace is None:
            return EndpointStatus("lost", "the cluster has no such Workspace")
        conditions = conditions_of(workspace)
        ready = conditions.get("InferenceReady", {})
        if holds(ready):
            address = f"http://{handle['name']}.{handle['namespace']}.svc.cluster.local/v1"
            return EndpointStatus("ready", words_of(ready), address)
        state = str((workspace.get("status") or {}).get("state") or "Pending")
        waiting = next((one for one in conditions.values() if not holds(one)), {})
        if state == "Failed":
            return EndpointStatus("failed", state, reason=words_of(waiting) or None)
        return EndpointStatus("starting", words_of(waiting) or state)

    def delete(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.deploying.Deployer`."""
        cluster = self._cluster
        cluster.delete_workspace(handle["name"])
        cluster.delete_config_map(handle["name"])

    @cached_property
    def _cluster(self) -> Cluster:
        return open_cluster(self._spec.namespace, self._spec.context)


def serving_objects(endpoint: Endpoint, spec: KaitoServing) -> list[dict[str, Any]]:
    """The ConfigMap, where there is one, and the Workspace behind it.

    Raises:
        UsageError: ``kaito.endpoint``: KAITO cannot serve it; all of it is named.
    """
    adapters = {name: model for name, model in endpoint.models.items() if model != spec.preset}
    _require_possible(endpoint, adapters, spec)
    metadata: dict[str, Any] = {
        "name": object_name(endpoint.name, endpoint.key),
        "namespace": spec.namespace,
        "labels": {KEY_LABEL: key_label(endpoint.key), "app.kubernetes.io/managed-by": "tunesmith"},
    }
    preset: dict[str, Any] = {"name": spec.preset}
    if spec.model_access_secret is not None:
        preset["presetOptions"] = {"modelAccessSecret": spec.model_access_secret}
    inference: dict[str, Any] = {"preset": preset}
    if adapters:
        inference["adapters"] = [_adapter(name, place, spec) for name, place in adapters.items()]
    objects = []
    if spec.largest_rank > _RANKS[0]:
        rank = next(rank for rank in _RANKS if rank >= spec.largest_rank)
        told = f"vllm:\n  max-lora-rank: {rank}\n"
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {INFERENCE_KEY: told}})
        inference["config"] = metadata["name"]
    workspace = {
        "apiVersion": API_VERSION,
        "kind": "Workspace",
        "metadata": metadata,
        "resource": node_resource(spec, metadata["name"]),
        "inference": inference,
    }
    return [*objects, workspace]


def _adapter(name: str, place: str, spec: KaitoServing) -> dict[str, Any]:
    source: dict[str, Any] = {"name": name}
    if place.startswith(_CLAIM_MARK):
        source["volumeSource"] = claim(place.removeprefix(_CLAIM_MARK))
    else:
        source["image"] = place.removeprefix(_IMAGE_MARK)
        if spec.pull_secrets:
            source["imagePullSecrets"] = list(spec.pull_secrets)
    return {"source": source, "strength": f"{spec.strength:g}"}


def _require_possible(endpoint: Endpoint, adapters: Mapping[str, str], spec: KaitoServing) -> None:
    problems = []
    if endpoint.kind != "real-time":
        problems.append(Problem("kaito.endpoint", "KAITO answers requests, no files of them", "kind", endpoint.kind))
    if endpoint.replicas != 1:
        replicas = str(endpoint.replicas)
        problems.append(Problem("kaito.endpoint", "a Workspace is one server", "replicas", replicas))
    if endpoint.environment:
        names = ", ".join(endpoint.environment)
        problems.append(Problem("kaito.endpoint", "KAITO's server takes no variables", "environment", names))
    if len(adapters) > _MOST_ADAPTERS:
        count = str(len(adapters))
        problems.append(Problem("kaito.endpoint", f"KAITO takes {_MOST_ADAPTERS} adapters", "models", count))
    if spec.largest_rank > _RANKS[-1]:
        rank = str(spec.largest_rank)
        problems.append(Problem("kaito.endpoint", f"vLLM takes ranks up to {_RANKS[-1]}", "largest_rank", rank))
    for name, place in endpoint.models.items():
        if place == spec.preset and name != place:
            reason = "KAITO serves the base model under its own name"
            problems.append(Problem("kaito.endpoint", reason, f"models.{name}", place, f"call it {place}"))
    for name, place in adapters.items():
        if not _NAME.fullmatch(name):
            problems.append(Problem("kaito.endpoint", "an adapter's name is lowercase, as of the DNS", "models", name))
        if not place.startswith((_IMAGE_MARK, _CLAIM_MARK)):
            problems.append(
                Problem(
                    "kaito.endpoint",
                    "KAITO can read the base model and what it tuned itself",
                    f"models.{name}",
                    place,
                    f"name {spec.preset}, oci://IMAGE of a tuning, or pvc://CLAIM",
                )
            )
    if problems:
        raise UsageError("KAITO cannot serve this", problems=problems)
