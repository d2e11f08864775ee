"""Endpoints of Azure Machine Learning through its official SDK."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.errors import RunError
from tunesmith.executors.azure_place import telling_azure
from tunesmith.executors.azureml.client import loaded, open_workspace, quiet, written
from tunesmith.executors.azureml.documents import to_yaml
from tunesmith.executors.azureml.endpoints import (
    DEPLOYMENT,
    ENDPOINT,
    KEY_TAG,
    MODEL,
    SERVED,
    SERVERLESS,
    SUBSCRIPTION,
    AzureMLPlace,
    endpoint_files,
)
from tunesmith.executors.deploying import Endpoint, EndpointState, EndpointStatus
from tunesmith.executors.protocol import Handle

_STATES: Mapping[str, EndpointState] = {
    "creating": "starting",
    "updating": "starting",
    "scaling": "starting",
    "succeeded": "ready",
    "failed": "failed",
    "canceled": "failed",
    "deleting": "stopped",
}


class AzureMLDeployer:
    """See :class:`tunesmith.executors.deploying.Deployer`."""

    def __init__(self, place: AzureMLPlace) -> None:
        self._place = place
        self._client: Any = None

    def deploy(self, endpoint: Endpoint) -> Handle:
        """See :class:`tunesmith.executors.deploying.Deployer`; returns when the endpoint answers, which takes minutes.

        Raises:
            UsageError: ``usage.azureml_endpoint``: it cannot be made like this.
            RunError: ``endpoint.exists``: another endpoint has its name.
        """
        files = self._texts(endpoint)
        endpoints, deployments = self._operations(endpoint.kind, self._place.form)
        kind = "online" if endpoint.kind == "real-time" else "batch"
        handle = {"endpoint": endpoint.name, "kind": endpoint.kind, "form": self._place.form}
        there = self._get(endpoints, endpoint.name)
        if there is not None and (there.tags or {}).get(KEY_TAG) != endpoint.key:
            raise RunError(
                "another endpoint has this name",
                code="endpoint.exists",
                place=endpoint.name,
                hint="choose another name",
            )
        with written(files) as folder, telling_azure(f"endpoint {endpoint.name}"), quiet():
            if self._place.form == "serverless":
                if there is None and SUBSCRIPTION in files:
                    wanted = loaded(folder, SUBSCRIPTION, "load_marketplace_subscription")
                    self._workspace().marketplace_subscriptions.begin_create_or_update(wanted).result()
                if there is None:
                    endpoints.begin_create_or_update(loaded(folder, SERVERLESS, "load_serverless_endpoint")).result()
                return handle
            if there is None:
                endpoints.begin_create_or_update(loaded(folder, ENDPOINT, f"load_{kind}_endpoint")).result()
            if self._get(deployments, SERVED, endpoint.name) is not None:
                return handle
            if MODEL in files:
                self._workspace().models.create_or_update(loaded(folder, MODEL, "load_model"))
            load = "load_online_deployment" if kind == "online" else "load_model_batch_deployment"
            deployments.begin_create_or_update(loaded(folder, DEPLOYMENT, load)).result()
            made = endpoints.get(endpoint.name)
            if kind == "online":
                made.traffic = {SERVED: 100}
            else:
                made.defaults = {"deployment_name": SERVED}
            endpoints.begin_create_or_update(made).result()
        return handle

    def status(self, handle: Handle) -> EndpointStatus:
        """See :class:`tunesmith.executors.deploying.Deployer`."""
        endpoints, deployments = self._operations(str(handle["kind"]), str(handle["form"]))
        name = str(handle["endpoint"])
        endpoint = self._get(endpoints, name)
        if endpoint is None:
            return EndpointStatus("lost", reason="the workspace knows no such endpoint")
        answering = endpoint if handle["form"] == "serverless" else self._get(deployments, SERVED, name)
        said = getattr(answering, "provisioning_state", None)
        # The SDK gives a word for some resources, and a member of an enumeration for others.
        words = str(getattr(said, "value", said) or "no deployment")
        state = _STATES.get(words.lower(), "starting")
        scoring = getattr(endpoint, "scoring_uri", None)
        # The service's own server for MLflow has another path and another form of requests.
        answers = state == "ready" and handle["kind"] == "real-time" and handle["form"] != "mlflow" and scoring
        return EndpointStatus(state, words, f"{str(scoring).rstrip('/')}/v1" if answers else None)

    def delete(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.deploying.Deployer`; its deployments go with it."""
        endpoints, _ = self._operations(str(handle["kind"]), str(handle["form"]))
        name = str(handle["endpoint"])
        if self._get(endpoints, name) is None:
            return
        with telling_azure(f"endpoint {name}"), quiet():
            endpoints.begin_delete(name).result()

    def render_endpoint(self, endpoint: Endpoint) -> Mapping[str, str]:
        """The files that ``az ml online-endpoint create`` and its siblings take, and those that they name."""
        return self._texts(endpoint)

    def _texts(self, endpoint: Endpoint) -> dict[str, str]:
        files = endpoint_files(endpoint, self._place)
        return {name: one if isinstance(one, str) else to_yaml(one) for name, one in files.items()}

    def _operations(self, kind: str, form: str) -> tuple[Any, Any]:
        client = self._workspace()
        if form == "serverless":
            return client.serverless_endpoints, None
        if kind == "real-time":
            return client.online_endpoints, client.online_deployments
        return client.batch_endpoints, client.batch_deployments

    def _workspace(self) -> Any:
        if self._client is None:
            self._client = open_workspace(self._place.subscription, self._place.resource_group, self._place.workspace)
        return self._client

    def _get(self, operations: Any, *names: str) -> Any:
        """What is there under a name; None where there is nothing."""
        with telling_azure(f"endpoint {names[-1]}"), quiet():
            from azure.core.exceptions import ResourceNotFoundError

            try:
                return operations.get(*names)
            except ResourceNotFoundError:
                return None
