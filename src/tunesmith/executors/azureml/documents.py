"""What a submission to Azure ML consists of, as the YAML documents that its own tools read.

job.yaml           a command job, a pipeline, or a fine-tuning job
component.yaml     our worker as a component, which job.yaml of kind pipeline-component names
model.yaml         registers what the registry's pipeline has made
"""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path
from typing import Any

import yaml

from tunesmith.errors import RecipeError
from tunesmith.executors.azureml.settings import TASKS, TrainerSettings, trainer_settings
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.azure import AzureML

JOB, COMPONENT, MODEL, WARNINGS = "job.yaml", "component.yaml", "model.yaml", "warnings.txt"
CHAT_PIPELINE = "azureml://registries/azureml/components/chat_completion_pipeline/labels/latest"
# What a pipeline's tuned model is called among its outputs.
TRAINED = "trained_model"
REGISTERED = "registered_model"
_SCHEMAS = "https://azuremlschemas.azureedge.net/latest"
_LONGEST_STEM = 80
_STEPS = ("model_import", "preprocess", "finetune", "model_evaluation")
_DATA_FORMS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")

Document = dict[str, Any]


def job_name(submission: Submission) -> str:
    """The job's name in the workspace: the same for every submission of one key."""
    stem = re.sub(r"[^A-Za-z0-9-]+", "-", submission.name).strip("-")[:_LONGEST_STEM] or "run"
    return f"{stem}-{hashlib.sha256(submission.key.encode()).hexdigest()[:12]}"


def documents(submission: Submission, spec: AzureML) -> tuple[dict[str, Document], tuple[str, ...]]:
    """The documents by file name, and what the service does in its own way.

    Raises:
        RecipeError: The service cannot do what the recipe says; a problem for each such thing.
    """
    if spec.kind == "command":
        return {JOB: command_job(submission, spec)}, ()
    if spec.kind == "pipeline-component":
        return {JOB: component_pipeline(submission, spec), COMPONENT: worker_component(spec)}, ()
    settings = trainer_settings(submission.recipe, spec)
    said = (*settings.warnings, *_about_data(submission))
    if spec.kind == "finetuning":
        return {JOB: finetuning_job(submission, spec, settings)}, said
    return {JOB: registry_pipeline(submission, spec, settings), MODEL: trained_model(submission, spec)}, said


def to_yaml(document: Document) -> str:
    """A document as text; what looks like a number and is text stays text."""
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=120)
    return text


def command_job(submission: Submission, spec: AzureML) -> Document:
    """Our worker as a command job."""
    _require_possible(submission)
    return {
        "$schema": f"{_SCHEMAS}/commandJob.schema.json",
        "type": "command",
        **_names(submission, spec),
        "command": f"python -m tunesmith.worker {shlex.quote(submission.run)}",
        **_container(submission, spec),
        **({"compute": f"azureml:{spec.compute}"} if spec.compute else {}),
        **({"queue_settings": {"job_tier": spec.job_tier}} if spec.job_tier else {}),
    }


def worker_component(spec: AzureML) -> Document:
    """Our worker as a component, for pipelines of one's own too."""
    return {
        "$schema": f"{_SCHEMAS}/commandComponent.schema.json",
        "type": "command",
        "name": "tunesmith_worker",
        "display_name": "Tunesmith worker",
        "description": "Works for a run that lies in a store, and goes on from its last checkpoint.",
        # A step whose inputs are the same as once before would else be passed over, and a resumed run has the same.
        "is_deterministic": False,
        "inputs": {"run": {"type": "string", "description": "The address of the run."}},
        "environment": _environment(spec),
        "command": "python -m tunesmith.worker ${{inputs.run}}",
    }


