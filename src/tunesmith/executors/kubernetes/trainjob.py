"""A TrainJob of Kubeflow Trainer: one machine or several, on the runtime that the cluster's owner keeps.

The first pod of its job ``node`` owns the run; the others lend themselves to it. Container settings that belong to the
training go into ``trainer``, those of the pod into a patch of the runtime, which is where Kubeflow takes each.
"""

from __future__ import annotations

from tunesmith.executors.kubernetes.pod import (
    Manifest,
    container_security,
    labels_of,
    metadata,
    mounts,
    pod_settings,
    resources,
    variables,
    worker_command,
)
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes

GROUP = "trainer.kubeflow.org"
RUNTIME = "torch-distributed"
# What the trainer's job and its container are called in the runtimes of Kubeflow.
CONTAINER = "node"


def train_job(submission: Submission, spec: Kubernetes) -> Manifest:
    """The TrainJob of a run."""
    trainer: Manifest = {
        "image": spec.image,
        "command": worker_command(submission),
        "numNodes": submission.nodes,
        "env": variables(submission, spec, each_key=True),
    }
    if asked := resources(spec):
        trainer["resourcesPerNode"] = asked
    deadline = {} if spec.deadline_seconds is None else {"activeDeadlineSeconds": spec.deadline_seconds}
    return {
        "apiVersion": f"{GROUP}/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata(submission, spec),
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": spec.runtime or RUNTIME},
            **deadline,
            "trainer": trainer,
            "runtimePatches": [_patch(submission, spec)],
        },
    }


def _patch(submission: Submission, spec: Kubernetes) -> Manifest:
    pod = {
        **pod_settings(spec),
        "containers": [{"name": CONTAINER, "securityContext": container_security(), "volumeMounts": mounts(spec)}],
    }
    job = {"template": {"metadata": {"labels": labels_of(submission.key)}, "spec": pod}}
    replicated = {"replicatedJobs": [{"name": CONTAINER, "template": {"spec": job}}]}
    return {"manager": "tunesmith/executor", "trainingRuntimeSpec": {"template": {"spec": replicated}}}
