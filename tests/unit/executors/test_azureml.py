"""Jobs of Azure ML: documents that its own SDK reads, the bodies that it makes of them, and asking by its client."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from azure_cases import OURS, PHI, THEIRS, WORKSPACE, a_recipe, a_submission, as_json, azureml, compare
from fake_azure import LOG_KEY, FakeAzure, serve_azure
from fake_azure import WORKSPACE as WORKSPACE_PATH

from tunesmith.errors import NetworkError, RecipeError, WorkerError
from tunesmith.executors.azureml.client import loaded as loaded_from
from tunesmith.executors.azureml.client import quiet, written
from tunesmith.executors.azureml.documents import CHAT_PIPELINE, JOB, MODEL, WARNINGS
from tunesmith.executors.azureml.executor import make_azureml
from tunesmith.executors.azureml.settings import PARAMETERS, trainer_settings
from tunesmith.executors.protocol import Tells
from tunesmith.jobs.submitted import find_job, follow, look
from tunesmith.jobs.submitting import Asked, render, submit
from tunesmith.recipe.executors.azure import AzureML
from tunesmith.runs.events import read_events

pytest.importorskip("azure.ai.ml")

CASES = [*OURS, *THEIRS]
TOLD = {"optim": "adamw_torch", "lr_scheduler_type": "cosine", "seed": 0}


@pytest.fixture
def azure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeAzure]:
    with serve_azure(tmp_path, monkeypatch) as fake:
        yield fake


def a_case(case: str) -> tuple[AzureML, Any]:
    spec = azureml(case)
    told = {} if spec.provider == "azure_open_ai" else {"train__learning_rate": 0.00002}
    return spec, a_submission(a_recipe(train__epochs=3, **told))


def loaded(files: Mapping[str, str], name: str, load: str) -> Any:
    with written(files) as folder:
        return loaded_from(folder, name, load)


def rendered(case: str) -> Mapping[str, str]:
    spec, submission = a_case(case)
    return make_azureml(spec).render(submission)


def rest_body(entity: Any) -> Any:
    from azure.ai.ml.entities import Job
    from azure.ai.ml.entities._job.to_rest_functions import to_rest_job_object

    with quiet():
        # A command that was read is no job yet for the SDK.
        body = to_rest_job_object(entity) if isinstance(entity, Job) else entity._to_rest_object()
        return body.serialize() if hasattr(body, "serialize") else body.as_dict()


@pytest.mark.parametrize("case", CASES)
def test_documents_are_as_they_were(case: str) -> None:
    for name, text in rendered(case).items():
        compare(f"{case}/{name}", text)


@pytest.mark.parametrize("case", ["command-serverless", *THEIRS])
def test_the_sdk_reads_the_job_and_makes_the_same_body_of_it(case: str) -> None:
    job = loaded(rendered(case), JOB, "load_job")
    assert job.display_name == a_case(case)[1].name
    compare(f"{case}/job.rest.json", as_json(rest_body(job)))


@pytest.mark.parametrize("case", ["command", "pipeline-component"])
def test_what_a_job_needs_is_registered_and_named_by_it(azure: FakeAzure, case: str) -> None:
    """Offline the SDK makes no body of a job with an image or a component that is not registered yet."""
    spec, submission = a_case(case)
    azure.put(f"{WORKSPACE_PATH}/computes/gpus", {"properties": {"computeType": "AmlCompute"}})
    handle = make_azureml(spec).submit(submission)
    (body,) = azure.bodies("PUT", f"/jobs/{handle['job']}")
    compare(f"{case}/job.rest.json", as_json(body))
    registered = {path.removeprefix(WORKSPACE_PATH).split("/")[1] for method, path, _ in azure.asked if method == "PUT"}
    assert registered == {"jobs", "environments", *(["components"] if case == "pipeline-component" else [])}


def test_the_address_of_a_repository_does_not_go_along(
    azure: FakeAzure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK would add it to the job, and people have tokens in it."""
    folder = tmp_path / "work"
    for command in (
        ["init", "-q", folder],
        ["-C", folder, "remote", "add", "origin", "https://u:planted@example.com/x"],
    ):
        subprocess.run(["git", *map(str, command)], check=True)
    monkeypatch.chdir(folder)
    azure.put(f"{WORKSPACE_PATH}/computes/gpus", {"properties": {"computeType": "AmlCompute"}})
    from azure.ai.ml.operations._job_ops_helper import get_git_properties

    assert "planted" in str(get_git_properties())
    for case in ("command", "pipeline-component"):
        make_azureml(azureml(case)).submit(a_case(case)[1])
    assert azure.bodies("PUT", "") != []
    assert "planted" not in json.dumps(azure.asked)


