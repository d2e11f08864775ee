"""Models that answer in Azure ML, as the YAML documents that its own tools read.

endpoint.yaml                  an online or a batch endpoint
deployment.yaml                what answers behind it: our server in a container, or the service's server for MLflow
model.yaml                     registers a folder of this machine, where the model is one
server/Dockerfile              makes the image that deployment.yaml names, with the server's command in it
driver/batch_driver.py         answers files of requests, in a batch deployment with our image
serverless-endpoint.yaml       a model of the catalog that is paid by use, and the subscription to it
marketplace-subscription.yaml
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from tunesmith.errors import UsageError
from tunesmith.executors.deploying import Endpoint
from tunesmith.recipe.parts import Part, PositiveInt

Document = dict[str, Any]

ENDPOINT, DEPLOYMENT, MODEL = "endpoint.yaml", "deployment.yaml", "model.yaml"
DOCKERFILE, DRIVER = "server/Dockerfile", "driver/batch_driver.py"
SERVERLESS, SUBSCRIPTION = "serverless-endpoint.yaml", "marketplace-subscription.yaml"
KEY_TAG = "tunesmith.key"
# The one deployment of an endpoint of ours.
SERVED = "served"
PORT = 8000
_SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]{1,30}[A-Za-z0-9]", re.ASCII)
_OF_MICROSOFT = "azureml://registries/azureml/"
_REGISTRY_VERSION = re.compile(r"azureml://registries/.*/versions/", re.ASCII)
_VERSION = re.compile(r"azureml:[^/:]+:[^/:]+|azureml://.+", re.ASCII)


class AzureMLPlace(Part):
    """Where endpoints are made, and of what."""

    name: Literal["azureml"] = "azureml"
    subscription: str | None = Field(None, description="The subscription's id; else that of the az command's login.")
    resource_group: str | None = Field(None, description="The resource group; else the az command's default.")
    workspace: str | None = Field(None, description="The workspace; else the az command's default.")
    form: Literal["container", "mlflow", "serverless"] = Field(
        "container",
        description="Our server, with OpenAI's paths; the service's server for a model in MLflow's form; or a model of "
        "the catalog that is paid by use.",
    )
    image: str | None = Field(
        None, description="For our server, an image made with the rendered Dockerfile; for files, one with Tunesmith."
    )
    instance_type: str = Field("Standard_NC24ads_A100_v4", description="The machine size of an online deployment.")
    compute: str | None = Field(None, description="The cluster of a batch deployment.")
    auth_mode: Literal["key", "aml_token", "aad_token"] = Field(
        "key", description="Who may ask: whoever has the endpoint's key, or a token of the workspace or of Entra."
    )
    files_at_once: PositiveInt = Field(1, description="Files that a machine of a batch deployment answers at once.")


def endpoint_files(endpoint: Endpoint, place: AzureMLPlace) -> dict[str, Document | str]:
    """All that an endpoint consists of, by file name: documents, and texts that are no YAML.

    Raises:
        UsageError: ``usage.azureml_endpoint``: it cannot be made like this.
    """
    _check(endpoint, place)
    if place.form == "serverless":
        return serverless_files(endpoint, next(iter(endpoint.models.values())))
    files: dict[str, Document | str] = {}
    model = _deployed_model(endpoint, place)
    if model is not None and not _VERSION.fullmatch(model):
        files[MODEL] = model_document(
            endpoint.name, model, "mlflow_model" if place.form == "mlflow" else "custom_model"
        )
    mounted = None if model is None else model if _VERSION.fullmatch(model) else f"azureml:{endpoint.name}@latest"
    if endpoint.kind == "real-time":
        files[ENDPOINT] = online_endpoint(endpoint, place)
        files[DEPLOYMENT] = online_deployment(endpoint, place, mounted)
        if place.form == "container":
            files[DOCKERFILE] = dockerfile(endpoint)
    else:
        files[ENDPOINT] = batch_endpoint(endpoint)
        files[DEPLOYMENT] = batch_deployment(endpoint, place, mounted)
        if place.form == "container":
            files[DRIVER] = batch_driver(endpoint)
    return files


def online_endpoint(endpoint: Endpoint, place: AzureMLPlace) -> Document:
    """The address at which requests are answered, and who may ask."""
    return {
        "$schema": f"{_SCHEMAS}/managedOnlineEndpoint.schema.json",
        "name": endpoint.name,
        "auth_mode": place.auth_mode,
        "tags": {KEY_TAG: endpoint.key},
    }


def online_deployment(endpoint: Endpoint, place: AzureMLPlace, model: str | None) -> Document:
    """The machines that answer."""
    document: Document = {
        "$schema": f"{_SCHEMAS}/managedOnlineDeployment.schema.json",
        "name": SERVED,
        "endpoint_name": endpoint.name,
        "instance_type": place.instance_type,
        "instance_count": endpoint.replicas,
        "scale_settings": {"type": "default"},
        "request_settings": {"request_timeout_ms": 180_000, "max_concurrent_requests_per_instance": 32},
        # A base model is loaded before the first answer.
        "liveness_probe": {"initial_delay": 600, "period": 10, "timeout": 5, "failure_threshold": 30},
        "readiness_probe": {"initial_delay": 10, "period": 10, "timeout": 5, "failure_threshold": 60},
    }
    if model is not None:
        document["model"] = model
    if endpoint.environment:
        document["environment_variables"] = dict(endpoint.environment)
    if place.form == "container":
        document["environment"] = {
            "name": f"{endpoint.name}-server",
            "image": place.image,
            "inference_config": {
                "liveness_route": {"port": PORT, "path": "/health"},
                "readiness_route": {"port": PORT, "path": "/ready"},
                "scoring_route": {"port": PORT, "path": "/"},
            },
        }
    return document


def batch_endpoint(endpoint: Endpoint) -> Document:
    """The address to which files of requests are given."""
    return {
        "$schema": f"{_SCHEMAS}/batchEndpoint.schema.json",
        "name": endpoint.name,
        "auth_mode": "aad_token",
        "tags": {KEY_TAG: endpoint.key},
    }


def batch_deployment(endpoint: Endpoint, place: AzureMLPlace, model: str | None) -> Document:
    """The cluster that answers files, each machine some files at a time."""
    document: Document = {
        "$schema": f"{_SCHEMAS}/modelBatchDeployment.schema.json",
        "name": SERVED,
        "endpoint_name": endpoint.name,
        "type": "model",
        "compute": f"azureml:{place.compute}",
        "resources": {"instance_count": endpoint.replicas},
        "settings": {
            "max_concurrency_per_instance": place.files_at_once,
            "mini_batch_size": 1,
            "output_action": "append_row" if place.form == "mlflow" else "summary_only",
            "retry_settings": {"max_retries": 1, "timeout": 3600},
            "error_threshold": 0,
            "logging_level": "info",
        },
    }
    if place.form == "mlflow":
        document["settings"]["output_file_name"] = "predictions.csv"
    if endpoint.environment:
        document["settings"]["environment_variables"] = dict(endpoint.environment)
    if model is not None:
        document["model"] = model
    if place.form == "container":
        document["environment"] = {"name": f"{endpoint.name}-batch", "image": place.image}
        document["code_configuration"] = {"code": "driver", "scoring_script": "batch_driver.py"}
    return document


def model_document(name: str, path: str, kind: Literal["custom_model", "mlflow_model"]) -> Document:
    """Registers a folder of this machine, or the output of a job."""
    return {"$schema": f"{_SCHEMAS}/model.schema.json", "name": name, "type": kind, "path": path}


def serverless_files(endpoint: Endpoint, model_id: str) -> dict[str, Document | str]:
    """A model of the catalog that is paid by use, and the subscription to it where it has another publisher."""
    files: dict[str, Document | str] = {}
    if not model_id.startswith(_OF_MICROSOFT):
        files[SUBSCRIPTION] = {"name": endpoint.name, "model_id": model_id}
    files[SERVERLESS] = {"name": endpoint.name, "model_id": model_id, "tags": {KEY_TAG: endpoint.key}}
    return files


def dockerfile(endpoint: Endpoint) -> str:
    """An image whose command serves the endpoint's models; the endpoint sees to who may ask."""
    served = " ".join(_served(name, model) for name, model in endpoint.models.items())
    command = f"exec tunesmith serve {served} --host 0.0.0.0 --port {PORT} --anybody"
    return (
        "# An image with Tunesmith in it.\n"
        "ARG TUNESMITH_IMAGE\n"
        "FROM ${TUNESMITH_IMAGE}\n"
        f"EXPOSE {PORT}\n"
        f"CMD {json.dumps(['/bin/sh', '-c', command])}\n"
    )


