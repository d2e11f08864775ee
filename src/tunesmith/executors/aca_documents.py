"""What a submission to Container Apps consists of, as plain data: the job, one execution of it, and AI Toolkit's files.

AI Toolkit's remote fine-tuning provisions a job once and then starts executions of it, each with commands of its own
that are joined and given to a shell. Its files have these names and keys:

    infra/provision/finetuning.parameters.json    parameters of its finetuning.bicep, which makes the job
    infra/finetuning.config.json                  which job there is, and the commands of the next execution
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from typing import Any

from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.azure import ContainerApps

API_VERSION = "2025-01-01"
# By this variable a submission that is repeated finds its execution again.
KEY_VARIABLE = "TUNESMITH_SUBMISSION"
_PARAMETERS_SCHEMA = "https://schema.management.azure.com/schemas/2019-04-01/deploymentParameters.json#"
_MOST_INSTANCES = 1


def commands(spec: ContainerApps, run: str) -> list[str]:
    """What the shell of an execution does, one after another."""
    # The worker takes the shell's place, so that a request to stop reaches it.
    worker = f"exec python -m tunesmith.worker {shlex.quote(run)}"
    mount = [f"cd {shlex.quote(spec.mount_path)}"] if spec.file_share else []
    return ["set -e", *mount, *spec.setup_commands, worker]


def environment_variables(spec: ContainerApps, submission: Submission) -> list[dict[str, str]]:
    """Variables of the worker; those that are secret name what they come from."""
    plain = {**submission.environment, KEY_VARIABLE: submission.key}
    if spec.storage_account is not None:
        plain["AZURE_STORAGE_ACCOUNT_NAME"] = spec.storage_account
    return [
        *({"name": name, "value": value} for name, value in plain.items()),
        *({"name": name, "secretRef": secret_name(name, secret)} for name, secret in spec.secrets.items()),
    ]


def secret_name(variable: str, secret: str) -> str:
    """What the job calls a secret: the name that is given; for one of a Key Vault, a name made from the variable."""
    return variable.lower().replace("_", "-").strip("-") if is_vault_secret(secret) else secret


def is_vault_secret(secret: str) -> bool:
    """Whether this is the address of a secret, and no name that the job knows."""
    return secret.startswith("https://")


def execution(spec: ContainerApps, submission: Submission) -> dict[str, Any]:
    """The body of a start: the container of this execution."""
    return {
        "containers": [
            {
                "image": spec.image,
                "name": spec.job,
                "command": ["/bin/bash", "-c", "; ".join(commands(spec, submission.run))],
                "env": environment_variables(spec, submission),
                "resources": {"cpu": spec.cpu, "memory": f"{spec.memory_gib:g}Gi"},
            }
        ]
    }


def job(spec: ContainerApps, submission: Submission, environment_id: str, location: str | None) -> dict[str, Any]:
    """The body that makes the job, with the container of its first execution."""
    container = execution(spec, submission)["containers"][0]
    template: dict[str, Any] = {"containers": [container]}
    if spec.file_share is not None:
        volume = f"{spec.file_share}volume"
        container["volumeMounts"] = [{"volumeName": volume, "mountPath": spec.mount_path}]
        storage = spec.environment_storage or spec.file_share
        template["volumes"] = [{"name": volume, "storageType": "AzureFile", "storageName": storage}]
    configuration: dict[str, Any] = {
        "triggerType": "Manual",
        "replicaTimeout": spec.timeout_seconds,
        "replicaRetryLimit": spec.retries,
        "manualTriggerConfig": {"replicaCompletionCount": 1, "parallelism": 1},
    }
    vault = {name: secret for name, secret in spec.secrets.items() if is_vault_secret(secret)}
    if vault:
        configuration["secrets"] = [
            {"name": secret_name(name, secret), "keyVaultUrl": secret, "identity": spec.identity}
            for name, secret in vault.items()
        ]
    properties: dict[str, Any] = {
        "environmentId": environment_id,
        "configuration": configuration,
        "template": template,
    }
    if spec.gpu_profile is not None:
        properties["workloadProfileName"] = spec.gpu_profile
    return {"location": location, "identity": _identity(spec), "properties": properties}


def differences(spec: ContainerApps, there: Mapping[str, Any], environment_id: str) -> list[tuple[str, str, str]]:
    """Where a job is not what the recipe says, and an execution cannot say otherwise: key, there, wanted."""
    properties = there.get("properties") or {}
    configuration = properties.get("configuration") or {}
    volumes = (properties.get("template") or {}).get("volumes") or []
    pairs: list[tuple[str, Any, Any]] = [
        ("environment", str(properties.get("environmentId")).lower(), environment_id.lower()),
        ("gpu_profile", properties.get("workloadProfileName") or "Consumption", spec.gpu_profile or "Consumption"),
        ("timeout_seconds", configuration.get("replicaTimeout"), spec.timeout_seconds),
        ("retries", configuration.get("replicaRetryLimit") or 0, spec.retries),
    ]
    if spec.file_share is not None:
        wanted = spec.environment_storage or spec.file_share
        mounted = sorted(str(one.get("storageName")) for one in volumes)
        pairs.append(("environment_storage", wanted if wanted in mounted else ", ".join(mounted) or "none", wanted))
    known = {str(one.get("name")) for one in configuration.get("secrets") or []}
    pairs.extend(
        (f"secrets.{variable}", name if (name := secret_name(variable, secret)) in known else "not there", name)
        for variable, secret in spec.secrets.items()
    )
    return [(key, str(is_there), str(wanted)) for key, is_there, wanted in pairs if is_there != wanted]


def toolkit_parameters(spec: ContainerApps, run: str, location: str | None) -> dict[str, Any]:
    """``finetuning.parameters.json``; what is null is chosen by finetuning.bicep."""
    values: dict[str, Any] = {
        "defaultCommands": commands(spec, run),
        "maximumInstanceCount": _MOST_INSTANCES,
        "timeout": spec.timeout_seconds,
        "location": location,
        "storageAccountName": spec.storage_account,
        "fileShareName": spec.file_share,
        "acaEnvironmentName": spec.environment,
        "acaEnvironmentStorageName": spec.environment_storage or spec.file_share,
        "acaJobName": spec.job,
        "acaLogAnalyticsName": None,
    }
    return {
        "$schema": _PARAMETERS_SCHEMA,
        "contentVersion": "1.0.0.0",
        "parameters": {name: {"value": value} for name, value in values.items()},
    }


def toolkit_config(spec: ContainerApps, run: str, place: Mapping[str, str]) -> dict[str, Any]:
    """``finetuning.config.json``, by which AI Toolkit finds the job and starts an execution."""
    return {
        "SUBSCRIPTION_ID": place.get("subscription"),
        "RESOURCE_GROUP_NAME": place.get("resource_group"),
        "STORAGE_ACCOUNT_NAME": spec.storage_account,
        "FILE_SHARE_NAME": spec.file_share,
        "ACA_JOB_NAME": spec.job,
        "COMMANDS": commands(spec, run),
    }


def _identity(spec: ContainerApps) -> dict[str, Any]:
    if spec.identity is None:
        return {"type": "None"}
    if re.fullmatch("system", spec.identity, re.IGNORECASE):
        return {"type": "SystemAssigned"}
    return {"type": "UserAssigned", "userAssignedIdentities": {spec.identity: {}}}
