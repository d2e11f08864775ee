"""What the platform says of a job, as a job's state. Pure functions of plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.executors.protocol import JobState, JobStatus

Object = Mapping[str, Any]

# Of KubeRay's jobDeploymentStatus: what is not named here waits for its cluster.
_RAY_ENDS: Mapping[str, JobState] = {"SUCCEEDED": "succeeded", "STOPPED": "cancelled", "FAILED": "failed"}


def state_of(found: Object, pods: Sequence[Object]) -> JobStatus:
    """The state of a Job, TrainJob or RayJob.

    Args:
        found: The object as the API server has it.
        pods: The pods in which its worker runs, oldest first.
    """
    if found.get("metadata", {}).get("deletionTimestamp"):
        return JobStatus("cancelled", "being removed")
    if found["kind"] == "RayJob":
        return _ray(found, pods)
    return _conditions(found, pods)


def _conditions(found: Object, pods: Sequence[Object]) -> JobStatus:
    """A Job or a TrainJob, which tell their ends in the same way."""
    status = found.get("status") or {}
    true = {one["type"]: one for one in status.get("conditions") or [] if one.get("status") == "True"}
    if "Complete" in true:
        return JobStatus("succeeded", "Complete")
    if "Failed" in true:
        return JobStatus("failed", _words(true["Failed"]), why_ended(pods) or true["Failed"].get("message"))
    if "Suspended" in true:
        return JobStatus("queued", _words(true["Suspended"]))
    return _by_pods(pods)


def _ray(found: Object, pods: Sequence[Object]) -> JobStatus:
    status = found.get("status") or {}
    deployment, job = status.get("jobDeploymentStatus") or "", status.get("jobStatus") or ""
    words = " ".join(one for one in (deployment, job) if one) or "new"
    if deployment == "Complete":
        return JobStatus(_RAY_ENDS.get(job, "failed"), words, status.get("message"))
    if deployment in ("Failed", "ValidationFailed"):
        reason = " ".join(one for one in (status.get("reason"), status.get("message")) if one)
        return JobStatus("failed", words, reason or why_ended(pods))
    return JobStatus("running" if deployment == "Running" and job == "RUNNING" else "queued", words)


def _by_pods(pods: Sequence[Object]) -> JobStatus:
    """A job that has not ended: the newest pods say what it does or waits for."""
    phases = [one.get("status", {}).get("phase", "Pending") for one in pods]
    if "Running" in phases:
        return JobStatus("running", "Running")
    waiting = [one for one, phase in zip(pods, phases, strict=True) if phase == "Pending"]
    if waiting:
        return JobStatus("queued", why_waiting(waiting[-1]))
    return JobStatus("queued", "no pod yet" if not pods else "the next pod is to come")


def is_waiting(pod: Object) -> bool:
    """Whether a pod has not begun, or its container waits to begin once more."""
    status = pod.get("status", {})
    containers = [one.get("state") or {} for one in status.get("containerStatuses") or []]
    return status.get("phase") == "Pending" or any("waiting" in one for one in containers)


def why_waiting(pod: Object) -> str:
    """What a pod waits for: a node, an image, a volume."""
    status = pod.get("status", {})
    for one in status.get("containerStatuses") or []:
        waiting = (one.get("state") or {}).get("waiting")
        if waiting:
            return _words(waiting)
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _words(condition)
    return "Pending"


def why_ended(pods: Sequence[Object]) -> str | None:
    """What the last container that ended badly ended with."""
    for pod in reversed(pods):
        status = pod.get("status", {})
        for one in status.get("containerStatuses") or []:
            ended = (one.get("state") or {}).get("terminated")
            if ended and ended.get("exitCode"):
                return f"the worker ended with code {ended['exitCode']} ({ended.get('reason') or 'Error'})"
        if status.get("phase") == "Failed" and status.get("reason"):
            return _words(status)
    return None


def _words(told: Object) -> str:
    reason, message = told.get("reason") or "", (told.get("message") or "").strip()
    return f"{reason}: {message}" if reason and message else reason or message
