"""Executions of Container Apps jobs, with a Resource Manager on this machine: what is sent, and what is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from azure_cases import ACA, VAULT, a_recipe, a_submission, aca, compare
from fake_azure import APPS, ENVIRONMENT, FakeAzure, serve_azure

from tunesmith.errors import NetworkError, RecipeError, RunError, UsageError
from tunesmith.executors.aca import ContainerAppsJobs
from tunesmith.executors.aca_documents import differences, execution, job

pytest.importorskip("azure.identity")

JOB = f"{APPS}/jobs/tuner"


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    with serve_azure(tmp_path, monkeypatch) as fake:
        yield fake


def executor(azure: FakeAzure, **changed: Any) -> ContainerAppsJobs:
    spec = aca(resource_manager=azure.url, log_analytics=azure.url, **changed)
    return ContainerAppsJobs(spec, poll_seconds=0.05)


def submission(key: str = "nightly-7") -> Any:
    return replace(a_submission(a_recipe()), key=key)


def test_the_rendered_files_are_those_of_ai_toolkit_and_what_is_sent() -> None:
    files = ContainerAppsJobs(aca()).render(submission())
    assert set(files) == {
        "infra/finetuning.config.json",
        "infra/provision/finetuning.parameters.json",
        "infra/provision/job.json",
        "infra/provision/start.json",
    }
    for name, text in files.items():
        compare(f"aca/{name}", text)
    config = json.loads(files["infra/finetuning.config.json"])
    keys = [
        "SUBSCRIPTION_ID",
        "RESOURCE_GROUP_NAME",
        "STORAGE_ACCOUNT_NAME",
        "FILE_SHARE_NAME",
        "ACA_JOB_NAME",
        "COMMANDS",
    ]
    assert list(config) == keys
    parameters = json.loads(files["infra/provision/finetuning.parameters.json"])["parameters"]
    assert parameters["defaultCommands"]["value"] == config["COMMANDS"]
    assert parameters["timeout"]["value"] == 10800
    # The commands are joined into the one line that the job's shell gets.
    shell = json.loads(files["infra/provision/start.json"])["containers"][0]["command"]
    assert shell == ["/bin/bash", "-c", "; ".join(config["COMMANDS"])]


def test_the_official_model_of_container_apps_knows_every_property_that_is_sent() -> None:
    models = pytest.importorskip("azure.mgmt.appcontainers.models")
    for spec in (
        aca(),
        aca(
            gpu_profile=None,
            identity="/subscriptions/s/resourceGroups/g/x/y",
            file_share=None,
            environment_storage=None,
            secrets={"A": "a"},
        ),
    ):
        body = job(spec, submission(), ENVIRONMENT, "northeurope")
        assert unknown_properties(models.Job, body) == []
        assert unknown_properties(models.JobExecutionTemplate, execution(spec, submission())) == []
    wrong = job(aca(), submission(), ENVIRONMENT, "northeurope")
    wrong["properties"]["configuration"]["replicaTimeOut"] = 5
    assert unknown_properties(models.Job, wrong) == ["properties.configuration.replicaTimeOut"]


def unknown_properties(model: Any, body: Mapping[str, Any], place: str = "") -> list[str]:
    """Properties of a body that a model of the official library has no word for, however deep."""
    # The library looks its fields up when the first object is made.
    model({})
    fields = {field._rest_name: field._type for field in model._attr_to_rest_field.values()}
    found = []
    for name, value in body.items():
        if name not in fields:
            found.append(f"{place}{name}")
            continue
        inner = model_within(fields[name])
        for one in value if isinstance(value, list) else [value]:
            if inner is not None and isinstance(one, Mapping):
                named = any(part.__name__ == "_deserialize_dict" for part in functions_within(fields[name]))
                for key, each in one.items() if named else [("", one)]:
                    found += unknown_properties(inner, each, f"{place}{name}.{key and key + '.'}")
    return found


def functions_within(kind: Any) -> list[Any]:
    """The library describes a field's type by functions within functions."""
    if not isinstance(kind, partial):
        return []
    return [kind.func, *(one for part in kind.args for one in functions_within(part))]