def batch_driver(endpoint: Endpoint) -> str:
    """The script of a batch deployment: each file of requests goes through ``tunesmith batch``."""
    options = [part for name, model in endpoint.models.items() for part in ("--model", _placed(name, model))]
    return _DRIVER.replace("__OPTIONS__", json.dumps(options))


_DRIVER = '''"""Answers files of requests in OpenAI's batch format; the answers lie in the job's output."""

import os
import subprocess
from pathlib import Path

OPTIONS = __OPTIONS__


def init():
    """Nothing is kept between files: the command loads the model."""


def run(mini_batch):
    """Answer each file; what is returned says which were."""
    answered = []
    for source in mini_batch:
        target = Path(os.environ["AZUREML_BI_OUTPUT_PATH"]) / f"{Path(source).stem}.answers.jsonl"
        options = [os.path.expandvars(option) for option in OPTIONS]
        subprocess.run(["tunesmith", "batch", str(source), str(target), *options], check=True)
        answered.append(str(target))
    return answered
'''


def _check(endpoint: Endpoint, place: AzureMLPlace) -> None:
    wrong: str | None = None
    if not _NAME.fullmatch(endpoint.name):
        wrong = "its name must have 3 to 32 letters, digits and -, and begin with a letter"
    elif place.form == "container" and place.image is None:
        wrong = "form container needs an image; render it to get its Dockerfile"
    elif place.form != "container" and len(endpoint.models) != 1:
        wrong = f"form {place.form} serves one model"
    elif place.form == "serverless":
        wrong = _not_serverless(endpoint)
    elif endpoint.kind == "batch" and place.compute is None:
        wrong = "files are answered by a compute cluster"
    elif endpoint.replicas < 1:
        wrong = "a deployment of Azure ML has at least one machine"
    elif len([model for model in endpoint.models.values() if _is_mounted(model)]) > 1:
        wrong = "a deployment mounts one model of Azure ML or of this machine"
    if wrong is not None:
        raise UsageError(
            "this endpoint cannot be made", code="usage.azureml_endpoint", place=endpoint.name, value=wrong
        )


