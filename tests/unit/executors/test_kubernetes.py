"""Kubernetes: what is submitted is what the schemas take, one key is one job, and every end is told with its reason."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kubernetes import TOKEN, FakeKubernetes, serve_kubernetes
from kubernetes_schemas import problems_of, require_schemas

from tunesmith.errors import NetworkError, RecipeError, RunError, TunesmithError, UsageError
from tunesmith.executors.kubernetes.executor import FORMS, KubernetesExecutor
from tunesmith.executors.kubernetes.states import state_of
from tunesmith.executors.protocol import Handle, Submission
from tunesmith.executors.table import make_executor, needs_store
from tunesmith.recipe.executors.kubernetes import Kubernetes
from tunesmith.recipe.load import load_recipe, parse_recipe

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[3]
IMAGE = "registry.example.com/tunesmith:1"
SECRET = "planted-in-a-secret-8e21"
PATIENCE_SECONDS = 20.0
FULL = {
    "image": IMAGE,
    "namespace": "team",
    "service_account": "trainer",
    "secret": "credentials",
    "secret_keys": ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    "resources": {"cpu": 8, "memory": "64Gi", "gpu": 2},
    "node_selector": {"gpu": "a100"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "deadline_seconds": 7200,
}
CASES: Mapping[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "job-small": ({"image": IMAGE}, {}),
    "job-claim": ({"image": IMAGE, "claim": "runs"}, {"run": "file:///runs/one"}),
    "job-full": ({**FULL, "ttl_seconds": 3600, "retries": 1}, {"devices": 2}),
    "trainjob-small": ({"image": IMAGE, "kind": "trainjob"}, {}),
    "trainjob-full": ({**FULL, "kind": "trainjob", "runtime": "tunesmith"}, {"devices": 2, "nodes": 2}),
    "rayjob-small": ({"image": IMAGE, "kind": "rayjob"}, {}),
    "rayjob-full": ({**FULL, "kind": "rayjob", "ttl_seconds": 60, "retries": 1}, {"devices": 2, "nodes": 3}),
}
KIND = {"job": "Job", "trainjob": "TrainJob", "rayjob": "RayJob"}


def spec_of(**settings: Any) -> Kubernetes:
    recipe = parse_recipe(
        {"model": "m", "data": {"train": "d"}, "executor": {"name": "kubernetes", **settings}}, "the test"
    )
    assert isinstance(recipe.executor, Kubernetes)
    return recipe.executor


def submission(key: str = "a", run: str = "s3://bucket/runs/one", name: str = "one", **given: Any) -> Submission:
    train = given.pop("train", {})
    recipe = parse_recipe({"model": "m", "data": {"train": "d"}, "train": train}, "the test")
    return Submission(name, key, run, recipe, **given)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    """A cluster whose image has a program `python` that does what its variable PLAY says."""
    image = tmp_path / "image"
    image.mkdir()
    program = image / "python"
    program.write_text('#!/bin/sh\necho "began with $*"\neval "$PLAY"\n')
    program.chmod(0o755)
    with serve_kubernetes(tmp_path / "cluster", monkeypatch) as found:
        found.images[IMAGE] = image
        found.secrets["credentials"] = {"AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ACCESS_KEY_ID": "planted-id"}
        yield found


def playing(play: str, **given: Any) -> Submission:
    return submission(environment={"PLAY": play}, **given)


def until(executor: KubernetesExecutor, handle: Handle, found: Callable[[str], bool]) -> Any:
    end = time.monotonic() + PATIENCE_SECONDS
    while not found((status := executor.status(handle)).state):
        assert time.monotonic() < end, status
        time.sleep(0.05)
    return status


def ended(state: str) -> bool:
    return state not in ("queued", "running")


@pytest.mark.parametrize("name", CASES)
def test_a_manifest_is_as_it_was_and_as_the_schemas_want_it(name: str) -> None:
    settings, given = CASES[name]
    (text,) = KubernetesExecutor(spec_of(**settings)).render(submission(**given)).values()
    assert text == (GOLDEN / f"kubernetes-{name}.yaml").read_text()
    kind = KIND[name.partition("-")[0]]
    if kind != "Job":
        require_schemas(kind)
    else:
        pytest.importorskip("kubernetes")
    assert problems_of(yaml.safe_load(text)) == []


@pytest.mark.parametrize("kind", KIND)
def test_the_check_refuses_fields_that_nobody_knows(kind: str) -> None:
    """At the top, deep within a pod, and of a wrong type."""
    pytest.importorskip("kubernetes")
    if kind != "job":
        require_schemas(KIND[kind])
    form = FORMS[kind]
    for spoil in (
        lambda one: one["spec"].update(retires=3),
        lambda one: _pod_of(one).update(servceAccountName="x"),
        lambda one: _pod_of(one)["volumes"][0].update(emptyDir=[]),
        lambda one: one.update(apiVersion="v0"),
        lambda one: one["metadata"].update(name="Not_a_name"),
    ):
        manifest = json.loads(json.dumps(form.manifest(submission(), spec_of(image=IMAGE, kind=kind))))
        assert problems_of(manifest) == []
        spoil(manifest)
        assert problems_of(manifest)


def _pod_of(manifest: dict[str, Any]) -> dict[str, Any]:
    spec = manifest["spec"]
    if manifest["kind"] == "Job":
        return spec["template"]["spec"]
    if manifest["kind"] == "RayJob":
        return spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (job,) = spec["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize("kind", KIND)
def test_pods_keep_to_the_restricted_standard(kind: str) -> None:
    manifest = FORMS[kind].manifest(submission(), spec_of(image=IMAGE, kind=kind))
    pod = _pod_of(manifest)
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("kind", KIND)
def test_one_key_is_one_job_and_its_end_is_told(cluster: FakeKubernetes, kind: str) -> None:
    _require(cluster, kind)
    executor = KubernetesExecutor(spec_of(image=IMAGE, kind=kind, secret="credentials", secret_keys=list_of_keys()))
    asked = playing('echo "secret has ${#AWS_SECRET_ACCESS_KEY} letters"')
    handle = executor.submit(asked)
    assert executor.submit(asked) == handle
    assert until(executor, handle, ended).state == "succeeded"
    # The same when all is over.
    assert executor.submit(asked) == handle
    assert len(cluster.objects) == 1
    other = executor.submit(playing("true", key="b"))
    assert other["name"] != handle["name"]
    lines = list(executor.logs(handle))
    assert f"secret has {len(SECRET)} letters" in lines
    assert any("tunesmith.worker s3://bucket/runs/one" in line for line in lines)
    assert SECRET not in json.dumps([handle, *cluster.objects.values()])
    assert not any("secrets" in path for _, path in cluster.requests)
    # A job that has ended is left as it is.
    executor.cancel(handle)
    assert executor.status(handle).state == "succeeded"


def list_of_keys() -> list[str]:
    return ["AWS_SECRET_ACCESS_KEY"]


def _require(cluster: FakeKubernetes, kind: str) -> None:
    if kind != "job":
        require_schemas(KIND[kind])
    pod = {"template": {"spec": {"containers": [{"name": "node", "image": "theirs", "command": ["false"]}]}}}
    job = {"name": "node", "template": {"spec": pod}}
    cluster.runtimes["torch-distributed"] = {"spec": {"template": {"spec": {"replicatedJobs": [job]}}}}


def test_a_worker_that_died_is_replaced_and_one_that_cannot_help_it_is_not(cluster: FakeKubernetes) -> None:
    executor = KubernetesExecutor(spec_of(image=IMAGE, retries=2))
    handle = executor.submit(playing("kill -9 $$", key="dies"))
    status = until(executor, handle, ended)
    assert (status.state, len(list(executor.logs(handle)))) == ("failed", 3)
    assert "BackoffLimitExceeded" in status.words
    assert "137" in status.reason
    # Data that cannot be used are no better the second time.
    handle = executor.submit(playing("exit 11", key="refused"))
    status = until(executor, handle, ended)
    assert (status.state, len(list(executor.logs(handle)))) == ("failed", 1)
    assert "PodFailurePolicy" in status.words
    assert "11" in status.reason
    # Somebody else's network is.
    handle = executor.submit(playing("exit 17", key="network"))
    assert until(executor, handle, ended).state == "failed"
    assert len(list(executor.logs(handle))) == 3


def test_a_job_is_cancelled_with_its_pods(cluster: FakeKubernetes) -> None:
    executor = KubernetesExecutor(spec_of(image=IMAGE))
    handle = executor.submit(playing("trap 'sleep 0.5; exit 130' TERM; while true; do sleep 0.05; done"))
    until(executor, handle, lambda state: state == "running")
    (pod,) = cluster.pods.values()
    executor.cancel(handle)
    # It says its last words first.
    assert executor.status(handle).state == "cancelled"
    assert until(executor, handle, lambda state: state == "lost").reason
    assert pod.exit_code == 130
    assert cluster.pods == {}
    executor.cancel(handle)


def test_the_platform_ends_what_takes_too_long(cluster: FakeKubernetes) -> None:
    executor = KubernetesExecutor(spec_of(image=IMAGE, deadline_seconds=1))
    status = until(executor, executor.submit(playing("exec sleep 60")), ended)
    assert (status.state, "DeadlineExceeded" in status.words) == ("failed", True)


def test_what_a_job_waits_for_is_told(cluster: FakeKubernetes) -> None:
    executor = KubernetesExecutor(spec_of(image="not-there:1"))
    handle = executor.submit(submission())
    status = executor.status(handle)
    end = time.monotonic() + PATIENCE_SECONDS
    while "not-there" not in status.words:
        assert time.monotonic() < end, status
        status = executor.status(handle)
    assert status.state == "queued"
    assert list(executor.logs(handle)) == []


def test_a_name_that_somebody_else_has_taken_is_told(cluster: FakeKubernetes) -> None:
    executor = KubernetesExecutor(spec_of(image=IMAGE))
    handle = executor.submit(playing("true"))
    cluster.objects["Job", "default", handle["name"]]["metadata"]["labels"].clear()
    with pytest.raises(RunError, match="not ours"):
        executor.submit(playing("true"))


@pytest.mark.parametrize(
    ("settings", "given", "codes"),
    [
        ({}, {"nodes": 2}, ["executor.nodes"]),
        ({"kind": "trainjob"}, {"nodes": 2, "train": {"nodes": 2, "address": "10.0.0.1"}}, ["executor.address"]),
        ({"resources": {"gpu": 4}}, {"devices": 2}, ["executor.gpu"]),
        ({}, {"run": "file:///runs/one"}, ["executor.claim"]),
        ({"claim": "runs"}, {"run": "file:///elsewhere/one"}, ["executor.claim"]),
        ({"claim": "runs"}, {}, ["executor.claim"]),
        ({"runtime": "mine"}, {}, ["executor.runtime"]),
        ({"secret_keys": ["A"]}, {}, ["executor.secret"]),
        ({"kind": "trainjob", "secret": "s"}, {}, ["executor.secret_keys"]),
        ({"kind": "trainjob", "retries": 1, "ttl_seconds": 1}, {}, ["executor.ttl_seconds", "executor.retries"]),
    ],
)
def test_what_a_cluster_cannot_honour_is_refused(settings: Any, given: Any, codes: list[str]) -> None:
    executor = KubernetesExecutor(spec_of(image=IMAGE, **settings))
    for ask in (executor.render, executor.submit):
        with pytest.raises(RecipeError) as caught:
            ask(submission(**given))
        assert [one.code for one in caught.value.problems] == codes


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"image": IMAGE, "resources": {"cpu": "much"}},
        {"image": IMAGE, "namespace": "Team"},
        {"image": IMAGE, "mount_path": "runs"},
        {"image": IMAGE, "secret_value": "x"},
        {"image": IMAGE, "resources": {"gpu": True}},
    ],
)
def test_wrong_settings_are_refused_when_the_recipe_is_read(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        spec_of(**wrong)


def test_errors_of_the_cluster_are_told_with_what_to_do(
    cluster: FakeKubernetes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(**settings: Any) -> TunesmithError:
        with pytest.raises(TunesmithError) as caught:
            KubernetesExecutor(spec_of(image=IMAGE, **settings)).submit(submission())
        return caught.value

    unknown = refusal(namespace="nowhere")
    assert isinstance(unknown, UsageError)
    assert (unknown.code, "nowhere" in str(unknown.value)) == ("kubernetes.unknown", True)
    assert refusal(context="other").code == "kubernetes.config"
    config = Path(_kubeconfig(tmp_path))
    text = config.read_text()
    config.write_text(text.replace(TOKEN, "wrong"))
    forbidden = refusal()
    assert forbidden.code == "kubernetes.forbidden"
    assert "wrong" not in str(forbidden)
    config.write_text(text.replace("http://127.0.0.1:", "http://127.0.0.1:1"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert refusal().code == "kubernetes.config"


def _kubeconfig(folder: Path) -> Path:
    (found,) = (folder / "cluster").glob("kubeconfig-*")
    return found


def test_a_cluster_that_does_not_answer_is_no_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_kubernetes(tmp_path, monkeypatch):
        pass
    with pytest.raises(NetworkError) as caught:
        KubernetesExecutor(spec_of(image=IMAGE)).submit(submission())
    assert caught.value.retryable


def test_a_manifest_that_the_cluster_does_not_take_is_shown_with_its_words(
    cluster: FakeKubernetes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a cluster of another version would answer."""
    monkeypatch.setattr("fake_kubernetes.problems_of", lambda _: ['unknown field "spec.podReplacementPolicy"'])
    with pytest.raises(RecipeError, match="podReplacementPolicy") as caught:
        KubernetesExecutor(spec_of(image=IMAGE)).submit(submission())
    assert caught.value.code == "kubernetes.refused"


