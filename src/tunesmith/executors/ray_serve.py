"""Ray Serve as a place where models answer: each endpoint is one application of the cluster.

Serve takes a config that says all applications of the cluster, and ends those that it does not name. So what is there
is read first and sent back with ours; two that deploy in the same second could lose one of the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from tunesmith.errors import RunError, UsageError
from tunesmith.executors.deploying import Endpoint, EndpointState, EndpointStatus
from tunesmith.executors.environment import ALLOCATOR
from tunesmith.executors.protocol import Handle
from tunesmith.executors.ray import connect, request_headers, telling
from tunesmith.recipe.executors.ray import Ray

if TYPE_CHECKING:
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

APPLICATION = "tunesmith.launchers.ray_serve:application"
# In the environment of an endpoint: it answers without a key.
ANYBODY = "TUNESMITH_ANYBODY"
_PORT = 8000
_STATES: Mapping[str, EndpointState] = {
    "NOT_STARTED": "starting",
    "DEPLOYING": "starting",
    "RUNNING": "ready",
    "DEPLOY_FAILED": "failed",
    "UNHEALTHY": "failed",
    "DELETING": "stopped",
}


class RayServe:
    """Applications of one cluster; cores, GPUs, memory and packages are those of the recipe's ``executor: ray``."""

    def __init__(self, spec: Ray) -> None:
        self._spec = spec

    def deploy(self, endpoint: Endpoint) -> Handle:
        """See :class:`tunesmith.executors.deploying.Deployer`.

        Raises:
            UsageError: No cluster is named, or what is asked for cannot be.
            RunError: ``endpoint.exists``: the cluster has an application of this name that is not of this key.
            NetworkError: The cluster does not answer.
        """
        wanted = application_config(self._spec, endpoint)
        client = _client(self._spec.address)
        address: str = client.get_address()
        handle = {"application": endpoint.name, "address": address}
        with telling(address):
            there = client.get_serve_details()["applications"]
            if endpoint.name in there:
                known = ((there[endpoint.name].get("deployed_app_config") or {}).get("args") or {}).get("key")
                if known != endpoint.key:
                    raise RunError(
                        "the cluster has an application of this name",
                        code="endpoint.exists",
                        place=endpoint.name,
                        hint="choose another name, or delete that one",
                    )
                return handle
            client.deploy_applications({"applications": [*_configs(there), wanted]})
        return handle

    def status(self, handle: Handle) -> EndpointStatus:
        """See :class:`tunesmith.executors.deploying.Deployer`."""
        client = _client(handle["address"])
        with telling(handle["address"]):
            details = client.get_serve_details()
        found = details["applications"].get(handle["application"])
        if found is None:
            return EndpointStatus("lost", reason="the cluster has no such application")
        words = str(found["status"])
        state = _STATES.get(words, "starting")
        address = _address(handle["address"], details, found) if state == "ready" else None
        return EndpointStatus(state, words, address, found["message"] or None if state == "failed" else None)

    def delete(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.deploying.Deployer`."""
        client = _client(handle["address"])
        with telling(handle["address"]):
            there = client.get_serve_details()["applications"]
            if there.pop(handle["application"], None) is not None:
                client.deploy_applications({"applications": _configs(there)})

    def render_endpoint(self, endpoint: Endpoint) -> Mapping[str, str]:
        """A config for ``serve deploy``, alone on its cluster."""
        config = {"applications": [application_config(self._spec, endpoint)]}
        return {"serve.yaml": yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}


def application_config(spec: Ray, endpoint: Endpoint) -> dict[str, Any]:
    """One application of a Serve config.

    Raises:
        UsageError: It is for files of requests, or brings a folder that only this machine has.
    """
    if endpoint.kind == "batch":
        raise UsageError(
            "Ray Serve answers requests one by one",
            code="usage.ray_serve",
            value=endpoint.kind,
            hint="`tunesmith batch` works through files of requests",
        )
    directory = spec.working_directory
    if directory is not None and "://" not in directory:
        raise UsageError(
            "Ray Serve takes no folder of this machine",
            code="usage.ray_serve",
            place="executor.working_directory",
            value=directory,
            hint="give the address of an archive, or the packages by executor.pip",
        )
    variables = {name: value for name, value in endpoint.environment.items() if name != ANYBODY}
    environment: dict[str, Any] = {"env_vars": {**ALLOCATOR, "OMP_NUM_THREADS": str(spec.cpus), **variables}}
    if spec.pip:
        environment["pip"] = list(spec.pip)
    if directory is not None:
        environment["working_dir"] = directory
    return {
        "name": endpoint.name,
        "route_prefix": f"/{endpoint.name}",
        "import_path": APPLICATION,
        "runtime_env": environment,
        "args": {"models": dict(endpoint.models), "anybody": ANYBODY in endpoint.environment, "key": endpoint.key},
        "deployments": [{"name": "server", **_replicas(endpoint.replicas), "ray_actor_options": _actor_options(spec)}],
    }


def _replicas(number: int) -> dict[str, Any]:
    if number > 0:
        return {"num_replicas": number}
    return {"autoscaling_config": {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}}


def _actor_options(spec: Ray) -> dict[str, Any]:
    memory = {} if spec.memory_gib is None else {"memory": int(spec.memory_gib * 2**30)}
    resources = {"resources": dict(spec.resources)} if spec.resources else {}
    return {"num_cpus": spec.cpus, "num_gpus": spec.gpus, **memory, **resources}


def _client(address: str | None) -> ServeSubmissionClient:
    """Serve's client at the dashboard of a cluster."""
    place = connect(address).get_address()
    from ray.dashboard.modules.serve.sdk import ServeSubmissionClient

    with telling(place):
        return ServeSubmissionClient(place, headers=request_headers())


def _configs(applications: Mapping[str, Any]) -> list[Any]:
    """What was sent for each; those that a program has deployed have none, and Serve leaves them alone."""
    return [one["deployed_app_config"] for one in applications.values() if one.get("deployed_app_config")]


def _address(dashboard: str, details: Mapping[str, Any], application: Mapping[str, Any]) -> str:
    """At the host of the dashboard, which has a proxy too: other addresses of nodes may lead nowhere from here."""
    port = (details.get("http_options") or {}).get("port", _PORT)
    prefix = (application.get("route_prefix") or "").rstrip("/")
    host = urlsplit(dashboard).hostname or ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{prefix}/v1"
