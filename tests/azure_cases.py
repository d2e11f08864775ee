"""Submissions to Azure, the same in every test: recipes by the kind of executor, and what a golden file holds."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath
from typing import Any

from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.azure import AzureML, ContainerApps
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe

GOLDEN = Path(__file__).parent / "unit" / "executors" / "golden" / "azure"
PHI = "azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/14"
PLACE = {"subscription": "11111111-2222-3333-4444-555555555555", "resource_group": "lab"}
WORKSPACE = {**PLACE, "workspace": "tuning"}
IMAGE = "registry.example.com/tunesmith:1"
VAULT = "https://lab.vault.azure.net/secrets/hub-token"

OURS: dict[str, dict[str, Any]] = {
    "command": {
        **WORKSPACE,
        "image": IMAGE,
        "compute": "gpus",
        "identity": "managed",
        "storage_account": "labstore",
        "timeout_seconds": 7200,
        "shared_memory_gib": 16,
    },
    "command-serverless": {
        **WORKSPACE,
        "image": "azureml:tunesmith:3",
        "instance_types": ["Standard_NC24ads_A100_v4"],
        "job_tier": "spot",
    },
    "pipeline-component": {**WORKSPACE, "image": IMAGE, "compute": "gpus", "identity": "user", "timeout_seconds": 7200},
}
THEIRS: dict[str, dict[str, Any]] = {
    "finetuning": {**WORKSPACE, "instance_types": ["Standard_NC96ads_A100_v4", "Standard_E4s_v3"]},
    "finetuning-cluster": {
        **WORKSPACE,
        "compute": "gpus",
        "model": PHI,
        "registered_model": "support",
        "job_tier": "spot",
    },
    "finetuning-serverless": WORKSPACE,
    "finetuning-openai": {
        **WORKSPACE,
        "provider": "azure_open_ai",
        "model": "azureml://registries/azure-openai-v2/models/gpt-4/versions/9",
        "hyperparameters": {"learning_rate_multiplier": 0.1, "batch_size": 4},
    },
    "registry-pipeline": {**WORKSPACE, "compute": "gpus", "hyperparameters": {"per_device_train_batch_size": 2}},
    "registry-pipeline-serverless": {**WORKSPACE, "instance_types": ["Standard_NC24ads_A100_v4"]},
}
ACA: dict[str, Any] = {
    **PLACE,
    "environment": "lab-env",
    "job": "tuner",
    "image": IMAGE,
    "storage_account": "labstore",
    "file_share": "runs",
    "environment_storage": "lab-env-runs",
    "identity": "system",
    "secrets": {"HF_TOKEN": VAULT},
    "setup_commands": ["pip install tunesmith"],
}


def azureml(case: str) -> AzureML:
    """The executor of a case; a case begins with its kind."""
    kind = next(
        one for one in ("command", "pipeline-component", "finetuning", "registry-pipeline") if case.startswith(one)
    )
    return AzureML.model_validate({"name": "azureml", "kind": kind, **{**OURS, **THEIRS}[case]})


def aca(**changed: Any) -> ContainerApps:
    """The executor for Container Apps, with changes."""
    return ContainerApps.model_validate({"name": "aca", **ACA, **changed})


def a_recipe(**changed: Any) -> Recipe:
    """A recipe for a chat model, with changes by dotted keys."""
    plain: dict[str, Any] = {
        "model": PHI,
        "task": "chat",
        "data": {"train": "inputs/train/train.jsonl", "validation": "inputs/validation/heldout.jsonl"},
    }
    for key, value in changed.items():
        section, _, leaf = key.partition("__")
        if leaf:
            plain.setdefault(section, {})[leaf] = value
        else:
            plain[section] = value
    return parse_recipe(plain, "the test")


def a_submission(recipe: Recipe, **changed: Any) -> Submission:
    """A submission of a recipe, with the same name and key every time."""
    inputs = {
        "inputs/train/train.jsonl": PurePosixPath("/data/train.jsonl"),
        "inputs/validation/heldout.jsonl": PurePosixPath("/data/heldout.jsonl"),
    }
    told: dict[str, Any] = {
        "name": "support.one",
        "key": "nightly-7",
        "run": "az://runs/support.one",
        "recipe": recipe,
        "inputs": {name: Path(path) for name, path in inputs.items()},
        "devices": recipe.train.devices,
        "nodes": recipe.train.nodes,
        **changed,
    }
    return Submission(**told)


def compare(name: str, text: str) -> None:
    """Hold a text to its golden file; with TUNESMITH_WRITE_GOLDEN=1 it is written instead."""
    path = GOLDEN / name
    if os.environ.get("TUNESMITH_WRITE_GOLDEN") == "1":
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == text, f"{name} changed; if that is meant, set TUNESMITH_WRITE_GOLDEN=1"


def as_json(body: Any) -> str:
    """A REST body as a golden file has it."""
    return json.dumps(body, indent=2, sort_keys=True) + "\n"