def test_the_component_and_the_model_are_read_too() -> None:
    component = loaded(rendered("pipeline-component"), "component.yaml", "load_component")
    assert component.is_deterministic is False
    compare("pipeline-component/component.rest.json", as_json(rest_body(component)))
    model = loaded(rendered("registry-pipeline"), MODEL, "load_model")
    assert (model.name, model.type) == ("support-one", "mlflow_model")
    assert model.path.startswith("azureml://jobs/support-one-")


def test_a_resumed_run_is_not_passed_over_by_a_pipeline() -> None:
    """Its step has the same inputs as before, so that a pipeline that reuses steps would do nothing."""
    files = rendered("pipeline-component")
    assert yaml.safe_load(files[JOB])["settings"]["force_rerun"] is True
    assert yaml.safe_load(files["component.yaml"])["is_deterministic"] is False


def test_hyperparameters_are_text_without_exponents() -> None:
    settled = yaml.safe_load(rendered("finetuning")[JOB])["hyperparameters"]
    assert {type(value) for value in settled.values()} == {str}
    assert (settled["learning_rate"], settled["num_train_epochs"], settled["lora_r"]) == ("0.00002", "3", "16")
    numbers = yaml.safe_load(rendered("finetuning-openai")[JOB])["hyperparameters"]
    assert numbers == {"n_epochs": 3, "learning_rate_multiplier": 0.1, "batch_size": 4}


def test_the_provider_of_openais_models_is_written_as_the_sdk_wants_it() -> None:
    text = rendered("finetuning-openai")[JOB]
    assert "model_provider: azure_open_ai" in text
    with pytest.raises(RecipeError):
        loaded({JOB: text.replace("azure_open_ai", "azure_openai")}, JOB, "load_job")


def test_a_job_without_validation_data_is_made_too() -> None:
    """The SDK's own function for it raises UnboundLocalError there."""
    submission = a_submission(a_recipe(data__validation=0.2))
    files = make_azureml(azureml("finetuning")).render(submission)
    assert "validation_data" not in yaml.safe_load(files[JOB])
    assert "no file is held out" in files[WARNINGS]
    assert rest_body(loaded(files, JOB, "load_job"))


@pytest.mark.parametrize("value", [True, "true"])
def test_onnx_runtimes_training_is_left_out_and_told(value: object) -> None:
    spec = AzureML.model_validate({"kind": "registry-pipeline", **WORKSPACE, "hyperparameters": {"apply_ort": value}})
    files = make_azureml(spec).render(a_submission(a_recipe()))
    assert "apply_ort" not in files[JOB]
    assert "apply_ort" in files[WARNINGS]


def test_switches_are_words_for_the_trainer() -> None:
    settings = {"kind": "registry-pipeline", "hyperparameters": {"auto_find_batch_size": True, "max_steps": 7}}
    values = trainer_settings(a_recipe(), AzureML.model_validate(settings)).values
    assert (values["auto_find_batch_size"], values["max_steps"]) == ("true", 7)


def test_without_compute_the_service_is_told_what_it_lets_choose() -> None:
    files = rendered("finetuning-serverless")
    assert set(yaml.safe_load(files[JOB])["hyperparameters"]) == {"num_train_epochs", "learning_rate"}
    assert "lora_r" in files[WARNINGS]


