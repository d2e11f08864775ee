"""A model answers on a cluster: one key is one deployment, its probes are our server's, and it is taken away."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kubernetes import FakeKubernetes, serve_kubernetes
from kubernetes_schemas import FILES, problems_of, require_schemas
from tiny_models import tiny_model_folder

from tunesmith.errors import RunError, UsageError
from tunesmith.executors.deployers import make_deployer
from tunesmith.executors.deploying import Endpoint, EndpointStatus, RendersEndpoint
from tunesmith.executors.kubernetes.deployer import KubernetesDeployer, endpoint_state
from tunesmith.inference.paths.access import OPEN_PATHS
from tunesmith.recipe.executors.kubernetes import Kubernetes

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).resolve().parents[3]
IMAGE = "registry.example.com/tunesmith:1"
KEY = "planted-api-key-41cc"
SPEC = Kubernetes(image=IMAGE, secret="api-key")
PATIENCE_SECONDS = 30.0
# Listens a moment after it began, and is ready a moment after that.
STUB = """#!{python}
import http.server, os, sys, time
began = time.monotonic()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        ready = time.monotonic() - began > 1.0
        self.send_response(200 if self.path == "/health" or (self.path == "/ready" and ready) else 503)
        self.end_headers()
    def log_message(self, *_):
        pass
print("serving", *sys.argv[1:], "with a key of", len(os.environ["TUNESMITH_API_KEY"]), flush=True)
if "broken=none" in sys.argv:
    sys.exit(2)
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    image = tmp_path / "image"
    image.mkdir()
    program = image / "tunesmith"
    program.write_text(STUB.format(python=sys.executable))
    program.chmod(0o755)
    with serve_kubernetes(tmp_path / "cluster", monkeypatch) as found:
        found.images[IMAGE] = image
        found.secrets["api-key"] = {"TUNESMITH_API_KEY": KEY}
        yield found


def endpoint(**given: Any) -> Endpoint:
    return Endpoint(**{"name": "router", "key": "a", "models": {"router": "support-router@production"}, **given})


def until(ask: Callable[[], EndpointStatus], state: str) -> EndpointStatus:
    end = time.monotonic() + PATIENCE_SECONDS
    while (status := ask()).state != state:
        assert time.monotonic() < end, status
        time.sleep(0.05)
    return status


def test_a_deployment_comes_up_answers_and_goes(cluster: FakeKubernetes) -> None:
    deployer = KubernetesDeployer(SPEC)
    handle = deployer.deploy(endpoint(replicas=2))
    assert deployer.deploy(endpoint(replicas=2)) == handle
    assert {kind for kind, _, _ in cluster.objects} == {"Deployment", "Service"}
    assert deployer.status(handle).state == "starting"
    status = until(lambda: deployer.status(handle), "ready")
    assert (status.address, status.words) == ("http://router.default.svc/v1", "2 of 2 answer")
    assert KEY not in json.dumps([handle, *cluster.objects.values()])
    said = {pod.log.read_text() for pod in cluster.pods.values()}
    assert all(f"with a key of {len(KEY)}" in one and "router=support-router@production" in one for one in said)
    deployer.delete(handle)
    assert until(lambda: deployer.status(handle), "lost").reason
    assert cluster.pods == {}
    deployer.delete(handle)


def test_a_server_that_does_not_come_up_says_why(cluster: FakeKubernetes) -> None:
    deployer = KubernetesDeployer(SPEC)
    handle = deployer.deploy(endpoint(models={"broken": "none"}))
    status = until(lambda: deployer.status(handle), "failed")
    assert "code 2" in (status.reason or "")


def test_a_name_that_is_taken_is_told(cluster: FakeKubernetes) -> None:
    deployer = KubernetesDeployer(SPEC)
    deployer.deploy(endpoint())
    with pytest.raises(RunError, match="not ours"):
        deployer.deploy(endpoint(key="b"))


def test_a_container_that_falls_over_again_and_again_is_told() -> None:
    waiting = {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}
    pod = {"status": {"phase": "Running", "containerStatuses": [{"state": {"waiting": waiting}}]}}
    status = endpoint_state({"metadata": {}, "spec": {"replicas": 1}, "status": {}}, [pod], "http://x")
    assert (status.state, "CrashLoopBackOff" in status.words) == ("starting", True)


def test_the_table_knows_it(tmp_path: Path) -> None:
    made = make_deployer("kubernetes", tmp_path, {"image": IMAGE, "secret": "api-key"})
    assert isinstance(made, KubernetesDeployer)
    with pytest.raises(UsageError, match="image"):
        make_deployer("kubernetes", tmp_path, {})


def test_none_may_be_wanted() -> None:
    found = {"metadata": {}, "spec": {"replicas": 0}, "status": {}}
    assert endpoint_state(found, [], "http://x").state == "stopped"