def component_pipeline(submission: Submission, spec: AzureML) -> Document:
    """A pipeline of one step: our worker as a component."""
    _require_possible(submission)
    step = _container(submission, spec)
    del step["environment"]
    return {
        "$schema": f"{_SCHEMAS}/pipelineJob.schema.json",
        "type": "pipeline",
        **_names(submission, spec),
        "settings": {
            "default_compute": f"azureml:{spec.compute}" if spec.compute else "azureml:serverless",
            "force_rerun": True,
            "continue_on_step_failure": False,
        },
        "jobs": {
            "train": {
                "type": "command",
                "component": f"file:./{COMPONENT}",
                "inputs": {"run": submission.run},
                **step,
                **({"queue_settings": {"job_tier": spec.job_tier}} if spec.job_tier else {}),
            }
        },
    }


def finetuning_job(submission: Submission, spec: AzureML, settings: TrainerSettings) -> Document:
    """The service's own fine-tuning job."""
    validation = submission.recipe.data.validation
    settled = settings.as_text() if spec.provider == "custom" else dict(settings.values)
    document: Document = {
        "$schema": f"{_SCHEMAS}/finetuningJob.schema.json",
        "type": "finetuning",
        **_names(submission, spec),
        "task": TASKS[submission.recipe.task],
        "model_provider": spec.provider,
        "model": {"path": base_model(submission, spec), "type": "mlflow_model"},
        "training_data": _file(submission, submission.recipe.data.train),
    }
    if isinstance(validation, str):
        document["validation_data"] = _file(submission, validation)
    if settled:
        document["hyperparameters"] = settled
    if spec.compute:
        document["compute"] = f"azureml:{spec.compute}"
    if spec.instance_types:
        document["resources"] = {"instance_types": list(spec.instance_types)}
    if spec.job_tier:
        document["queue_settings"] = {"job_tier": spec.job_tier}
    document["outputs"] = {REGISTERED: {"type": "mlflow_model", "name": registered_name(submission, spec)}}
    return document


def registry_pipeline(submission: Submission, spec: AzureML, settings: TrainerSettings) -> Document:
    """The chat completion pipeline of the service's registry, with its parameters."""
    files = {"train_file_path": _file(submission, submission.recipe.data.train)}
    if isinstance(submission.recipe.data.validation, str):
        # It measures with what it calls test data, and chooses the best checkpoint with validation data.
        files["validation_file_path"] = _file(submission, submission.recipe.data.validation)
        files["test_file_path"] = files["validation_file_path"]
    compute = spec.compute or "serverless"
    sizes = {f"instance_type_{step}": spec.instance_types[0] for step in _STEPS} if spec.instance_types else {}
    inputs: Document = {"mlflow_model_path": {"type": "mlflow_model", "path": base_model(submission, spec)}, **files}
    return {
        "$schema": f"{_SCHEMAS}/pipelineJob.schema.json",
        "type": "pipeline",
        **_names(submission, spec),
        "inputs": {name: dict(value) for name, value in inputs.items()},
        "outputs": {TRAINED: {"type": "mlflow_model"}},
        "settings": {"force_rerun": True, "continue_on_step_failure": False},
        "jobs": {
            "chat_completion_pipeline": {
                "type": "pipeline",
                "component": CHAT_PIPELINE,
                "inputs": {
                    **{name: f"${{{{parent.inputs.{name}}}}}" for name in inputs},
                    **{f"compute_{step}": compute for step in _STEPS},
                    **sizes,
                    **settings.values,
                },
                "outputs": {"mlflow_model_folder": f"${{{{parent.outputs.{TRAINED}}}}}"},
            }
        },
    }


def trained_model(submission: Submission, spec: AzureML) -> Document:
    """Registers what the pipeline has made."""
    name = job_name(submission)
    return {
        "$schema": f"{_SCHEMAS}/model.schema.json",
        "name": registered_name(submission, spec),
        "type": "mlflow_model",
        "path": f"azureml://jobs/{name}/outputs/{TRAINED}",
        "tags": _tags(submission),
    }


