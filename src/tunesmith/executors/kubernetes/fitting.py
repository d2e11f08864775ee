"""What a recipe asks for and a cluster cannot honour: refused by name before anything is submitted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from tunesmith.errors import Problem, RecipeError
from tunesmith.executors.protocol import Submission
from tunesmith.recipe.executors.kubernetes import Kubernetes

_FILE = "file://"


def require_fitting(submission: Submission, spec: Kubernetes) -> None:
    """Refuse what the kind of object that is to be submitted has no place for.

    Raises:
        RecipeError: All problems together.
    """
    problems = [*_machines(submission, spec), *_storage(submission, spec), *_settings(spec)]
    if problems:
        raise RecipeError("the cluster cannot do what the recipe asks for", problems=problems)


def is_folder(place: str) -> bool:
    """Whether an address is that of a folder, and not of a store elsewhere."""
    return place.startswith(_FILE) or "://" not in place


def is_seen(place: str, spec: Kubernetes) -> bool:
    """Whether the pods see what lies at an address: in a store, or on their claim."""
    path = PurePosixPath(place.removeprefix(_FILE))
    mount = PurePosixPath(spec.mount_path)
    return not is_folder(place) or (spec.claim is not None and (path == mount or mount in path.parents))


def _machines(submission: Submission, spec: Kubernetes) -> Iterator[Problem]:
    if submission.nodes > 1 and spec.kind == "job":
        yield Problem(
            "executor.nodes",
            "a Job is one machine: its pods could not find each other",
            "train.nodes",
            str(submission.nodes),
            "set executor.kind to trainjob or rayjob",
        )
    if submission.nodes > 1 and submission.recipe.train.address != "auto":
        yield Problem(
            "executor.address",
            "a pod has an address that nobody knows beforehand",
            "train.address",
            submission.recipe.train.address,
            "leave it out",
        )
    if spec.resources.gpu not in (0, submission.devices):
        yield Problem(
            "executor.gpu",
            f"{submission.devices} devices train on each machine, and would get {spec.resources.gpu} GPUs",
            "executor.resources.gpu",
            str(spec.resources.gpu),
            f"set train.devices to {spec.resources.gpu}, or this to {submission.devices}",
        )


def _storage(submission: Submission, spec: Kubernetes) -> Iterator[Problem]:
    place = submission.run
    if is_folder(place):
        if not is_seen(place, spec):
            yield Problem(
                "executor.claim",
                "the pods do not see the folder in which the run lies",
                "executor.claim",
                place,
                "mount a claim there with executor.claim and executor.mount_path, or use s3:// or az://",
            )
    elif spec.claim is not None:
        yield Problem(
            "executor.claim",
            "the run does not lie on the claim",
            "executor.claim",
            place,
            "leave the claim out, or give a folder below executor.mount_path as --storage",
        )


def _settings(spec: Kubernetes) -> Iterator[Problem]:
    if spec.kind != "trainjob" and spec.runtime is not None:
        yield Problem("executor.runtime", "only a TrainJob has a runtime", "executor.runtime", spec.runtime)
    if spec.secret is None and spec.secret_keys:
        yield Problem("executor.secret", "keys of no Secret", "executor.secret_keys", ", ".join(spec.secret_keys))
    if spec.kind != "trainjob":
        return
    if spec.secret is not None and not spec.secret_keys:
        yield Problem(
            "executor.secret_keys",
            "a TrainJob takes keys of a Secret one by one",
            "executor.secret_keys",
            hint="name those that the worker needs, such as AWS_ACCESS_KEY_ID",
        )
    for place, value in (("ttl_seconds", spec.ttl_seconds), ("retries", spec.retries)):
        if value is not None:
            yield Problem(
                f"executor.{place}",
                "a TrainJob has no such field",
                f"executor.{place}",
                str(value),
                "its runtime says it, see deploy/kubernetes/training-runtime.yaml",
            )
