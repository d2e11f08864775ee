"""KAITO in a cluster: what is made there, what its words mean, and how its errors are told."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_kaito import LOSSES, TOKEN, FakeKaito, serve_kaito, trainer_log
from kaito_cases import ROWS, recipe_of
from storage_servers import free_port, running

from tunesmith.catalog.registered import find_registered
from tunesmith.catalog.registering import register_run
from tunesmith.errors import NetworkError, RunError, TunesmithError, UsageError
from tunesmith.executors.deploying import Endpoint, RendersEndpoint
from tunesmith.executors.kaito.adapter import pull_adapter
from tunesmith.executors.kaito.cluster import open_cluster
from tunesmith.executors.kaito.deployer import KaitoDeployer
from tunesmith.executors.kaito.executor import KaitoExecutor
from tunesmith.executors.kaito.progress import last_words, read_steps
from tunesmith.executors.kaito.state import state_of
from tunesmith.executors.protocol import Submission
from tunesmith.jobs.serving import base_of
from tunesmith.recipe.executors.kaito import Kaito, KaitoServing
from tunesmith.runs.layout import RunFolder
from tunesmith.storage.folder import LocalStore

SERVING = {"namespace": "team", "instance_type": "Standard_NC24ads_A100_v4", "preset": "phi-3-mini-4k-instruct"}
CONFIG = {"peft_type": "LORA", "r": 16, "base_model_name_or_path": "/workspace/tfs/weights"}


@pytest.fixture
def kaito(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKaito]:
    pytest.importorskip("kubernetes")
    with serve_kaito(tmp_path) as served:
        monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig))
        yield served


def job_of(tmp_path: Path, key: str = "k", **executor: Any) -> tuple[KaitoExecutor, Submission]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    recipe = recipe_of({"data": {"train": str(tmp_path / "rows.jsonl")}}, namespace="team", **executor)
    assert isinstance(recipe.executor, Kaito)
    return KaitoExecutor(recipe.executor), Submission("demo", key, "", recipe)


def test_rows_are_in_the_store_before_the_workspace(kaito: FakeKaito, tmp_path: Path) -> None:
    executor, submission = job_of(
        tmp_path, input={"url": "https://team.example/rows", "store": str(tmp_path / "volume")}
    )
    handle = executor.submit(submission)
    (file,) = (tmp_path / "volume").iterdir()
    put = [json.loads(line) for line in file.read_text().splitlines()]
    # A tenth is held out.
    assert len(put) == 18
    assert all(row in ROWS for row in put)
    made = kaito.workspaces["team", handle["name"]].content
    assert made["tuning"]["input"]["urls"] == [f"https://team.example/rows/{file.name}"]
    config = kaito.config_maps["team", handle["name"]]["data"]["training_config.yaml"]
    assert yaml.safe_load(config)["training_config"]["DatasetConfig"]["dataset_path"] == f"data/{file.name}"


def test_a_workspace_that_is_refused_leaves_nothing(kaito: FakeKaito, tmp_path: Path) -> None:
    executor, submission = job_of(tmp_path, input={"url": "http://10.0.0.4/rows.jsonl"})
    with pytest.raises(UsageError) as caught:
        executor.submit(submission)
    assert caught.value.code == "kaito.refused"
    assert "private" in str(caught.value.value)
    assert not kaito.config_maps
    assert not kaito.workspaces


def test_a_submission_that_broke_off_is_finished(kaito: FakeKaito, tmp_path: Path) -> None:
    executor, submission = job_of(tmp_path)
    handle = executor.submit(submission)
    del kaito.workspaces["team", handle["name"]]
    assert executor.status(handle).state == "lost"
    assert executor.submit(submission) == handle
    assert executor.status(handle).state == "queued"
    assert kaito.made == 2


def test_a_cancelled_key_is_not_tuned_again(kaito: FakeKaito, tmp_path: Path) -> None:
    executor, submission = job_of(tmp_path)
    handle = executor.submit(submission)
    executor.cancel(handle)
    assert executor.status(handle).state == "cancelled"
    assert not kaito.workspaces
    assert executor.submit(submission) == handle
    assert not kaito.workspaces


def test_what_the_cluster_does_not_allow_is_told_without_the_token(kaito: FakeKaito, tmp_path: Path) -> None:
    kaito.kubeconfig.write_text(kaito.kubeconfig.read_text().replace(TOKEN, "wrong-token-11"))
    executor, submission = job_of(tmp_path)
    with pytest.raises(RunError) as caught:
        executor.submit(submission)
    assert caught.value.code == "kaito.forbidden"
    assert "wrong-token-11" not in str(caught.value)


def test_a_cluster_that_is_not_there_is_told(kaito: FakeKaito, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(kaito.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"http://127.0.0.1:{free_port()}"
    kaito.kubeconfig.write_text(yaml.safe_dump(config))
    executor, submission = job_of(tmp_path)
    with pytest.raises(NetworkError) as caught:
        executor.submit(submission)
    assert caught.value.retryable
    for context, place in (("no-such-context", str(kaito.kubeconfig)), (None, str(tmp_path / "none"))):
        monkeypatch.setenv("KUBECONFIG", place)
        with pytest.raises(UsageError) as missing:
            open_cluster("team", context)
        assert missing.value.code == "kaito.kubeconfig"


def test_steps_are_read_out_of_what_is_printed() -> None:
    steps = list(read_steps(trainer_log(3, 4)))
    assert [(step.number, step.total) for step in steps] == [(1, 4), (2, 4), (3, 4)]
    assert [step.values["loss"] for step in steps] == list(LOSSES[:3])
    assert steps[0].values == {"loss": 2.1, "grad_norm": 0.81, "learning_rate": 0.0001, "epoch": 0.25}
    older = "{'loss': 1.25, 'grad_norm': 3.0, 'learning_rate': 1e-05, 'epoch': 0.5}\n{'loss': nan, 'epoch': 1.0}"
    assert [step.values["loss"] for step in read_steps(older)][:1] == [1.25]
    assert len(list(read_steps(older))) == 2
    assert list(read_steps("{'train_runtime': '3.2', 'train_loss': '1.2'}\n{'loss': 'none'}")) == []
    # The node has thrown the beginning away.
    rest = trainer_log(4, 4).split("{'loss'", 3)[3]
    assert [step.number for step in read_steps(rest)] == [4]


def test_the_last_words_of_a_failure_say_why() -> None:
    assert (
        last_words(trainer_log(2, 4, fails=True))
        == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    )
    assert last_words("Downloading\nFailed to download after 3 attempts\n\n") == "Failed to download after 3 attempts"
    assert last_words("\n") is None


def condition(name: str, status: str, reason: str = "Because", message: str = "so") -> dict[str, str]:
    return {"type": name, "status": status, "reason": reason, "message": message}


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (None, "queued"),
        ({"conditions": [condition("ResourceReady", "False")]}, "queued"),
        ({"conditions": [condition("ResourceReady", "True"), condition("WorkspaceSucceeded", "False")]}, "preparing"),
        ({"conditions": [condition("ResourceReady", "True"), condition("JobStarted", "False")]}, "preparing"),
        ({"conditions": [condition("ResourceReady", "True"), condition("JobStarted", "True")]}, "training"),
        ({"conditions": [condition("JobStarted", "True"), condition("WorkspaceSucceeded", "True")]}, "succeeded"),
        ({"state": "Failed", "conditions": [condition("JobStarted", "False")]}, "failed"),
        ({"conditions": [condition("WorkspaceSucceeded", "False", "workspaceFailed", "tuning job failed")]}, "failed"),
        ({"conditions": [condition("JobStarted", "Unknown")]}, "queued"),
    ],
)
def test_conditions_are_read(status: dict[str, Any] | None, state: str) -> None:
    assert state_of({"metadata": {}, "status": status}).name == state


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The registry of Debian's package docker-registry."""
    pytest.importorskip("oras")
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("no OCI registry: apt-get install docker-registry")
    port = free_port()
    config = tmp_path / "registry.yml"
    storage = f"storage: {{filesystem: {{rootdirectory: {tmp_path / 'oci'}}}}}"
    config.write_text(f"version: 0.1\n{storage}\nhttp: {{addr: '127.0.0.1:{port}'}}\nlog: {{level: error}}\n")
    with running([program, "serve", str(config)], port):
        yield f"127.0.0.1:{port}"