def test_the_pipeline_of_the_registry_gets_parameters_that_it_has() -> None:
    recipe = a_recipe(
        train__epochs=2,
        train__max_length=512,
        train__patience=3,
        train__validate_every_steps=10,
        train__devices=4,
        train__warmup=0,
        train__schedule="constant",
        train__optimizer="adafactor",
        train__precision="float32",
        strategy="zero3",
        technique={"name": "lora", "rank": 8, "alpha": 16, "dropout": 0.1},
    )
    spec = azureml("registry-pipeline")
    settings = trainer_settings(recipe, spec)
    assert settings.values == {
        "apply_lora": "true",
        "lora_r": 8,
        "lora_alpha": 16,
        "lora_dropout": 0.1,
        "num_train_epochs": 2,
        "optim": "adafactor",
        "max_seq_length": 512,
        "precision": "32",
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": 0,
        "save_total_limit": 2,
        "evaluation_strategy": "steps",
        "eval_steps": 10,
        "apply_early_stopping": "true",
        "early_stopping_patience": 3,
        "apply_deepspeed": "true",
        "deepspeed_stage": "3",
        "number_of_gpu_to_use_finetuning": 4,
        "num_nodes_finetune": 1,
        "per_device_train_batch_size": 2,
    }
    assert settings.values.keys() <= PARAMETERS
    step = yaml.safe_load(rendered("registry-pipeline")[JOB])["jobs"]["chat_completion_pipeline"]
    assert step["component"] == CHAT_PIPELINE
    places = {"mlflow_model_path", "train_file_path", "validation_file_path", "test_file_path"}
    computes = {f"compute_{one}" for one in ("model_import", "preprocess", "finetune", "model_evaluation")}
    assert step["inputs"].keys() - places - computes <= PARAMETERS
    assert trainer_settings(a_recipe(technique="full"), spec).values["apply_lora"] == "false"


@pytest.mark.parametrize(
    ("changed", "place"),
    [
        ({"technique": "dora"}, "technique"),
        ({"technique": "qlora"}, "technique"),
        ({"technique": {"name": "lora", "targets": "attention"}}, "technique.targets"),
        ({"technique": {"name": "lora", "rank_stabilized": True}}, "technique.rank_stabilized"),
        ({"technique": {"name": "lora", "alpha": 12.5}}, "technique.alpha"),
        ({"objective": "dpo"}, "objective"),
        ({"objective": {"name": "sft", "label_smoothing": 0.1}}, "objective"),
        ({"task": "auto"}, "task"),
        ({"task": "preference"}, "task"),
        ({"strategy": "fsdp"}, "strategy"),
        ({"fit": "auto"}, "fit"),
        ({"export": ["merged"]}, "export"),
        ({"evaluate__metrics": ["rouge"]}, "evaluate.metrics"),
        ({"evaluate__multiple_choice": "questions.json"}, "evaluate.multiple_choice"),
        ({"evaluate__learning_curve": True}, "evaluate.learning_curve"),
        ({"train__tokens_per_step": 4096}, "train.tokens_per_step"),
        ({"train__epochs": 1.5}, "train.epochs"),
        ({"train__optimizer": "lion_8bit"}, "train.optimizer"),
        ({"train__precision": "bfloat16"}, "train.precision"),
        ({"train__budget": "10m"}, "train.budget"),
        ({"train__clip": None}, "train.clip"),
        ({"train__warmup": 0.3}, "train.warmup"),
        ({"train__neftune_alpha": 5}, "train.neftune_alpha"),
        ({"train__devices": 2}, "train.devices"),
        ({"data__train": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]}, "data.train"),
        ({"data__columns": {"prompt": "q"}}, "data.columns"),
        ({"data__new_tokens": ["<a>"]}, "data.new_tokens"),
    ],
)
def test_what_the_services_trainer_cannot_do_is_refused_by_name(changed: dict[str, Any], place: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml("finetuning")).render(a_submission(a_recipe(**changed)))
    assert [one.place for one in caught.value.problems] == [place]


def test_all_problems_are_told_at_once() -> None:
    recipe = a_recipe(technique="dora", objective="dpo", train__budget="10m")
    with pytest.raises(RecipeError) as caught:
        trainer_settings(recipe, azureml("finetuning"))
    assert {one.place for one in caught.value.problems} == {"technique", "objective", "train.budget"}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kind": "registry-pipeline", "hyperparameters": {"lora_rank": 3}}, "no such parameter"),
        ({"kind": "registry-pipeline", "hyperparameters": {"lora_r": 3}}, "says this already"),
        ({"kind": "finetuning", "provider": "azure_open_ai", "hyperparameters": {"lora_r": 3}}, "no such setting"),
    ],
)
def test_further_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        trainer_settings(a_recipe(), AzureML.model_validate(settings))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "needs an image"),
        ({"image": "x", "hyperparameters": {"lora_r": 3}}, "takes no hyperparameters"),
        ({"kind": "finetuning", "image": "x"}, "takes no image"),
        ({"kind": "finetuning", "compute": "a", "instance_types": ["b"]}, "one of compute and instance_types"),
        ({"image": "x", "instance_types": ["a", "b"]}, "one of instance_types"),
        ({"kind": "registry-pipeline", "provider": "azure_open_ai"}, "takes no provider"),
    ],
)
def test_settings_that_a_kind_does_not_take_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError) as caught:
        a_recipe(executor={"name": "azureml", **settings})
    assert said in str(caught.value)


