"""Run the worker as an execution of a job of Azure Container Apps.

The job is made by the first submission, unless AI Toolkit or somebody else has made it. Every submission is an
execution of it, found again by a variable that holds the submission's key.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from tunesmith.errors import NetworkError, Problem, RecipeError, RunError
from tunesmith.executors import aca_documents as documents
from tunesmith.executors.azure_arm import ResourceManager
from tunesmith.executors.azure_place import resolved_place
from tunesmith.executors.protocol import ENDED, Handle, JobState, JobStatus, Submission
from tunesmith.recipe.executors.azure import ContainerApps

_STATES: Mapping[str, JobState] = {
    "processing": "queued",
    "running": "running",
    "degraded": "running",
    "unknown": "running",
    "succeeded": "succeeded",
    "failed": "failed",
    "stopped": "cancelled",
}
_ANSWERS_WITHIN_SECONDS = 120.0
_MOST_LINES = 100_000


class ContainerAppsJobs:
    """See :class:`tunesmith.executors.protocol.Executor`."""

    def __init__(self, spec: ContainerApps, *, poll_seconds: float = 2.0) -> None:
        self._spec = spec
        self._manager = ResourceManager(spec.resource_manager, poll_seconds)
        self._poll_seconds = poll_seconds

    def submit(self, submission: Submission) -> Handle:
        """See :class:`tunesmith.executors.protocol.Executor`.

        Raises:
            RecipeError: ``recipe.several_machines``; ``recipe.run_out_of_reach``; ``recipe.aca_job``: the job that is
                there is another one.
            RunError: Azure refuses it, or there is no such environment.
        """
        _require_possible(self._spec, submission)
        place = resolved_place({"subscription": self._spec.subscription, "resource_group": self._spec.resource_group})
        group = (
            f"/subscriptions/{place['subscription']}/resourceGroups/{place['resource_group']}/providers/Microsoft.App"
        )
        job_path = f"{group}/jobs/{self._spec.job}"
        environment_path = f"{group}/managedEnvironments/{self._spec.environment}"
        environment = self._manager.get(environment_path, documents.API_VERSION)
        if environment is None:
            raise RunError("there is no such Container Apps environment", code="azure.missing", place=environment_path)
        environment_id = str(environment.get("id") or environment_path)
        there = self._manager.get(job_path, documents.API_VERSION)
        if there is None:
            self._make_job(job_path, submission, environment_id, str(environment.get("location") or "") or None)
        else:
            self._require_same(there, environment_id)
        name = self._find(job_path, submission.key) if there is not None else None
        return {
            "job": job_path,
            "execution": name or self._start(job_path, submission),
            "environment": environment_path,
        }

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        found = self._manager.get(_execution_path(handle), documents.API_VERSION)
        if found is None:
            return JobStatus("lost", reason="Container Apps knows no such execution")
        properties = found.get("properties") or {}
        words = str(properties.get("status") or "Unknown")
        state = _STATES.get(words.lower(), "running")
        said = properties.get("message") or properties.get("reason")
        return JobStatus(state, words, str(said) if said and state == "failed" else None)

    def logs(self, handle: Handle) -> Iterator[str]:
        """The lines that Log Analytics has by now, which is some minutes behind.

        Raises:
            RunError: ``azure.no_logs``: the environment sends its logs elsewhere.
            TunesmithError: It is refused, or there is no answer.
        """
        query = (
            "ContainerAppConsoleLogs_CL"
            f" | where ContainerGroupName_s startswith '{handle['execution']}'"
            f" | order by TimeGenerated asc | take {_MOST_LINES} | project Log_s"
        )
        path = f"/v1/workspaces/{self._log_workspace(handle)}/query"
        answer = ResourceManager(self._spec.log_analytics).post(path, {"query": query}, None) or {}
        tables = answer.get("tables") or []
        for row in tables[0].get("rows") or [] if tables else []:
            yield str(row[0])

    def cancel(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        if self.status(handle).state not in ENDED:
            self._manager.post(f"{_execution_path(handle)}/stop", None, documents.API_VERSION)

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The job and its execution as they would be sent, and the files of AI Toolkit that say the same."""
        _require_possible(self._spec, submission)
        spec = self._spec
        place = {"subscription": spec.subscription, "resource_group": spec.resource_group}
        found = {key: value or f"<{key}>" for key, value in place.items()}
        environment = (
            f"/subscriptions/{found['subscription']}/resourceGroups/{found['resource_group']}"
            f"/providers/Microsoft.App/managedEnvironments/{spec.environment}"
        )
        named = {key: value for key, value in place.items() if value}
        files = {
            "infra/provision/job.json": documents.job(spec, submission, environment, None),
            "infra/provision/start.json": documents.execution(spec, submission),
            "infra/provision/finetuning.parameters.json": documents.toolkit_parameters(spec, submission.run, None),
            "infra/finetuning.config.json": documents.toolkit_config(spec, submission.run, named),
        }
        return {name: orjson.dumps(body, option=orjson.OPT_INDENT_2).decode() + "\n" for name, body in files.items()}

    def _make_job(self, path: str, submission: Submission, environment_id: str, location: str | None) -> None:
        unknown = [name for name, secret in self._spec.secrets.items() if not documents.is_vault_secret(secret)]
        if unknown:
            raise RecipeError(
                "the job is not there yet, so it knows no secrets",
                code="recipe.aca_job",
                place="executor.secrets",
                value=", ".join(unknown),
                hint="name secrets of a Key Vault, or make the job first and give it its secrets",
            )
        self._manager.put(path, documents.job(self._spec, submission, environment_id, location), documents.API_VERSION)

    def _require_same(self, there: Mapping[str, Any], environment_id: str) -> None:
        found = documents.differences(self._spec, there, environment_id)
        if found:
            raise RecipeError(
                "there is a job of that name which is another one",
                problems=[
                    Problem(
                        "recipe.aca_job", "is not what the job has", f"executor.{key}", wanted, f"there: {is_there}"
                    )
                    for key, is_there, wanted in found
                ],
                hint="choose another executor.job, or say what the job has",
            )

    def _start(self, job_path: str, submission: Submission) -> str:
        answer = self._manager.post(
            f"{job_path}/start", documents.execution(self._spec, submission), documents.API_VERSION
        )
        if answer is None:
            raise RunError("the job went away", code="azure.missing", place=job_path)
        if answer.get("name"):
            return str(answer["name"])
        # It was taken, and its name is not yet known.
        end = time.monotonic() + _ANSWERS_WITHIN_SECONDS
        while (name := self._find(job_path, submission.key)) is None:
            if time.monotonic() > end:
                raise NetworkError("Azure started nothing that can be seen", code="network.azure", place=job_path)
            time.sleep(self._poll_seconds)
        return name

    def _find(self, job_path: str, key: str) -> str | None:
        """The execution of a submission's key."""
        for one in self._manager.pages(f"{job_path}/executions", documents.API_VERSION):
            template = (one.get("properties") or {}).get("template") or {}
            for container in template.get("containers") or []:
                for variable in container.get("env") or []:
                    if variable.get("name") == documents.KEY_VARIABLE and variable.get("value") == key:
                        return str(one["name"])
        return None

    def _log_workspace(self, handle: Handle) -> str:
        """The id of the Log Analytics workspace that gets the environment's logs."""
        environment = self._manager.get(str(handle["environment"]), documents.API_VERSION) or {}
        settings = (environment.get("properties") or {}).get("appLogsConfiguration") or {}
        found = (settings.get("logAnalyticsConfiguration") or {}).get("customerId")
        if not found:
            raise RunError(
                "the environment keeps no logs in Log Analytics",
                code="azure.no_logs",
                place=str(handle["environment"]),
                value=settings.get("destination"),
                hint="look where it sends them; what the run itself told is in `tunesmith jobs show`",
            )
        return str(found)


def _execution_path(handle: Handle) -> str:
    return f"{handle['job']}/executions/{handle['execution']}"


def _require_possible(spec: ContainerApps, submission: Submission) -> None:
    if submission.nodes > 1:
        raise RecipeError(
            "an execution is one container, which cannot reach others",
            code="recipe.several_machines",
            place="train.nodes",
            value=submission.nodes,
            hint="nodes: 1, and a larger gpu_profile",
        )
    mounted = spec.file_share is not None and submission.run.startswith(f"file://{spec.mount_path.rstrip('/')}/")
    if submission.run.startswith("file://") and not mounted:
        raise RecipeError(
            "the container does not have the folder in which the run lies",
            code="recipe.run_out_of_reach",
            place="--storage",
            value=submission.run,
            hint="--storage az://container/runs, or a folder below mount_path with file_share",
        )
