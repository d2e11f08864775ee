"""What a cluster's controllers do, as far as a job's life goes: pods begin, end, are replaced, are removed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from storage_servers import free_port

if TYPE_CHECKING:
    from fake_kubernetes import FakeKubernetes

# Ten seconds and more on a cluster; nobody wants to wait for it here.
_BACKOFF_SECONDS = 0.2
_TICK_SECONDS = 0.05
_RESTARTS = 6


@dataclass
class Pod:
    """A pod of one container, which is a process of this machine."""

    name: str
    namespace: str
    labels: dict[str, str]
    container: dict[str, Any]
    log: Path
    created: str
    grace_seconds: float
    process: subprocess.Popen[bytes] | None = None
    waiting: tuple[str, str] | None = None
    ready: bool = False
    port: int | None = None

    @property
    def has_begun(self) -> bool:
        return self.process is not None

    @property
    def exit_code(self) -> int | None:
        """As a container's: 128 and the signal's number for a process that one ended."""
        code = None if self.process is None else self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def end(self, patience_seconds: float) -> None:
        """SIGTERM, and SIGKILL for who does not heed it."""
        if self.process is None or self.process.poll() is not None:
            return
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(min(patience_seconds, self.grace_seconds))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def to_json(self) -> dict[str, Any]:
        code = self.exit_code
        state: dict[str, Any] = {"running": {"startedAt": self.created}}
        phase = "Running" if self.has_begun else "Pending"
        if self.waiting is not None:
            state = {"waiting": {"reason": self.waiting[0], "message": self.waiting[1]}}
        elif code is not None:
            phase = "Failed" if code else "Succeeded"
            reason = "Error" if code else "Completed"
            state = {"terminated": {"exitCode": code, "reason": "OOMKilled" if code == 137 else reason}}
        status = {"name": self.container["name"], "state": state, "ready": self.ready, "restartCount": 0}
        status |= {"image": self.container["image"], "imageID": ""}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self.name, "labels": self.labels, "creationTimestamp": self.created},
            "spec": {"containers": [self.container]},
            "status": {"phase": phase, "containerStatuses": [status]},
        }


@dataclass
class Stop:
    """A controller's thread for one object, and how it is told that the object is removed."""

    work: Callable[[FakeKubernetes, dict[str, Any], Stop], None]
    cluster: FakeKubernetes
    made: dict[str, Any]
    asked: threading.Event = field(default_factory=threading.Event)
    pods: list[Pod] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self.work, args=(self.cluster, self.made, self), daemon=True)
        self._thread.start()

    def end(self, patience_seconds: float = 30.0) -> None:
        """Nothing begins any more, pods end and are gone."""
        self.asked.set()
        for pod in self.pods:
            pod.end(patience_seconds)
        self._thread.join(patience_seconds)
        # One may have begun in the last moment.
        for pod in self.pods:
            pod.end(patience_seconds)
        with self.cluster.lock:
            for pod in self.pods:
                self.cluster.pods.pop(pod.name, None)

    def tell(self, **status: Any) -> None:
        """Write into the object's status."""
        with self.cluster.lock:
            self.made.setdefault("status", {}).update(status)

    def conclude(self, kind: str, reason: str, message: str = "") -> None:
        """The condition with which the object ends."""
        moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        told = {"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": moment}
        self.tell(conditions=[told])

    def run(self, spec: Mapping[str, Any], labels: dict[str, str], deadline: float, **variables: str) -> int | None:
        """Begin a pod and wait for its end; its exit code, None where the object was removed or its time is over."""
        pod = begin(self.cluster, self.made, spec, labels, variables)
        self.pods.append(pod)
        while pod.exit_code is None:
            if self.asked.wait(_TICK_SECONDS):
                return None
            if time.monotonic() > deadline:
                pod.end(30.0)
                return None
        return pod.exit_code


