"""A Ray cluster: each run is a job of Ray, submitted to the cluster's dashboard by Ray's own client.

One machine is one job whose command is the worker. Several machines (``train.nodes``) are a job whose command asks Ray
Train for that many workers (:mod:`tunesmith.launchers.ray_train`). Either way resources are asked of Ray, which places
the work and lets its autoscaler add nodes; nothing is tied to a node.

Ray refuses a second job of one submission id, so the id is made of the submission's key.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tunesmith.errors import NetworkError, RunError, Stopped, TunesmithError, UsageError, missing_extra
from tunesmith.executors.environment import ALLOCATOR
from tunesmith.executors.protocol import Handle, JobState, JobStatus, Submission
from tunesmith.recipe.executors.ray import Ray

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

# The dashboard's own variable comes first, as in Ray's command line.
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
_HEADERS_VARIABLE = "RAY_JOB_HEADERS"
# The worker saves a checkpoint and brings it to the store before it ends; Ray by itself would wait for 3 seconds.
_STOP_SECONDS = 60
_STATES: Mapping[str, JobState] = {
    "PENDING": "queued",
    "RUNNING": "running",
    "STOPPED": "cancelled",
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
}
# How Ray's client tells of answers other than 200.
_GONE, _REFUSED = "status code 404", "status code 4"
_ID_DIGITS = 32


class RayJobs:
    """Jobs of one cluster."""

    def __init__(self, spec: Ray) -> None:
        self._spec = spec

    def submit(self, submission: Submission) -> Handle:
        """See :class:`tunesmith.executors.protocol.Executor`.

        Raises:
            UsageError: No cluster is named, or what is asked for cannot be.
            RunError: ``job.refused``: Ray refuses the job; ``job.key_taken``: the key is that of another run.
            NetworkError: The cluster does not answer.
        """
        request = job_request(self._spec, submission)
        name = request["submission_id"]
        client = connect(self._spec.address)
        with telling(client.get_address()):
            try:
                client.submit_job(**request)
            except (RuntimeError, ValueError) as error:
                known = _find(client, name)
                if known is None and isinstance(error, ValueError):
                    # Ray's client looks at packages and folders before it sends anything.
                    raise _refused(error) from error
                if known is None:
                    raise
                if (known.metadata or {}).get("tunesmith_run") != submission.run:
                    raise RunError(
                        "the cluster has a job of this key for another run",
                        code="job.key_taken",
                        place=name,
                        value=(known.metadata or {}).get("tunesmith_run"),
                        hint="choose another --key",
                    ) from error
        return {"submission_id": name, "address": client.get_address()}

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        client = connect(handle["address"])
        with telling(client.get_address()):
            details = _find(client, handle["submission_id"])
        if details is None:
            return JobStatus("lost", reason="the cluster knows nothing of this job")
        words = str(details.status.value)
        if details.driver_exit_code == Stopped.exit_code:
            return JobStatus(_STATES[words], "stopped at a checkpoint")
        return JobStatus(_STATES[words], words, _reason(details) if words == "FAILED" else None)

    def logs(self, handle: Handle) -> Iterator[str]:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        client = connect(handle["address"])
        with telling(client.get_address()):
            known = _find(client, handle["submission_id"])
            text = client.get_job_logs(handle["submission_id"]) if known is not None else ""
        yield from text.splitlines()

    def cancel(self, handle: Handle) -> None:
        """See :class:`tunesmith.executors.protocol.Executor`; the worker is given a minute to end in good order."""
        client = connect(handle["address"])
        with telling(client.get_address()):
            details = _find(client, handle["submission_id"])
            if details is not None and not details.status.is_terminal():
                client.stop_job(handle["submission_id"])

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The request as it is sent to ``/api/jobs/`` of the dashboard."""
        return {"ray-job.json": json.dumps(job_request(self._spec, submission), indent=2) + "\n"}


def job_request(spec: Ray, submission: Submission) -> dict[str, Any]:
    """What is asked of Ray, by the names of its Jobs API.

    Raises:
        UsageError: ``usage.ray_gpus``: GPUs and devices do not agree.
    """
    if spec.gpus not in (0, submission.devices):
        raise UsageError(
            "each process of a machine trains on one GPU",
            code="usage.ray_gpus",
            place="executor.gpus",
            value=f"{spec.gpus} GPUs for {submission.devices} devices",
            hint="let executor.gpus be train.devices, or 0",
        )
    request: dict[str, Any] = {
        "entrypoint": shlex.join(_command(spec, submission)),
        "submission_id": f"tunesmith-{hashlib.sha256(submission.key.encode()).hexdigest()[:_ID_DIGITS]}",
        "metadata": {"job_name": submission.name, "tunesmith_run": submission.run},
        "runtime_env": runtime_environment(spec, submission.environment),
    }
    if submission.nodes == 1:
        request["entrypoint_num_cpus"] = spec.cpus
        request["entrypoint_num_gpus"] = spec.gpus
        if spec.memory_gib is not None:
            request["entrypoint_memory"] = int(spec.memory_gib * 2**30)
        if spec.resources:
            request["entrypoint_resources"] = dict(spec.resources)
    return request