@pytest.mark.parametrize(
    ("given", "spec", "code"),
    [
        ({"kind": "batch"}, SPEC, "endpoint.batch"),
        ({}, SPEC.model_copy(update={"secret": None}), "endpoint.no_key"),
        ({"name": "Router"}, SPEC, "endpoint.name"),
        ({"environment": {"TUNESMITH_REGISTRY": "/home/me/registry"}}, SPEC, "endpoint.registry"),
        ({}, Kubernetes(image=IMAGE, secret="api-key", retries=3), "endpoint.setting"),
    ],
)
def test_what_a_deployment_is_not_is_refused(given: dict[str, Any], spec: Kubernetes, code: str) -> None:
    for ask in (KubernetesDeployer(spec).deploy, KubernetesDeployer(spec).render_endpoint):
        with pytest.raises(UsageError) as caught:
            ask(endpoint(**given))
        assert caught.value.code == code


def test_manifests_are_as_they_were_and_as_a_cluster_wants_them() -> None:
    pytest.importorskip("kubernetes")
    spec = SPEC.model_copy(update={"namespace": "team", "claim": "models", "mount_path": "/models"})
    deployer = KubernetesDeployer(spec)
    assert isinstance(deployer, RendersEndpoint)
    for name, text in deployer.render_endpoint(endpoint(environment={"TUNESMITH_REGISTRY": "/models"})).items():
        assert text == (GOLDEN / f"kubernetes-endpoint-{name}").read_text()
        assert problems_of(yaml.safe_load(text)) == []


def test_probes_ask_where_nobody_needs_a_key() -> None:
    text = KubernetesDeployer(SPEC).render_endpoint(endpoint())["deployment.yaml"]
    (container,) = yaml.safe_load(text)["spec"]["template"]["spec"]["containers"]
    asked = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "readiness", "liveness")}
    assert asked == OPEN_PATHS


@pytest.mark.slow
def test_our_server_answers_behind_the_probes(cluster: FakeKubernetes, tmp_path: Path) -> None:
    cluster.images[IMAGE] = Path(sys.executable).parent
    cluster.image_variables = {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    model = tiny_model_folder("llama", tmp_path / "model")
    deployer = KubernetesDeployer(SPEC)
    handle = deployer.deploy(endpoint(models={"tiny": str(model)}))
    end = time.monotonic() + 180
    while deployer.status(handle).state != "ready":
        assert time.monotonic() < end, [pod.log.read_text()[-2000:] for pod in cluster.pods.values()]
        time.sleep(0.2)
    (pod,) = cluster.pods.values()
    request = urllib.request.Request(
        f"http://127.0.0.1:{pod.port}/v1/models", headers={"Authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert [one["id"] for one in json.load(answer)["data"]] == ["tiny"]
    deployer.delete(handle)
    until(lambda: deployer.status(handle), "lost")
    assert pod.exit_code == 0


FILES_OF_SERVICE = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))


def _manifests() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES_OF_SERVICE:
        for manifest in yaml.safe_load_all(path.read_text()):
            yield path.name, manifest


def test_the_manifests_of_the_repository_are_taken_by_a_cluster() -> None:
    pytest.importorskip("kubernetes")
    found = list(_manifests())
    assert {manifest["kind"] for _, manifest in found} > {"Deployment", "Service", "Role", "Kustomization"}
    for name, manifest in found:
        if manifest["kind"] in FILES:
            require_schemas(manifest["kind"])
        if manifest["kind"] != "Kustomization":
            assert problems_of(manifest) == [], name


def test_the_kustomization_names_files_that_are_there() -> None:
    (kustomization,) = [manifest for name, manifest in _manifests() if manifest["kind"] == "Kustomization"]
    assert kustomization.keys() <= {"apiVersion", "kind", "resources", "images", "labels"}
    for name in kustomization["resources"]:
        assert (ROOT / "deploy" / "kubernetes" / name).is_file()
    (image,) = kustomization["images"]
    (deployment,) = [manifest for _, manifest in _manifests() if manifest["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == image["name"]


def test_the_service_of_the_repository_is_what_the_deployer_would_make() -> None:
    """But for names, labels and what a reader fills in."""
    (kept,) = [manifest for _, manifest in _manifests() if manifest["kind"] == "Deployment"]
    made = yaml.safe_load(KubernetesDeployer(SPEC).render_endpoint(endpoint())["deployment.yaml"])
    pods = [one["spec"]["template"]["spec"] for one in (kept, made)]
    assert pods[0]["securityContext"] == pods[1]["securityContext"]
    for part in ("startupProbe", "readinessProbe", "livenessProbe", "lifecycle", "securityContext", "ports"):
        assert pods[0]["containers"][0][part] == pods[1]["containers"][0][part], part


def test_the_runtime_of_the_repository_starts_again_what_a_job_would() -> None:
    from tunesmith.executors.kubernetes.job import failure_rules

    (runtime,) = [manifest for _, manifest in _manifests() if manifest["kind"] == "ClusterTrainingRuntime"]
    (job,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert job["template"]["spec"]["podFailurePolicy"]["rules"] == failure_rules("node")