def begin(
    cluster: FakeKubernetes,
    made: Mapping[str, Any],
    spec: Mapping[str, Any],
    labels: dict[str, str],
    variables: Mapping[str, str],
) -> Pod:
    """A pod of a template; it waits, as on a cluster, where its image, a Secret or a claim is not there."""
    (container,) = spec["containers"]
    name = f"{made['metadata']['name']}-{uuid.uuid4().hex[:5]}"
    place = cluster.folder / "pods" / name
    place.mkdir(parents=True)
    moment = datetime.now(UTC).isoformat()
    grace = float(spec.get("terminationGracePeriodSeconds", 30))
    pod = Pod(name, made["metadata"]["namespace"], labels, container, place / "log", moment, grace)
    pod.log.touch()
    with cluster.lock:
        cluster.pods[name] = pod
    try:
        mounts = _mounts(cluster, spec, container, place)
        given = _variables(cluster, container)
        programs = cluster.images[container["image"]]
    except LookupError as error:
        pod.waiting = ("CreateContainerError", str(error))
        return pod
    given = {key: _mounted(value, mounts) for key, value in given.items()}
    given = {
        "PATH": f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin",
        "PYTHONUNBUFFERED": "1",
        **cluster.image_variables,
        **given,
        **variables,
        "TMPDIR": _mounted("/tmp", mounts),
    }
    command = list(container["command"])
    for one in container.get("ports", []):
        # A pod has an address of its own, and processes here share one.
        pod.port = free_port()
        command = [str(pod.port) if word == str(one["containerPort"]) else word for word in command]
    with pod.log.open("ab") as log:
        pod.process = subprocess.Popen(
            command, env=given, cwd=place, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    return pod


def _mounts(
    cluster: FakeKubernetes, spec: Mapping[str, Any], container: Mapping[str, Any], place: Path
) -> dict[str, Path]:
    volumes = {one["name"]: one for one in spec.get("volumes", [])}
    found = {}
    for one in container.get("volumeMounts", []):
        volume, path = volumes[one["name"]], one["mountPath"]
        if "persistentVolumeClaim" in volume:
            folder = cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
            assert Path(path) == folder, f"this cluster can mount {folder} only where it lies, and not at {path}"
        else:
            shared = cluster.cache if one["name"] == "cache" else None
            folder = shared or place / one["name"]
            folder.mkdir(exist_ok=True)
        found[path] = folder
    return found


def _mounted(value: str, mounts: Mapping[str, Path]) -> str:
    for path, folder in sorted(mounts.items(), reverse=True):
        if value == path or value.startswith(f"{path}/"):
            return f"{folder}{value.removeprefix(path)}"
    return value


def _variables(cluster: FakeKubernetes, container: Mapping[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in container.get("envFrom", []):
        found |= cluster.secrets[one["secretRef"]["name"]]
    for one in container.get("env", []):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        found[one["name"]] = one["value"] if reference is None else cluster.secrets[reference["name"]][reference["key"]]
    return found


def _deadline(spec: Mapping[str, Any]) -> float:
    return time.monotonic() + float(spec.get("activeDeadlineSeconds") or 1e6)


def _job(_cluster: FakeKubernetes, made: dict[str, Any], stop: Stop) -> None:
    spec, failures = made["spec"], 0
    template = spec["template"]
    labels = {**template["metadata"].get("labels", {}), "batch.kubernetes.io/job-name": made["metadata"]["name"]}
    deadline = _deadline(spec)
    while not stop.asked.is_set():
        code = stop.run(template["spec"], labels, deadline)
        if code is None:
            if not stop.asked.is_set():
                stop.conclude("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")
            return
        if code == 0:
            stop.conclude("Complete", "CompletionsReached")
            return
        action = _action(spec.get("podFailurePolicy", {}), code)
        failures += action == "Count"
        if action == "FailJob":
            stop.conclude("Failed", "PodFailurePolicy", f"Container failed with exit code {code}")
            return
        if failures > spec.get("backoffLimit", _RESTARTS):
            stop.conclude("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            return
        stop.asked.wait(_BACKOFF_SECONDS)


def _action(policy: Mapping[str, Any], code: int) -> str:
    for rule in policy.get("rules", []):
        asked = rule.get("onExitCodes")
        if asked is not None and (code in asked["values"]) == (asked["operator"] == "In"):
            return str(rule["action"])
    return "Count"


def _train_job(cluster: FakeKubernetes, made: dict[str, Any], stop: Stop) -> None:
    spec, trainer = made["spec"], made["spec"]["trainer"]
    pod, labels = _of_runtime(cluster.runtimes[spec["runtimeRef"]["name"]], spec)
    container = pod["containers"][0]
    container |= {key: trainer[key] for key in ("image", "command") if key in trainer}
    container["env"] = [*container.get("env", []), *trainer.get("env", [])]
    labels |= {"jobset.sigs.k8s.io/jobset-name": made["metadata"]["name"]}
    deadline, nodes = _deadline(spec), trainer.get("numNodes", 1)
    ends: list[int | None] = [None] * nodes

    def node(index: int) -> None:
        for _ in range(1 + _RESTARTS):
            ends[index] = stop.run(pod, dict(labels), deadline, JOB_COMPLETION_INDEX=str(index))
            if not ends[index] or stop.asked.wait(_BACKOFF_SECONDS):
                return

    threads = [threading.Thread(target=node, args=(index,), daemon=True) for index in range(nodes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not stop.asked.is_set():
        well = all(code == 0 for code in ends)
        over = time.monotonic() > deadline
        failed = ("Failed", "DeadlineExceeded" if over else "TrainJobFailed", f"pods ended with {ends}")
        stop.conclude(*(("Complete", "JobsCompleted") if well else failed))


def _of_runtime(runtime: Mapping[str, Any], spec: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The pod of the runtime's job ``node`` with the patches on it, and its labels."""
    jobs = {one["name"]: one for one in json.loads(json.dumps(runtime))["spec"]["template"]["spec"]["replicatedJobs"]}
    template = jobs["node"]["template"]["spec"]["template"]
    pod, labels = template["spec"], template.get("metadata", {}).get("labels", {})
    for patch in spec.get("runtimePatches", []):
        for one in patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]:
            assert one["name"] == "node"
            patched = one["template"]["spec"]["template"]
            labels |= patched.get("metadata", {}).get("labels", {})
            for container in patched["spec"].get("containers", []):
                (same,) = [each for each in pod["containers"] if each["name"] == container["name"]]
                same |= container
            pod |= {key: value for key, value in patched["spec"].items() if key != "containers"}
    return pod, labels


def _ray_job(_cluster: FakeKubernetes, made: dict[str, Any], stop: Stop) -> None:
    spec = made["spec"]
    head = json.loads(json.dumps(spec["rayClusterSpec"]["headGroupSpec"]["template"]))
    head["spec"]["containers"][0] |= {"name": "ray-job-submitter", "command": ["sh", "-c", spec["entrypoint"]]}
    labels = {"batch.kubernetes.io/job-name": made["metadata"]["name"]}
    stop.tell(jobDeploymentStatus="Initializing", jobStatus="")
    deadline = _deadline(spec)
    for left in reversed(range(1 + spec.get("backoffLimit", 0))):
        stop.tell(jobDeploymentStatus="Running", jobStatus="RUNNING")
        code = stop.run(head["spec"], labels, deadline)
        if stop.asked.is_set():
            return
        if code == 0:
            stop.tell(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED", message="Job finished successfully.")
            return
        if code is None:
            stop.tell(jobDeploymentStatus="Failed", jobStatus="STOPPED", reason="DeadlineExceeded")
            return
        stop.tell(jobDeploymentStatus="Retrying" if left else "Failed", jobStatus="FAILED", reason="AppFailed")
        stop.tell(message=f"Job entrypoint command failed with exit code {code}")
        stop.asked.wait(_BACKOFF_SECONDS)


def _deployment(cluster: FakeKubernetes, made: dict[str, Any], stop: Stop) -> None:
    spec = made["spec"]
    template = spec["template"]
    labels = template["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    stop.pods += [begin(cluster, made, template["spec"], labels, {}) for _ in range(spec["replicas"])]
    while not stop.asked.wait(_TICK_SECONDS):
        for pod in stop.pods:
            probes = pod.container
            pod.ready = pod.exit_code is None and all(
                _answers(pod, probes[kind]["httpGet"]) for kind in ("startupProbe", "readinessProbe", "livenessProbe")
            )
        stop.tell(availableReplicas=sum(pod.ready for pod in stop.pods), replicas=len(stop.pods))
        if stop.pods and all(pod.exit_code is not None for pod in stop.pods):
            told = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
            stop.tell(conditions=[{**told, "message": "no replica came up"}])


def _answers(pod: Pod, probe: Mapping[str, Any]) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{pod.port}{probe['path']}", timeout=1) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


CONTROLLERS: Mapping[str, Callable[[FakeKubernetes, dict[str, Any], Stop], None]] = {
    "Job": _job,
    "TrainJob": _train_job,
    "RayJob": _ray_job,
    "Deployment": _deployment,
}