def _condition(kind: str, **more: str) -> dict[str, Any]:
    return {"conditions": [{"type": kind, "status": "True", **more}]}


@pytest.mark.parametrize(
    ("kind", "status", "state"),
    [
        ("Job", {}, "queued"),
        ("Job", {"conditions": [{"type": "Failed", "status": "False"}]}, "queued"),
        ("Job", _condition("Suspended", reason="JobSuspended"), "queued"),
        ("TrainJob", _condition("Complete"), "succeeded"),
        ("TrainJob", _condition("Failed", reason="TrainingRuntimeNotSupported", message="no"), "failed"),
        ("RayJob", {}, "queued"),
        ("RayJob", {"jobDeploymentStatus": "Initializing"}, "queued"),
        ("RayJob", {"jobDeploymentStatus": "Running", "jobStatus": "PENDING"}, "queued"),
        ("RayJob", {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, "running"),
        ("RayJob", {"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, "queued"),
        ("RayJob", {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, "succeeded"),
        ("RayJob", {"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, "cancelled"),
        ("RayJob", {"jobDeploymentStatus": "Complete", "jobStatus": "FAILED"}, "failed"),
        ("RayJob", {"jobDeploymentStatus": "Failed", "reason": "AppFailed", "message": "x"}, "failed"),
    ],
)
def test_words_of_the_platform_become_states(kind: str, status: dict[str, Any], state: str) -> None:
    found = state_of({"kind": kind, "metadata": {}, "status": status}, [])
    assert found.state == state
    if state == "failed" and "reason" in json.dumps(status):
        assert found.words
        assert found.reason
    removed = state_of({"kind": kind, "metadata": {"deletionTimestamp": "now"}, "status": status}, [])
    assert removed.state == "cancelled"


def test_a_pod_that_finds_no_node_says_why() -> None:
    condition = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no node has a GPU",
    }
    pod = {"metadata": {}, "status": {"phase": "Pending", "conditions": [condition]}}
    found = state_of({"kind": "Job", "metadata": {}, "status": {"active": 1}}, [pod])
    assert (found.state, found.words) == ("queued", "Unschedulable: no node has a GPU")


def test_names_are_what_a_cluster_takes_whatever_the_run_is_called() -> None:
    for name in ("a", "7", "A_b.C-", "x" * 80, "é"):
        manifest = FORMS["job"].manifest(submission(name=name, key="any key: +2/é"), spec_of(image=IMAGE))
        assert problems_of(manifest) == []
        assert len(manifest["metadata"]["name"]) <= 40


def test_the_table_knows_it() -> None:
    spec = spec_of(image=IMAGE)
    assert isinstance(make_executor(spec, Path("runs")), KubernetesExecutor)
    assert needs_store(spec)


def test_the_recipe_of_the_guide_to_aks_is_taken() -> None:
    pytest.importorskip("kubernetes")
    recipe = load_recipe(ROOT / "deploy" / "aks" / "kubernetes-recipe.yaml")
    asked = Submission("support", "a", "az://runs/support", recipe)
    assert isinstance(recipe.executor, Kubernetes)
    (text,) = KubernetesExecutor(recipe.executor).render(asked).values()
    assert problems_of(yaml.safe_load(text)) == []
