"""Endpoints of Azure ML: documents that its SDK reads; deployments made, asked for and deleted by its client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from azure_cases import WORKSPACE, as_json, compare
from fake_azure import WORKSPACE as WORKSPACE_PATH
from fake_azure import FakeAzure, serve_azure

from tunesmith.errors import RunError, UsageError
from tunesmith.executors.azureml.client import loaded as loaded_from
from tunesmith.executors.azureml.client import quiet, written
from tunesmith.executors.azureml.deployer import AzureMLDeployer
from tunesmith.executors.azureml.endpoints import (
    DEPLOYMENT,
    DOCKERFILE,
    DRIVER,
    ENDPOINT,
    MODEL,
    SERVERLESS,
    SUBSCRIPTION,
    AzureMLPlace,
)
from tunesmith.executors.deploying import Endpoint, RendersEndpoint
from tunesmith.jobs.deployments import Asked, create, delete, find_deployment, look

pytest.importorskip("azure.ai.ml")

IMAGE = "registry.example.com/support-server:1"
TUNED = "azureml:support:3"
CATALOG = "azureml://registries/azureml-meta/models/Meta-Llama-3.1-8B-Instruct"
PLACES: dict[str, dict[str, Any]] = {
    "online-container": {"image": IMAGE, "instance_type": "Standard_NC24ads_A100_v4"},
    "online-mlflow": {"form": "mlflow", "instance_type": "Standard_NC24ads_A100_v4", "auth_mode": "aad_token"},
    "batch-container": {"image": IMAGE, "compute": "gpus", "files_at_once": 2},
    "batch-mlflow": {"form": "mlflow", "compute": "gpus"},
    "serverless": {"form": "serverless"},
}


def place(case: str) -> AzureMLPlace:
    return AzureMLPlace.model_validate({**WORKSPACE, **PLACES[case]})


def endpoint(case: str, **changed: Any) -> Endpoint:
    models = {"serverless": {"llama": CATALOG}}.get(case, {"support": TUNED})
    told: dict[str, Any] = {"kind": "batch" if case.startswith("batch") else "real-time", "models": models, **changed}
    return Endpoint("support", "key-1", **told)


def loaded(files: Mapping[str, str], name: str, load: str) -> Any:
    with written(files) as folder:
        return loaded_from(folder, name, load)


def rendered(case: str, **changed: Any) -> Mapping[str, str]:
    deployer = AzureMLDeployer(place(case))
    assert isinstance(deployer, RendersEndpoint)
    return deployer.render_endpoint(endpoint(case, **changed))


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    with serve_azure(tmp_path, monkeypatch) as fake:
        fake.put(f"{WORKSPACE_PATH}/computes/gpus", {"properties": {"computeType": "AmlCompute"}})
        yield fake


@pytest.mark.parametrize("case", PLACES)
def test_documents_are_as_they_were(case: str) -> None:
    for name, text in rendered(case).items():
        compare(f"endpoints/{case}/{name}", text)


@pytest.mark.parametrize("case", [case for case in PLACES if case != "serverless"])
def test_the_sdk_reads_an_endpoint_and_its_deployment(case: str) -> None:
    files, kind = rendered(case), case.partition("-")[0]
    made = loaded(files, ENDPOINT, f"load_{kind}_endpoint")
    deployment = loaded(files, DEPLOYMENT, f"load_{'model_' * (kind == 'batch')}{kind}_deployment")
    assert (made.name, deployment.endpoint_name, deployment.name) == ("support", "support", "served")
    with quiet():
        body = (
            made._to_rest_online_endpoint("northeurope")
            if kind == "online"
            else made._to_rest_batch_endpoint("northeurope")
        )
        compare(f"endpoints/{case}/endpoint.rest.json", as_json(plain(body)))
        if case.endswith("mlflow"):
            compare(f"endpoints/{case}/deployment.rest.json", as_json(plain(deployment._to_rest_object("northeurope"))))


def plain(body: Any) -> Any:
    return body.serialize() if hasattr(body, "serialize") else body.as_dict()


def test_the_sdk_reads_what_is_paid_by_use() -> None:
    files = rendered("serverless")
    subscription = loaded(files, SUBSCRIPTION, "load_marketplace_subscription")
    serverless = loaded(files, SERVERLESS, "load_serverless_endpoint")
    assert (subscription.model_id, serverless.model_id) == (CATALOG, CATALOG)
    with quiet():
        compare("endpoints/serverless/subscription.rest.json", as_json(plain(subscription._to_rest_object())))
        compare("endpoints/serverless/endpoint.rest.json", as_json(plain(serverless._to_rest_object())))
    # Models of the service's own publisher need no subscription.
    assert set(rendered("serverless", models={"phi": "azureml://registries/azureml/models/Phi-4"})) == {SERVERLESS}


def test_a_model_of_this_machine_is_registered_and_mounted(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    files = rendered("online-container", models={"support": str(tmp_path / "merged"), "base": "smollm2-135m-instruct"})
    model = loaded(files, MODEL, "load_model")
    assert (model.name, model.type, str(model.path)) == ("support", "custom_model", str(tmp_path / "merged"))
    assert "model: azureml:support@latest" in files[DEPLOYMENT]
    command = json.loads(files[DOCKERFILE].splitlines()[-1].removeprefix("CMD "))[-1]
    served = subprocess.run(
        ["/bin/sh", "-c", command.replace("exec tunesmith serve", "printf '%s\\n'")],
        env={"AZUREML_MODEL_DIR": "/models/support/1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert served.stdout.splitlines()[:2] == ["support=/models/support/1/merged", "base=smollm2-135m-instruct"]


def test_the_servers_command_is_one_that_the_command_line_takes() -> None:
    command = json.loads(rendered("online-container")[DOCKERFILE].splitlines()[-1].removeprefix("CMD "))[-1]
    words = command.removeprefix("exec tunesmith ").replace('"', "").split()
    import typer
    from typer.testing import CliRunner

    from tunesmith.cli.serve import app

    assert isinstance(app, typer.Typer)
    # A model that is not there is refused after all options were understood.
    result = CliRunner().invoke(app, words[1:])
    assert "No such option" not in result.output
    assert result.exit_code != 2 or isinstance(result.exception, UsageError)


def test_the_driver_of_a_batch_answers_each_file_with_the_command(tmp_path: Path) -> None:
    """Azure ML calls init and run; the command itself is stood in for by a program that shows what it was given."""
    (tmp_path / "batch_driver.py").write_text(rendered("batch-container")[DRIVER])
    program = tmp_path / "bin" / "tunesmith"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$3"\n')
    program.chmod(0o755)
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").touch()
    script = "import batch_driver as d; d.init(); print(d.run(['one.jsonl', 'two.jsonl']))"
    environment = {
        "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}",
        "AZUREML_BI_OUTPUT_PATH": str(tmp_path),
        "AZUREML_MODEL_DIR": "/models/support/3",
    }
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True, capture_output=True)
    given = (tmp_path / "two.answers.jsonl").read_text().splitlines()
    assert given == ["batch", "two.jsonl", str(tmp_path / "two.answers.jsonl"), "--model", "support=/models/support/3"]


@pytest.mark.parametrize(
    ("case", "changed", "said"),
    [
        ("online-container", {"replicas": 0}, "at least one machine"),
        ("online-container", {"models": {"a": TUNED, "b": "azureml:other:1"}}, "mounts one model"),
        ("online-mlflow", {"models": {"a": TUNED, "b": TUNED}}, "serves one model"),
        ("serverless", {"kind": "batch"}, "one by one"),
        ("serverless", {"models": {"a": "support:3"}}, "model of the catalog"),
        ("serverless", {"models": {"a": f"{CATALOG}/versions/4"}}, "without its version"),
    ],
)
def test_what_cannot_be_made_is_refused(case: str, changed: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        rendered(case, **changed)
    assert said in str(caught.value.value)


# A batch deployment with our driver uploads it into the workspace's storage, which is not here.
@pytest.mark.parametrize("case", [case for case in PLACES if case != "batch-container"])
def test_an_endpoint_is_made_once_asked_for_and_deleted(azure: FakeAzure, case: str) -> None:
    azure.put(f"{WORKSPACE_PATH}/models/support/versions/3", {"properties": {"modelType": "custom_model"}})
    handle = AzureMLDeployer(place(case)).deploy(endpoint(case))
    asked = len([one for one in azure.asked if one[0] == "PUT"])
    if case == "online-container":
        # Offline the SDK makes no body of a deployment whose image is not registered yet.
        compare(f"endpoints/{case}/deployment.rest.json", as_json(azure.bodies("PUT", "/deployments/served")[0]))
    assert AzureMLDeployer(place(case)).deploy(endpoint(case)) == handle
    assert len([one for one in azure.asked if one[0] == "PUT"]) == asked
    status = AzureMLDeployer(place(case)).status(handle)
    assert status.state == "ready", status
    addresses = {
        "online-container": "https://support.northeurope.inference.ml.azure.com/v1",
        "serverless": "https://support.northeurope.models.ai.azure.com/v1",
    }
    assert status.address == addresses.get(case)
    other = Endpoint("support", "another key", endpoint(case).models, endpoint(case).kind)
    with pytest.raises(RunError) as caught:
        AzureMLDeployer(place(case)).deploy(other)
    assert caught.value.code == "endpoint.exists"
    AzureMLDeployer(place(case)).delete(handle)
    assert AzureMLDeployer(place(case)).status(handle).state == "lost"
    AzureMLDeployer(place(case)).delete(handle)


def test_by_the_commands_door_a_model_of_azure_is_deployed_and_deleted(azure: FakeAzure, tmp_path: Path) -> None:
    azure.put(f"{WORKSPACE_PATH}/models/support/versions/3", {"properties": {"modelType": "custom_model"}})
    asked = Asked((f"support={TUNED}",), "support", "azureml", {**WORKSPACE, **PLACES["online-container"]})
    made = create(asked, tmp_path)
    assert create(asked, tmp_path).record["handle"] == made.record["handle"]
    found = find_deployment(tmp_path, "support")
    assert look(found).status.address == "https://support.northeurope.inference.ml.azure.com/v1"
    delete(found)
    with pytest.raises(RunError):
        find_deployment(tmp_path, "support")
    assert [one for one in azure.resources if "onlineendpoints" in one] == []
