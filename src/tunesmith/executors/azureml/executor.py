"""Jobs of Azure Machine Learning through its official SDK: our worker, or a trainer of the service's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.errors import WorkerError
from tunesmith.executors.azure_place import telling_azure
from tunesmith.executors.azureml.client import loaded, log_lines, open_workspace, quiet, written
from tunesmith.executors.azureml.documents import (
    JOB,
    REGISTERED,
    TRAINED,
    WARNINGS,
    documents,
    job_name,
    registered_name,
    to_yaml,
)
from tunesmith.executors.protocol import ENDED, Executor, Handle, JobState, JobStatus, Submission, Told
from tunesmith.recipe.executors.azure import AzureML

_STATES: Mapping[str, JobState] = {
    "NotStarted": "queued",
    "Starting": "queued",
    "Provisioning": "queued",
    "Preparing": "queued",
    "Queued": "queued",
    "Running": "running",
    "Finalizing": "running",
    "CancelRequested": "running",
    "NotResponding": "running",
    "Unknown": "running",
    "Paused": "paused",
    "Completed": "succeeded",
    "Failed": "failed",
    "Canceled": "cancelled",
}
# What an event says of a trainer of the service's own, by our words for states of a run.
_TOLD: Mapping[JobState, str] = {
    "queued": "preparing",
    "running": "training",
    "paused": "stopped",
    "succeeded": "finished",
    "failed": "failed",
    "cancelled": "cancelled",
    "lost": "failed",
}


def make_azureml(spec: AzureML) -> Executor:
    """The executor of a kind of job: one that starts our worker, or one whose service trains by itself."""
    return OwnTrainer(spec) if spec.trains_itself else AzureMLJobs(spec)


class AzureMLJobs:
    """See :class:`tunesmith.executors.protocol.Executor`."""

    def __init__(self, spec: AzureML) -> None:
        self._spec = spec
        self._client: Any = None

    def submit(self, submission: Submission) -> Handle:
        """See :class:`tunesmith.executors.protocol.Executor`.

        Raises:
            RecipeError: The service cannot do what the recipe says.
        """
        files, warnings = self._files(submission)
        name = job_name(submission)
        if self._get(name) is None:
            client = self._workspace()
            with written(files) as folder, telling_azure(f"job {name}"), quiet():
                client.jobs.create_or_update(loaded(folder, JOB, "load_job"))
        return {
            "job": name,
            "kind": self._spec.kind,
            "registered_model": registered_name(submission, self._spec),
            "warnings": list(warnings),
        }

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        job = self._get(str(handle["job"]))
        if job is None:
            return JobStatus("lost", reason="the workspace knows no such job")
        # The SDK gives a word for some kinds of job, and a member of an enumeration for others.
        words = str(getattr(job.status, "value", job.status) or "Unknown")
        state = _STATES.get(words, "running")
        studio = getattr(job, "studio_url", None)
        return JobStatus(state, words, f"see {studio}" if state == "failed" and studio else None)

    def logs(self, handle: Handle) -> Iterator[str]:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        yield from log_lines(self._workspace(), str(handle["job"]))

    def cancel(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        if self.status(handle).state in ENDED:
            return
        name = str(handle["job"])
        with telling_azure(f"job {name}"), quiet():
            self._workspace().jobs.begin_cancel(name).wait()

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The YAML that ``az ml job create --file job.yaml`` takes, and what the service does in its own way."""
        files, warnings = self._files(submission)
        told = {WARNINGS: "".join(f"{one}\n" for one in warnings)} if warnings else {}
        return {**files, **told}

    def _files(self, submission: Submission) -> tuple[dict[str, str], tuple[str, ...]]:
        found, warnings = documents(submission, self._spec)
        return {name: to_yaml(document) for name, document in found.items()}, warnings

    def _workspace(self) -> Any:
        if self._client is None:
            self._client = open_workspace(self._spec.subscription, self._spec.resource_group, self._spec.workspace)
        return self._client

    def _get(self, name: str) -> Any:
        """The job as the workspace has it; None where it has none."""
        client = self._workspace()
        with telling_azure(f"job {name}"), quiet():
            from azure.core.exceptions import ResourceNotFoundError

            try:
                return client.jobs.get(name)
            except ResourceNotFoundError:
                return None


class OwnTrainer(AzureMLJobs):
    """A job whose trainer is the service's own; see :class:`tunesmith.executors.protocol.Tells` too."""

    def tell(self, handle: Handle, cursor: str | None) -> tuple[Sequence[Told], str | None]:
        """What the service does in its own way, once; then each state that it was seen in."""
        status = self.status(handle)
        told = [] if cursor is not None else [_warning(one) for one in handle.get("warnings") or []]
        if status.words != cursor:
            told.append(Told("status", {"state": _TOLD[status.state], "detail": status.words}))
            if status.state in ("failed", "lost"):
                error = WorkerError(
                    "the service's trainer failed", code="azure.training", place=str(handle["job"]), value=status.reason
                )
                told.append(Told("error", error.to_json()))
        return told, status.words

    def fetch(self, handle: Handle, folder: Path) -> Sequence[Path]:
        """Bring the tuned model into ``azureml/``, and register what the registry's pipeline has made."""
        name, target = str(handle["job"]), folder / "azureml"
        output = REGISTERED if handle["kind"] == "finetuning" else TRAINED
        client = self._workspace()
        with telling_azure(f"job {name}"), quiet():
            from azure.ai.ml.entities import Model

            client.jobs.download(name, download_path=target, output_name=output)
            if output == TRAINED:
                place = f"azureml://jobs/{name}/outputs/{TRAINED}"
                registered = str(handle["registered_model"])
                client.models.create_or_update(Model(path=place, name=registered, type="mlflow_model"))
        return sorted(path for path in target.rglob("*") if path.is_file())


def _warning(message: str) -> Told:
    return Told("warning", {"code": "azureml.own_way", "message": message})