def test_models_and_data_that_the_service_cannot_read_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml("finetuning")).render(a_submission(a_recipe(model="smollm2-135m-instruct")))
    assert caught.value.code == "recipe.azureml_model"
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml("finetuning")).render(a_submission(a_recipe(data__train="org/dataset")))
    assert caught.value.code == "recipe.azureml_data"
    files = make_azureml(azureml("finetuning")).render(a_submission(a_recipe(data__train="azureml:train:1")))
    assert yaml.safe_load(files[JOB])["training_data"]["path"] == "azureml:train:1"
    assert loaded(files, JOB, "load_job")


@pytest.mark.parametrize("case", ["command", "pipeline-component"])
def test_several_machines_and_folders_of_others_are_refused(case: str) -> None:
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml(case)).render(replace(a_case(case)[1], nodes=2))
    assert caught.value.place == "train.nodes"
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml(case)).render(replace(a_case(case)[1], run="file:///runs/one"))
    assert caught.value.code == "recipe.run_out_of_reach"


@pytest.mark.parametrize("case", ["command", "finetuning"])
def test_a_job_is_submitted_once_and_followed(azure: FakeAzure, case: str) -> None:
    spec, submission = a_case(case)
    submission = replace(
        submission, recipe=a_recipe(data__train="azureml:train:1", data__validation="azureml:heldout:1")
    )
    for name in ("train", "heldout"):
        azure.put(
            f"{WORKSPACE_PATH}/data/{name}/versions/1",
            {"properties": {"dataType": "uri_file", "dataUri": "azureml://x"}},
        )
    azure.put(f"{WORKSPACE_PATH}/computes/gpus", {"properties": {"computeType": "AmlCompute"}})
    handle = make_azureml(spec).submit(submission)
    assert make_azureml(spec).submit(submission) == handle
    place = f"/jobs/{handle['job']}"
    (body,) = azure.bodies("PUT", place)
    assert body["properties"]["jobType"] == ("Command" if case == "command" else "FineTuning")
    assert body["properties"]["tags"]["tunesmith.key"] == "nightly-7"
    assert make_azureml(spec).status(handle).state == "running"
    azure.logs[f"/logs/{handle['job']}/std_log.txt"] = "one\ntwo\n"
    assert list(make_azureml(spec).logs(handle)) == ["one", "two"]
    make_azureml(spec).cancel(handle)
    assert make_azureml(spec).status(handle).state == "cancelled"
    make_azureml(spec).cancel(handle)
    assert len(azure.bodies("POST", f"{place}/cancel")) == 1
    azure.resources.pop(f"{WORKSPACE_PATH}{place}".lower())
    assert make_azureml(spec).status(handle).state == "lost"
    # Another submission is another job.
    assert make_azureml(spec).submit(replace(submission, key="other"))["job"] != handle["job"]


def test_a_log_that_cannot_be_read_does_not_show_the_key_to_it(azure: FakeAzure) -> None:
    spec, submission = a_case("command")
    azure.put(f"{WORKSPACE_PATH}/computes/gpus", {"properties": {"computeType": "AmlCompute"}})
    handle = make_azureml(spec).submit(submission)
    azure.logs[f"/logs/{handle['job']}/std_log.txt"] = "one\n"
    azure.log_key = "one that has expired"
    with pytest.raises(NetworkError) as caught:
        list(make_azureml(spec).logs(handle))
    assert caught.value.place == "user_logs/std_log.txt"
    assert LOG_KEY not in repr(caught.value.to_json())