def model_within(kind: Any) -> Any:
    if isinstance(kind, partial):
        return next((found for part in kind.args if (found := model_within(part)) is not None), None)
    return kind if hasattr(kind, "_is_model") else None


def test_a_submission_makes_the_job_once_and_is_one_execution_for_each_key(azure: FakeAzure) -> None:
    there = executor(azure)
    first = there.submit(submission())
    assert azure.bodies("PUT", "/jobs/tuner") == [job(there._spec, submission(), ENVIRONMENT, "northeurope")]
    assert executor(azure).submit(submission()) == first
    others = [executor(azure).submit(submission(f"key-{number}"))["execution"] for number in range(4)]
    assert len({first["execution"], *others}) == 5
    # The list has pages; the last one is found on the third.
    assert executor(azure).submit(submission("key-3"))["execution"] == others[-1]
    assert len(azure.bodies("PUT", "/jobs/tuner")) == 1
    assert len(azure.bodies("POST", "/start")) == 5
    assert VAULT in json.dumps(azure.bodies("PUT", "/jobs/tuner"))


def test_an_execution_whose_answer_is_lost_is_found_again(azure: FakeAzure) -> None:
    azure.loses_answers.add(f"{JOB}/start")
    with pytest.raises(NetworkError):
        executor(azure).submit(submission())
    handle = executor(azure).submit(submission())
    assert [one.name for one in azure.executions[JOB.lower()]] == [handle["execution"]]


def test_a_job_that_is_another_one_is_told_by_what_differs(azure: FakeAzure) -> None:
    executor(azure).submit(submission())
    with pytest.raises(RecipeError) as caught:
        executor(azure, timeout_seconds=60, gpu_profile=None, retries=2, environment_storage="other").submit(
            submission("new")
        )
    assert {one.place for one in caught.value.problems} == {
        "executor.timeout_seconds",
        "executor.gpu_profile",
        "executor.retries",
        "executor.environment_storage",
    }
    assert len(azure.bodies("POST", "/start")) == 1


def test_secrets_come_from_what_is_named(azure: FakeAzure) -> None:
    body = job(aca(secrets={"HF_TOKEN": VAULT, "OTHER": "known"}), submission(), ENVIRONMENT, None)
    assert body["properties"]["configuration"]["secrets"] == [
        {"name": "hf-token", "keyVaultUrl": VAULT, "identity": "system"}
    ]
    variables = {one["name"]: one for one in body["properties"]["template"]["containers"][0]["env"]}
    assert variables["HF_TOKEN"] == {"name": "HF_TOKEN", "secretRef": "hf-token"}
    assert variables["OTHER"] == {"name": "OTHER", "secretRef": "known"}
    # A job that is yet to be made knows no names.
    with pytest.raises(RecipeError) as caught:
        executor(azure, secrets={"HF_TOKEN": "known"}).submit(submission())
    assert caught.value.value == "HF_TOKEN"
    # One that is there may know them; its secrets are not touched.
    there = job(aca(secrets={}), submission(), ENVIRONMENT, "northeurope")
    there["properties"]["configuration"]["secrets"] = [{"name": "known"}]
    azure.put(JOB, there)
    executor(azure, secrets={"HF_TOKEN": "known"}).submit(submission())
    with pytest.raises(RecipeError):
        executor(azure, secrets={"HF_TOKEN": "unknown"}).submit(submission("two"))
    assert azure.bodies("PUT", "/jobs/tuner") == []


def test_a_secret_in_the_place_of_its_name_is_refused_and_not_shown() -> None:
    with pytest.raises(RecipeError) as caught:
        a_recipe(executor={"name": "aca", **ACA, "secrets": {"HF_TOKEN": "hf_Planted42"}})
    assert "hf_Planted42" not in str(caught.value)
    assert "HF_TOKEN" in str(caught.value)