def base_model(submission: Submission, spec: AzureML) -> str:
    """The address of the base model in a registry or the workspace.

    Raises:
        RecipeError: ``recipe.azureml_model``: neither the recipe's model nor the executor's is one.
    """
    model = spec.model or submission.recipe.model
    # Of a fine-tuning job's model the SDK looks up no short name; it would send it without its beginning.
    if not model.startswith("azureml://" if spec.kind == "finetuning" else "azureml:"):
        raise RecipeError(
            "the service's own trainer takes models of its registry",
            code="recipe.azureml_model",
            place="executor.model" if spec.model else "model",
            value=model,
            hint="azureml://registries/azureml/models/NAME/versions/N; registry-pipeline takes azureml:NAME:VERSION",
        )
    return model


def registered_name(submission: Submission, spec: AzureML) -> str:
    """What the tuned model is registered as."""
    return spec.registered_model or re.sub(r"[^A-Za-z0-9_-]+", "-", submission.name).strip("-")


def _names(submission: Submission, spec: AzureML) -> Document:
    return {
        "name": job_name(submission),
        "display_name": submission.name,
        "experiment_name": spec.experiment,
        "tags": _tags(submission),
        # Else the SDK adds the address of the repository in which the command runs, and that may hold a token.
        "properties": {"azureml.git.dirty": "unknown"},
    }


def _tags(submission: Submission) -> dict[str, str]:
    return {"tunesmith.run": submission.name, "tunesmith.key": submission.key}


def _container(submission: Submission, spec: AzureML) -> Document:
    """What is said of the worker's container, whatever starts it."""
    variables = dict(submission.environment)
    if spec.storage_account is not None:
        variables["AZURE_STORAGE_ACCOUNT_NAME"] = spec.storage_account
    resources: Document = {"instance_count": 1}
    if spec.instance_types:
        resources["instance_type"] = spec.instance_types[0]
    if spec.shared_memory_gib is not None:
        resources["shm_size"] = f"{spec.shared_memory_gib}g"
    found: Document = {"environment": _environment(spec)}
    if variables:
        found["environment_variables"] = variables
    found["resources"] = resources
    if spec.timeout_seconds is not None:
        found["limits"] = {"timeout": spec.timeout_seconds}
    if spec.identity is not None:
        found["identity"] = {"type": "user_identity" if spec.identity == "user" else "managed"}
    return found


def _environment(spec: AzureML) -> str | Document:
    image = spec.image or ""
    return image if image.startswith("azureml:") else {"image": image}


def _file(submission: Submission, source: Any) -> Document:
    """A file of the recipe: where it lies on this machine, or the address that the recipe gives."""
    path = str(submission.inputs.get(str(source), source))
    if not path.startswith(("azureml:", "https://")):
        if not path.lower().endswith(_DATA_FORMS):
            raise RecipeError(
                "the service's own trainer takes one file, or the address of data in the workspace",
                code="recipe.azureml_data",
                place="data",
                value=path,
                hint=f"a file ({', '.join(_DATA_FORMS)}), azureml:NAME:VERSION, or azureml://datastores/...",
            )
        path = Path(path).as_posix()
    return {"type": "uri_file", "path": path}


def _about_data(submission: Submission) -> list[str]:
    if isinstance(submission.recipe.data.validation, str):
        return []
    return ["data.validation is a share: no file is held out, and the trainer measures as it does without one"]


def _require_possible(submission: Submission) -> None:
    if submission.nodes > 1:
        raise RecipeError(
            "a run in a store is worked for by one machine here",
            code="recipe.several_machines",
            place="train.nodes",
            value=submission.nodes,
            hint="nodes: 1 with more devices",
        )
    if submission.run.startswith("file://"):
        raise RecipeError(
            "the machines of a workspace do not have the folder in which the run lies",
            code="recipe.run_out_of_reach",
            place="--storage",
            value=submission.run,
            hint="--storage az://container/runs",
        )
