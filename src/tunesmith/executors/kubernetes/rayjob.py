"""A RayJob of KubeRay: a Ray cluster for one run, with as many machines as the run wants, gone when the run is over.

The head has the run's first machine, the worker group the others. The image needs Ray, and ``wget``, by which KubeRay
asks how its containers are.
"""

from __future__ import annotations

import json
import shlex

from tunesmith.executors.kubernetes.pod import Manifest, container, labels_of, metadata, pod_settings, worker_command
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes

# KubeRay names the container of the pod by which it submits.
SUBMITTER = "ray-job-submitter"
_GROUP = "machines"


def ray_job(submission: Submission, spec: Kubernetes) -> Manifest:
    """The RayJob of a run."""
    cluster: Manifest = {"headGroupSpec": {"rayStartParams": {}, "template": _template(submission, spec, "ray-head")}}
    if submission.nodes > 1:
        others = submission.nodes - 1
        cluster["workerGroupSpecs"] = [
            {
                "groupName": _GROUP,
                "replicas": others,
                "minReplicas": others,
                "maxReplicas": others,
                "rayStartParams": {},
                "template": _template(submission, spec, "ray-worker"),
            }
        ]
    asked = {"activeDeadlineSeconds": spec.deadline_seconds, "ttlSecondsAfterFinished": spec.ttl_seconds}
    gpus = {"entrypointNumGpus": spec.resources.gpu} if spec.resources.gpu and submission.nodes == 1 else {}
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": metadata(submission, spec),
        "spec": {
            "entrypoint": shlex.join(_entrypoint(submission, spec)),
            **gpus,
            "submissionMode": "K8sJobMode",
            "shutdownAfterJobFinishes": True,
            **{name: value for name, value in asked.items() if value is not None},
            "backoffLimit": spec.retries or 0,
            "rayClusterSpec": cluster,
        },
    }


def _entrypoint(submission: Submission, spec: Kubernetes) -> list[str]:
    if submission.nodes == 1:
        return worker_command(submission)
    launcher = ["python", "-P", "-m", "tunesmith.launchers.ray_train", submission.run]
    return [*launcher, "--workers", str(submission.nodes), "--resources", json.dumps(_of_each(spec))]


def _of_each(spec: Kubernetes) -> dict[str, int]:
    """What each machine of the training asks of Ray, which counts whole cores."""
    cores = spec.resources.cpu or "1"
    found = {"CPU": max(1, int(float(cores))) if cores.replace(".", "").isdigit() else 1}
    return {**found, "GPU": spec.resources.gpu} if spec.resources.gpu else found


def _template(submission: Submission, spec: Kubernetes, name: str) -> Manifest:
    return {
        "metadata": {"labels": labels_of(submission.key)},
        "spec": {**pod_settings(spec), "containers": [container(submission, spec, name)]},
    }