def test_a_trainer_of_the_service_tells_each_state_once(azure: FakeAzure) -> None:
    spec, submission = a_case("finetuning")
    submission = replace(submission, recipe=a_recipe(data__train="azureml:train:1"))
    azure.put(
        f"{WORKSPACE_PATH}/data/train/versions/1", {"properties": {"dataType": "uri_file", "dataUri": "azureml://x"}}
    )
    submission = replace(submission, recipe=a_recipe(data__train="azureml:train:1", data__validation=0.1))
    executor = make_azureml(spec)
    assert isinstance(executor, Tells)
    assert not isinstance(make_azureml(azureml("command")), Tells)
    handle = executor.submit(submission)
    told, cursor = executor.tell(handle, None)
    assert [one.type for one in told][-1] == "status"
    assert any("report of ours" in one.data["message"] for one in told if one.type == "warning")
    assert told[-1].data == {"state": "training", "detail": "Running"}
    assert executor.tell(handle, cursor) == ([], cursor)
    job = azure.resources[f"{WORKSPACE_PATH}/jobs/{handle['job']}".lower()]
    job["properties"]["status"] = "Failed"
    told, cursor = executor.tell(handle, cursor)
    assert [one.type for one in told] == ["status", "error"]
    assert json.dumps(told[1].data)
    job["properties"]["status"] = "Completed"
    told, _ = executor.tell(handle, cursor)
    assert told[0].data["state"] == "finished"


def test_the_base_model_is_the_recipes_or_the_executors() -> None:
    assert yaml.safe_load(rendered("finetuning")[JOB])["model"]["path"] == PHI
    files = make_azureml(azureml("finetuning-cluster")).render(a_submission(a_recipe(model="phi-3-mini")))
    assert yaml.safe_load(files[JOB])["model"]["path"] == PHI


def test_a_model_of_the_workspace_is_no_version_of_our_registry(azure: FakeAzure, tmp_path: Path) -> None:
    azure.put(
        f"{WORKSPACE_PATH}/data/train/versions/1", {"properties": {"dataType": "uri_file", "dataUri": "azureml://x"}}
    )
    azure.put(f"{WORKSPACE_PATH}/models/base/versions/3", {"properties": {"modelType": "mlflow_model"}})
    told = {"model": "azureml:base:3", "data__train": "azureml:train:1", "data__validation": 0.1}
    executor = {"name": "azureml", "kind": "registry-pipeline", **THEIRS["registry-pipeline-serverless"]}
    run = submit(a_recipe(executor=executor, **told), tmp_path / "runs", Asked("tuned", "a"))
    job = find_job(tmp_path / "runs", run.name)
    (body,) = azure.bodies("PUT", f"/jobs/{job.handle['job']}")
    assert body["properties"]["inputs"]["mlflow_model_path"]["uri"] == f"{WORKSPACE_PATH}/models/base/versions/3"
    # The SDK looks up none for a fine-tuning job, and would send base:3.
    with pytest.raises(RecipeError) as caught:
        make_azureml(azureml("finetuning")).render(a_submission(a_recipe(**told)))
    assert caught.value.code == "recipe.azureml_model"


def test_by_the_commands_door_a_job_of_the_service_is_followed_to_its_end(azure: FakeAzure, tmp_path: Path) -> None:
    for name in ("train", "heldout"):
        data = {"dataType": "uri_file", "dataUri": "azureml://x"}
        azure.put(f"{WORKSPACE_PATH}/data/{name}/versions/1", {"properties": data})
    executor = {"name": "azureml", "kind": "finetuning", **THEIRS["finetuning"]}
    recipe = a_recipe(executor=executor, data__train="azureml:train:1", data__validation="azureml:heldout:1")
    run = submit(recipe, tmp_path / "runs", Asked("tuned", "a"))
    assert submit(recipe, tmp_path / "runs", Asked("other", "a")).path == run.path
    job = find_job(tmp_path / "runs", "tuned")
    view = look(job)
    assert (view.status.state, view.status.words) == ("running", "Running")
    assert any("chooses itself" in warning for warning in view.run.warnings)
    azure.resources[f"{WORKSPACE_PATH}/jobs/{job.handle['job']}".lower()]["properties"]["status"] = "Failed"
    with pytest.raises(WorkerError) as caught:
        list(follow(job))
    assert caught.value.code == "azure.training"
    assert look(job).status.state == "failed"
    warnings = [event for event in read_events(run.events) if event.type == "warning"]
    assert len(warnings) == len({event.data["message"] for event in warnings})


def test_rendered_by_the_commands_door_files_of_this_machine_are_named(tmp_path: Path) -> None:
    rows = tmp_path / "train.jsonl"
    rows.write_text('{"messages": []}\n')
    recipe = a_recipe(executor={"name": "azureml", "kind": "finetuning", **WORKSPACE}, data__train=str(rows))
    written = render(recipe, tmp_path / "runs", Asked("x", "a"), tmp_path / "out")
    assert [path.name for path in written] == [JOB, WARNINGS]
    assert yaml.safe_load(written[0].read_text())["training_data"]["path"] == str(rows)