def _not_serverless(endpoint: Endpoint) -> str | None:
    (model,) = endpoint.models.values()
    if endpoint.kind == "batch":
        return "form serverless answers requests one by one"
    if not model.startswith("azureml://"):
        return "form serverless takes a model of the catalog: azureml://registries/NAME/models/MODEL"
    return "form serverless takes a model without its version" if _REGISTRY_VERSION.match(model) else None


def _deployed_model(endpoint: Endpoint, place: AzureMLPlace) -> str | None:
    """The one model that the service brings to the machines; others are fetched by the server."""
    if place.form == "mlflow":
        return next(iter(endpoint.models.values()))
    return next((model for model in endpoint.models.values() if _is_mounted(model)), None)


def _is_mounted(model: str) -> bool:
    return model.startswith("azureml:") or Path(model).is_absolute()


def _placed(name: str, model: str) -> str:
    """A model as the server's command names it; a mounted one lies in the folder that the service tells."""
    if not _is_mounted(model):
        return f"{name}={model}"
    inner = "" if model.startswith("azureml:") else f"/{Path(model).name}"
    return f"{name}=$AZUREML_MODEL_DIR{inner}"


def _served(name: str, model: str) -> str:
    placed = _placed(name, model)
    # The shell has to replace the variable.
    return f'"{placed}"' if _is_mounted(model) else shlex.quote(placed)