@pytest.mark.parametrize(
    ("said", "state"),
    [
        ("Processing", "queued"),
        ("Running", "running"),
        ("Degraded", "running"),
        ("Succeeded", "succeeded"),
        ("Failed", "failed"),
    ],
)
def test_states(azure: FakeAzure, said: str, state: str) -> None:
    handle = executor(azure).submit(submission())
    azure.executions[JOB.lower()][0].status = said
    status = executor(azure).status(handle)
    assert (status.state, status.words) == (state, said)


def test_cancelling_ends_it_once_and_what_is_gone_is_lost(azure: FakeAzure) -> None:
    handle = executor(azure).submit(submission())
    executor(azure).cancel(handle)
    assert executor(azure).status(handle).state == "cancelled"
    executor(azure).cancel(handle)
    assert len(azure.bodies("POST", "/stop")) == 1
    azure.executions.clear()
    assert executor(azure).status(handle).state == "lost"
    executor(azure).cancel(handle)


def test_logs_are_those_of_the_execution(azure: FakeAzure) -> None:
    handle = executor(azure).submit(submission())
    azure.executions[JOB.lower()][0].log.write_text("one\ntwo\n")
    assert list(executor(azure).logs(handle)) == ["one", "two"]
    azure.put(ENVIRONMENT, {"properties": {"appLogsConfiguration": {"destination": "azure-monitor"}}})
    with pytest.raises(RunError) as caught:
        list(executor(azure).logs(handle))
    assert caught.value.value == "azure-monitor"


def test_what_azure_refuses_is_told(azure: FakeAzure, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError) as caught:
        executor(azure, environment="other").submit(submission())
    assert caught.value.code == "azure.missing"
    azure.realm = "another"
    there = executor(azure)
    there.submit(submission())
    azure.realm = "yet another"
    with pytest.raises((RunError, UsageError)) as refused:
        there.submit(submission("two"))
    assert not refused.value.retryable
    assert "another" not in str(refused.value)
    # Nobody has logged in.
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "EnvironmentCredential")
    with pytest.raises(UsageError) as unknown:
        executor(azure).submit(submission())
    assert unknown.value.code == "usage.azure_login"


def test_a_list_that_goes_on_elsewhere_gets_no_token(azure: FakeAzure) -> None:
    for number in range(3):
        executor(azure).submit(submission(str(number)))
    azure.pages_elsewhere = "http://127.0.0.1:9"
    with pytest.raises(RunError) as caught:
        executor(azure).submit(submission("new"))
    assert caught.value.value == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("changed", "run", "is_taken"),
    [
        ({}, "az://runs/one", True),
        ({}, "file:///mount/runs/one", True),
        ({}, "file:///mounted/runs/one", False),
        ({"mount_path": "/data/"}, "file:///data/one", True),
        ({"file_share": None, "environment_storage": None}, "file:///mount/runs/one", False),
    ],
)
def test_a_run_that_the_container_does_not_mount_is_refused(changed: dict[str, Any], run: str, is_taken: bool) -> None:
    there = ContainerAppsJobs(aca(**changed))
    if is_taken:
        assert there.render(replace(submission(), run=run))
        return
    with pytest.raises(RecipeError) as caught:
        there.render(replace(submission(), run=run))
    assert caught.value.code == "recipe.run_out_of_reach"


def test_several_machines_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        ContainerAppsJobs(aca()).render(replace(submission(), nodes=2))
    assert caught.value.place == "train.nodes"


def test_what_an_execution_can_say_itself_is_no_difference() -> None:
    there = job(aca(), submission(), ENVIRONMENT, "northeurope")
    assert differences(aca(image="another", cpu=4, memory_gib=8, setup_commands=[]), there, ENVIRONMENT.upper()) == []
