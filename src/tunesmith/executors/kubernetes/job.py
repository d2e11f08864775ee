"""A plain Job of Kubernetes: one machine, and a worker that is replaced when it dies."""

from __future__ import annotations

from tunesmith.errors import CLASSES, Stopped
from tunesmith.executors.kubernetes.pod import Manifest, container, labels_of, metadata, pod_settings, worker_command
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes

CONTAINER = "worker"
_RETRIES = 3


def job(submission: Submission, spec: Kubernetes) -> Manifest:
    """The Job of a run."""
    asked = {"activeDeadlineSeconds": spec.deadline_seconds, "ttlSecondsAfterFinished": spec.ttl_seconds}
    worker = {**container(submission, spec, CONTAINER), "command": worker_command(submission)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(submission, spec),
        "spec": {
            "backoffLimit": _RETRIES if spec.retries is None else spec.retries,
            **{name: value for name, value in asked.items() if value is not None},
            # Two workers of one run would only wait for one another.
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": {"rules": failure_rules(CONTAINER)},
            "template": {
                "metadata": {"labels": labels_of(submission.key)},
                "spec": {**pod_settings(spec), "restartPolicy": "Never", "containers": [worker]},
            },
        },
    }


def failure_rules(container_name: str) -> list[Manifest]:
    """A machine that is taken away does not count as a try; what another try would not mend ends the job at once."""
    final = sorted({one.exit_code for one in CLASSES if not one.retryable} - {Stopped.exit_code})
    return [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": container_name, "operator": "In", "values": final}},
    ]
