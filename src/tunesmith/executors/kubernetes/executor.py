"""Runs on a cluster of Kubernetes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import yaml

from tunesmith.executors.kubernetes.cluster import JOB, RAY_JOB, TRAIN_JOB, Cluster, Kind
from tunesmith.executors.kubernetes.fitting import require_fitting
from tunesmith.executors.kubernetes.job import CONTAINER as JOB_CONTAINER
from tunesmith.executors.kubernetes.job import job
from tunesmith.executors.kubernetes.pod import Manifest
from tunesmith.executors.kubernetes.rayjob import SUBMITTER, ray_job
from tunesmith.executors.kubernetes.states import state_of
from tunesmith.executors.kubernetes.trainjob import CONTAINER as TRAIN_JOB_CONTAINER
from tunesmith.executors.kubernetes.trainjob import train_job
from tunesmith.executors.protocol import Handle, JobStatus, Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes


@dataclass(frozen=True)
class Form:
    """One kind of object that does a run: how it is written, and where its worker's pods and lines are found."""

    kind: Kind
    manifest: Callable[[Submission, Kubernetes], Manifest]
    pod_label: str
    container: str


FORMS: Mapping[str, Form] = {
    "job": Form(JOB, job, "batch.kubernetes.io/job-name", JOB_CONTAINER),
    "trainjob": Form(TRAIN_JOB, train_job, "jobset.sigs.k8s.io/jobset-name", TRAIN_JOB_CONTAINER),
    # Its submitter prints what the entrypoint prints, and is a Job of the RayJob's name.
    "rayjob": Form(RAY_JOB, ray_job, "batch.kubernetes.io/job-name", SUBMITTER),
}


class KubernetesExecutor:
    """See :class:`tunesmith.executors.protocol.Executor`; what is submitted can be rendered."""

    def __init__(self, spec: Kubernetes) -> None:
        self._spec = spec
        self._clusters: dict[str, Cluster] = {}

    def render(self, submission: Submission) -> Mapping[str, str]:
        """The manifest that would be submitted."""
        require_fitting(submission, self._spec)
        manifest = FORMS[self._spec.kind].manifest(submission, self._spec)
        return {f"{self._spec.kind}.yaml": yaml.safe_dump(manifest, sort_keys=False)}

    def submit(self, submission: Submission) -> Handle:
        """Make the object; its name comes of run and key, so that a repeated submission finds it there."""
        require_fitting(submission, self._spec)
        form = FORMS[self._spec.kind]
        made = self._cluster(self._spec.namespace).make(form.kind, form.manifest(submission, self._spec))
        return {"kind": self._spec.kind, "namespace": self._spec.namespace, "name": made["metadata"]["name"]}

    def status(self, handle: Handle) -> JobStatus:
        """See :class:`tunesmith.executors.protocol.Executor`."""
        form, cluster = FORMS[handle["kind"]], self._cluster(handle["namespace"])
        found = cluster.find(form.kind, handle["name"])
        if found is None:
            return JobStatus("lost", "not there", f"the cluster has no {form.kind.name} {handle['name']}")
        return state_of(found, cluster.pods(f"{form.pod_label}={handle['name']}"))

    def logs(self, handle: Handle) -> Iterator[str]:
        """The lines of all pods that are there, the oldest first."""
        form, cluster = FORMS[handle["kind"]], self._cluster(handle["namespace"])
        for pod in cluster.pods(f"{form.pod_label}={handle['name']}"):
            yield from cluster.log(pod["metadata"]["name"], form.container)

    def cancel(self, handle: Handle) -> None:
        """Remove the object with its pods; those get the time to say their last words."""
        form, cluster = FORMS[handle["kind"]], self._cluster(handle["namespace"])
        found = cluster.find(form.kind, handle["name"])
        if found is not None and state_of(found, []).state in ("queued", "running"):
            cluster.remove(form.kind, handle["name"])

    def _cluster(self, namespace: str) -> Cluster:
        # Kept: some kubeconfigs start a program to log in.
        return self._clusters.setdefault(namespace, Cluster(self._spec.context, namespace))
