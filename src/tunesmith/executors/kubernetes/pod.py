"""The pod that a worker runs in: its name, its labels, its command, and what it may do. Pure functions."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes
from tunesmith.storage.run_store import SILENT_SECONDS

Manifest = dict[str, Any]

KEY_LABEL = "tunesmith/key"
_NAME_CHARACTERS = 28
_KEY_CHARACTERS = 40
# The account that deploy/Dockerfile makes; no pod of ours runs as root.
_USER = 1000
_CACHE = "/cache"
# To finish a step, write a checkpoint and bring it into the store.
_GRACE_SECONDS = 120
# A worker of the run that died is known to be dead only by its silence.
_PATIENCE_SECONDS = int(SILENT_SECONDS) + 30
# Pods of one job are told apart by their index; the first owns the run, the others lend themselves to it.
_BY_INDEX = (
    'if [ "${JOB_COMPLETION_INDEX:-0}" = 0 ]; then exec python -P -m tunesmith.worker "$@"; fi; '
    'exec python -P -m tunesmith.worker "$1" --stage node'
)


def object_name(name: str, key: str) -> str:
    """A name that every kind of object takes, the same for the same key: two submissions of one key meet in it."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower())[:_NAME_CHARACTERS].strip("-")
    stem = stem if stem[:1].isalpha() else f"run-{stem}".strip("-")
    return f"{stem}-{hash_of(key)[:8]}"


def hash_of(key: str) -> str:
    """A key as a label's value, which may not hold every character of a key."""
    return hashlib.sha256(key.encode()).hexdigest()[:_KEY_CHARACTERS]


def labels_of(key: str) -> dict[str, str]:
    """The labels of everything that is made under a key."""
    return {"app.kubernetes.io/name": "tunesmith", "app.kubernetes.io/managed-by": "tunesmith", KEY_LABEL: hash_of(key)}


def metadata(submission: Submission, spec: Kubernetes) -> Manifest:
    """Name, namespace and labels of the object that is submitted; the whole key and the run are annotations."""
    return {
        "name": object_name(submission.name, submission.key),
        "namespace": spec.namespace,
        "labels": labels_of(submission.key),
        "annotations": {"tunesmith/key": submission.key, "tunesmith/run": submission.run},
    }


def worker_command(submission: Submission) -> list[str]:
    """The worker's command.

    Where the run was asked to pause or cancel, ending so is no failure: a platform would start the worker again.
    """
    arguments = [submission.run, "--patience", str(_PATIENCE_SECONDS), "--asked-is-well"]
    if submission.nodes == 1:
        return ["python", "-P", "-m", "tunesmith.worker", *arguments]
    return ["sh", "-c", _BY_INDEX, "sh", *arguments]


def variables(submission: Submission, spec: Kubernetes, *, each_key: bool) -> list[Manifest]:
    """The worker's variables; a Secret's come by reference, never by value.

    Args:
        submission: The run.
        spec: The recipe's executor.
        each_key: Whether each of the Secret's keys is named, where the whole Secret cannot be.
    """
    plain = [{"name": name, "value": value} for name, value in sorted(environment(submission).items())]
    keys = spec.secret_keys if each_key or spec.secret_keys else ()
    secret = [{"name": key, "valueFrom": {"secretKeyRef": {"name": spec.secret, "key": key}}} for key in keys]
    return [*plain, *secret]


def environment(submission: Submission) -> dict[str, str]:
    """The plain variables of the worker: those of the submission, and where it may write."""
    return {"HOME": _CACHE, "TUNESMITH_CACHE": _CACHE, **submission.environment}


def resources(spec: Kubernetes) -> Manifest:
    """What a container asks for and may have at most."""
    asked = {"cpu": spec.resources.cpu, "memory": spec.resources.memory}
    found = {name: value for name, value in asked.items() if value is not None}
    if spec.resources.gpu:
        found[spec.resources.gpu_name] = str(spec.resources.gpu)
    return {"requests": dict(found), "limits": dict(found)} if found else {}


def container(submission: Submission, spec: Kubernetes, name: str) -> Manifest:
    """The worker's container, without a command."""
    found: Manifest = {
        "name": name,
        "image": spec.image,
        "env": variables(submission, spec, each_key=False),
        "securityContext": container_security(),
        "volumeMounts": mounts(spec),
    }
    if spec.secret is not None and not spec.secret_keys:
        found["envFrom"] = [{"secretRef": {"name": spec.secret}}]
    if asked := resources(spec):
        found["resources"] = asked
    return found


def pod_settings(spec: Kubernetes) -> Manifest:
    """Everything of a pod but its containers."""
    found: Manifest = {
        "securityContext": pod_security(),
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
        "volumes": volumes(spec),
    }
    if spec.service_account is not None:
        found["serviceAccountName"] = spec.service_account
    if spec.node_selector:
        found["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        found["tolerations"] = [one.model_dump(exclude_none=True) for one in spec.tolerations]
    return found


def volumes(spec: Kubernetes) -> list[Manifest]:
    """Room for working copies and caches, shared memory for several GPUs, and the claim on which runs lie."""
    found: list[Manifest] = [{"name": "cache", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]
    if spec.resources.gpu > 1:
        found.append({"name": "shared-memory", "emptyDir": {"medium": "Memory"}})
    if spec.claim is not None:
        found.append({"name": "runs", "persistentVolumeClaim": {"claimName": spec.claim}})
    return found


def mounts(spec: Kubernetes) -> list[Manifest]:
    """Where the volumes are seen."""
    places = {"cache": _CACHE, "tmp": "/tmp", "shared-memory": "/dev/shm", "runs": spec.mount_path}  # noqa: S108
    return [{"name": volume["name"], "mountPath": places[volume["name"]]} for volume in volumes(spec)]


def pod_security() -> Manifest:
    """Not as root; what is written to a claim belongs to the group of the pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security() -> Manifest:
    """No way to more rights."""
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