def runtime_environment(spec: Ray, variables: Mapping[str, str]) -> dict[str, Any]:
    """What Ray sees to before a process of ours starts: variables, packages, a folder."""
    environment: dict[str, Any] = {
        "env_vars": {
            **ALLOCATOR,
            "OMP_NUM_THREADS": str(spec.cpus),
            "RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_SECONDS),
            **variables,
        }
    }
    if spec.pip:
        environment["pip"] = list(spec.pip)
    if spec.working_directory is not None:
        environment["working_dir"] = spec.working_directory
    return environment


def asked_resources(spec: Ray) -> dict[str, float]:
    """What one machine's worker asks for, by Ray's names."""
    memory = {} if spec.memory_gib is None else {"memory": int(spec.memory_gib * 2**30)}
    gpus = {"GPU": spec.gpus} if spec.gpus else {}
    return {"CPU": spec.cpus, **gpus, **memory, **spec.resources}


def connect(address: str | None) -> JobSubmissionClient:
    """Ray's client for the jobs of a cluster.

    Args:
        address: As a recipe or a handle names it; None for what the environment names.

    Raises:
        UsageError: ``usage.missing_extra``, or ``usage.ray_address``: no cluster is named.
        NetworkError: It does not answer.
    """
    try:
        from ray.job_submission import JobSubmissionClient
    except ImportError as error:
        raise missing_ray(error) from error
    wanted = address or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), None)
    if wanted is None:
        raise UsageError(
            "no Ray cluster is named",
            code="usage.ray_address",
            place="executor.address",
            hint="give executor.address=http://HOST:8265, or set RAY_ADDRESS",
        )
    with telling(wanted), _without_addresses():
        return JobSubmissionClient(wanted, headers=request_headers())


@contextmanager
def telling(address: str) -> Iterator[None]:
    """Turn what Ray's client raises into an error of ours: nobody answers, or the cluster refuses."""
    try:
        yield
    except TunesmithError:
        raise
    except (OSError, RuntimeError) as error:
        if _REFUSED in str(error):
            raise _refused(error) from error
        raise NetworkError(
            "the Ray cluster did not do what was asked",
            code="network.ray",
            place=address,
            value=f"{type(error).__name__}: {_first_line(error)}",
            hint="check the address and that the cluster's dashboard answers there",
        ) from error


def missing_ray(error: ImportError) -> UsageError:
    """What is told where Ray is not installed."""
    return missing_extra("Ray needs a library that is not installed", "ray", value=error.name)


def _command(spec: Ray, submission: Submission) -> list[str]:
    python = ["python", "-P", "-m"]
    if submission.nodes > 1:
        workers = ["--workers", str(submission.nodes), "--resources", json.dumps(asked_resources(spec))]
        failures = ["--max-failures", str(spec.max_failures)]
        return [*python, "tunesmith.launchers.ray_train", submission.run, *workers, *failures]
    if spec.max_failures > 0:
        return [
            *python,
            "tunesmith.launchers.attempts",
            submission.run,
            "--max-failures",
            str(spec.max_failures),
        ]
    return [*python, "tunesmith.worker", submission.run]


@contextmanager
def _without_addresses() -> Iterator[None]:
    """Hide the environment's addresses while the client is made: Ray would take them over the one that it is given."""
    before = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(before)


def request_headers() -> dict[str, Any] | None:
    """Headers for clusters that ask for credentials, where Ray's command line reads them too."""
    text = os.environ.get(_HEADERS_VARIABLE)
    if not text:
        return None
    try:
        headers = json.loads(text)
    except json.JSONDecodeError:
        headers = None
    if not isinstance(headers, dict):
        # The value is a secret.
        raise UsageError("this variable is not a JSON object", code="usage.ray_headers", place=_HEADERS_VARIABLE)
    return headers


def _find(client: JobSubmissionClient, name: str) -> JobDetails | None:
    try:
        return client.get_job_info(name)
    except RuntimeError as error:
        if _GONE in str(error):
            return None
        raise


def _refused(error: Exception) -> TunesmithError:
    return RunError("Ray refuses what was asked", code="job.refused", value=_first_line(error))


def _reason(details: JobDetails) -> str | None:
    """Why Ray says that a job failed, without the end of the log that it adds."""
    return _first_line(details.message) if details.message else None


def _first_line(said: object) -> str:
    return str(said).strip().partition("\n")[0][:300]