def layer_of(files: dict[str, bytes], folder: Path) -> Path:
    """A layer as KAITO's pusher makes it: a compressed tar file."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("data/adapter_model.bin")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    place = folder / "layer.tar.gz"
    place.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    return place


def push(image: str, layer: Path) -> None:
    from oras.provider import Registry

    client = Registry(hostname=image.partition("/")[0], insecure=True)
    container = client.get_container(image)
    config = layer.with_name("config.json")
    config.write_text('{"rootfs": {"diff_ids": []}}')
    parts = []
    for path, kind in (
        (config, "application/vnd.oci.image.config.v1+json"),
        (layer, "application/vnd.oci.image.layer.v1.tar+gzip"),
    ):
        content = path.read_bytes()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        part = {"mediaType": kind, "size": len(content), "digest": digest}
        assert client.upload_blob(str(path), container, part).status_code == 201
        parts.append(part)
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": parts[0], "layers": parts[1:]}
    assert client.upload_manifest(manifest, container).status_code == 201


def test_the_adapter_comes_out_of_its_image(registry: str, kaito: FakeKaito, tmp_path: Path) -> None:
    image = f"{registry}/team/adapter:1"
    files = {"data/adapter_config.json": json.dumps(CONFIG).encode(), "data/adapter_model.safetensors": b"weights"}
    push(image, layer_of({**files, "../../evil": b"x", "data/other.py": b"x"}, tmp_path))
    executor, submission = job_of(tmp_path, output={"image": image, "push_secret": "acr"})
    handle = executor.submit(submission)
    target = tmp_path / "run"
    target.mkdir()
    came = executor.fetch(handle, target)
    assert {path.relative_to(target).as_posix() for path in came} == {
        "kaito.json",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "manifest.json",
    }
    assert {path.name for path in (target / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    config = json.loads((target / "adapter" / "adapter_config.json").read_text())
    assert config == {**CONFIG, "base_model_name_or_path": "microsoft/Phi-3-mini-4k-instruct"}
    record = json.loads((target / "kaito.json").read_text())
    assert (record["adapter"], record["brought_here"], record["why_not"]) == (f"oci://{image}", True, None)
    assert not (tmp_path.parent / "evil").exists()
    # It is a run like any other: its base is known by name, and it can be registered.
    run = RunFolder(target)
    assert base_of(run) == "microsoft/Phi-3-mini-4k-instruct"
    store = LocalStore(tmp_path / "versions")
    register_run(store, run, "support")
    registered = find_registered("support:1", store).version.record
    assert registered is not None
    assert (registered.base.hub_id, registered.base.copied) == ("microsoft/Phi-3-mini-4k-instruct", False)


def test_an_image_without_an_adapter_is_told(registry: str, tmp_path: Path) -> None:
    push(f"{registry}/team/other:1", layer_of({"data/rows.json": b"{}"}, tmp_path))
    files, why = pull_adapter(f"{registry}/team/other:1", tmp_path / "adapter", "a/b")
    assert files == []
    assert "no adapter" in str(why)
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_that_cannot_be_had_is_named(
    kaito: FakeKaito, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("oras.provider")
    monkeypatch.setattr("oras.decorator.time.sleep", lambda _: None)
    for output, words in (
        ({"image": f"127.0.0.1:{free_port()}/team/adapter:1", "push_secret": "acr"}, "did not give it"),
        ({"image": "team/adapter:1", "push_secret": "acr"}, "names no registry"),
        ({"volume_claim": "adapters"}, "volume"),
    ):
        executor, submission = job_of(tmp_path, key=words, output=output)
        target = tmp_path / words.replace(" ", "-")
        target.mkdir()
        assert executor.fetch(executor.submit(submission), target) == [target / "kaito.json"]
        record = json.loads((target / "kaito.json").read_text())
        assert not record["brought_here"]
        assert words in record["why_not"]


def test_an_adapter_is_served_until_it_is_taken_away(kaito: FakeKaito) -> None:
    deployer = KaitoDeployer(KaitoServing(**SERVING, largest_rank=24, pull_secrets=("acr",), strength=0.5))
    models = {"support": "oci://team.azurecr.io/adapter:0.0.1", "phi-3-mini-4k-instruct": "phi-3-mini-4k-instruct"}
    endpoint = Endpoint("support", "k", models)
    handle = deployer.deploy(endpoint)
    assert deployer.deploy(endpoint) == handle
    made = kaito.workspaces["team", handle["name"]].content["inference"]
    assert made["adapters"] == [
        {
            "source": {
                "name": "support",
                "image": "team.azurecr.io/adapter:0.0.1",
                "imagePullSecrets": ["acr"],
            },
            "strength": "0.5",
        }
    ]
    told = yaml.safe_load(kaito.config_maps["team", handle["name"]]["data"]["inference_config.yaml"])
    assert told == {"vllm": {"max-lora-rank": 32}}
    states = [deployer.status(handle) for _ in range(3)]
    assert [one.state for one in states] == ["starting", "ready", "ready"]
    assert states[-1].address == f"http://{handle['name']}.team.svc.cluster.local/v1"
    deployer.delete(handle)
    deployer.delete(handle)
    assert deployer.status(handle).state == "lost"
    assert not kaito.config_maps
    assert isinstance(deployer, RendersEndpoint)
    assert list(yaml.safe_load_all(deployer.render_endpoint(endpoint)["workspace.yaml"]))[-1]["inference"] == made


def test_an_endpoint_that_is_refused_leaves_nothing(kaito: FakeKaito) -> None:
    nodes = {**SERVING, "instance_type": None, "labels": {"pool": "gpu"}}
    with pytest.raises(UsageError) as caught:
        KaitoDeployer(KaitoServing(**nodes, largest_rank=64)).deploy(Endpoint("support", "k", {}))
    assert "instanceType" in str(caught.value.value)
    assert not kaito.config_maps


def test_what_kaito_cannot_serve_is_refused_by_name() -> None:
    models = {"support": "support-router:3", "Upper": "oci://a.io/b:1", "base": "phi-3-mini-4k-instruct"}
    endpoint = Endpoint("x", "k", models, kind="batch", replicas=2, environment={"A": "b"})
    with pytest.raises(TunesmithError) as caught:
        KaitoDeployer(KaitoServing(**SERVING, largest_rank=1000)).render_endpoint(endpoint)
    places = {problem.place for problem in caught.value.problems}
    assert places == {"kind", "replicas", "environment", "largest_rank", "models", "models.support", "models.base"}
