"""A real Ray cluster of two nodes, both this machine: they train together, lose workers and a node, and serve."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from executor_cases import told
from executor_cases import until as within
from ray_cluster import API_KEY, Cluster
from real_worker import ENDLESS, Place, RealRun, write_labelled
from safetensors.torch import load_file
from storage_servers import serve_s3
from torch.testing import assert_close

from tunesmith.errors import NetworkError, RunError
from tunesmith.executors.deploying import Endpoint
from tunesmith.executors.ray_serve import ANYBODY, RayServe
from tunesmith.jobs.submitted import Job, cancel, find_job, follow, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.executors.ray import Ray
from tunesmith.recipe.load import parse_recipe
from tunesmith.storage.address import open_store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Twice as many processes as cores start, more than once in a test.
PATIENCE_SECONDS = 600.0
RECIPE: dict[str, Any] = {
    "technique": {"name": "lora", "rank": 4},
    "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
}
TRAIN: dict[str, Any] = {
    "epochs": 3,
    "learning_rate": 0.01,
    "tokens_per_step": 600,
    "precision": "float32",
    "checkpoint_every_steps": 2,
    "seed": 3,
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster.start()
    try:
        cluster.add("127.0.0.2")
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = Place.make(tmp_path_factory.mktemp("ray"))
    write_labelled(place.folder / "rows.csv", 32)
    return place


def until(found: Callable[[], Any]) -> Any:
    return within(found, PATIENCE_SECONDS)


def start(
    cluster: Cluster,
    place: Place,
    name: str,
    *,
    nodes: int = 2,
    key: str | None = None,
    runs: str = "runs",
    **train: Any,
) -> Job:
    recipe = {
        **RECIPE,
        "model": str(place.model),
        "data": {"train": str(place.folder / "rows.csv"), "validation": 0.25},
        "train": {**TRAIN, "nodes": nodes, **train},
        "executor": {"name": "ray", "address": cluster.dashboard},
    }
    asked = Asked(name, key, (place.folder / "mounted").as_uri())
    run = submit(parse_recipe(recipe, "the test"), place.folder / runs, asked)
    return find_job(place.folder / runs, run.name)


def processes(job: Job, stage: str) -> list[psutil.Process]:
    """Processes of the job's worker that do a stage, on whichever node."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if job.record["run"] in words and words[-4:-2] == ["--stage", stage]:
            found.append(process)
    return found


def kept_checkpoint(job: Job) -> bool:
    """Whether the run's store has a checkpoint, which a later worker can go on from."""
    assert job.store is not None
    return any(path.startswith("checkpoints/") and path.endswith("/manifest.json") for path in job.store.files())


def require_one_training(job: Job, attempts: int) -> None:
    """The job ended well, and every step of the training was done, whichever attempt did it."""
    until(lambda: look(job).status.state in ("succeeded", "failed", "cancelled", "lost"))
    view = look(job)
    assert view.status.state == "succeeded", (view, list(logs(job))[-60:])
    assert view.run.state == "finished"
    steps = told(job, "step")
    assert {event.step for event in steps} == set(range(1, (view.run.total_steps or 0) + 1))
    assert len({event.attempt for event in steps}) == attempts
    report = json.loads(job.run.report_json.read_text())
    assert len(report["cost"]["rank_memory_bytes"]) == 2


def test_two_workers_do_what_one_machine_does(cluster: Cluster, place: Place) -> None:
    job = start(cluster, place, "both")
    assert [event for event in follow(job) if event.type == "status"][-1].data["state"] == "finished"
    require_one_training(job, attempts=1)
    said = "\n".join(logs(job))
    assert "machine 2 of 2: 1 of 2 processes train here" in said
    alone = RealRun(
        place.run("alone", {**RECIPE, "data": {"train": "rows.csv", "validation": 0.25}, "train": TRAIN}).folder, place
    ).done()
    found, expected = (load_file(run / "adapter_model.safetensors") for run in (job.run.adapter, alone.folder.adapter))
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_close(found[name], tensor, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("stage", ["train", "node"])
def test_a_worker_that_is_killed_midway_is_replaced(cluster: Cluster, place: Place, stage: str) -> None:
    job = start(cluster, place, f"killed-{stage}", epochs=100)
    until(lambda: kept_checkpoint(job))
    (process,) = processes(job, stage)
    process.send_signal(signal.SIGKILL)
    require_one_training(job, attempts=2)
    first, second = ([event.step for event in told(job, "step") if event.attempt == n] for n in (1, 2))
    # From a checkpoint, not from nothing; and steps behind it are done again, not left out.
    assert second[0] is not None
    assert 3 <= second[0] <= (first[-1] or 0) + 1
    assert second[0] % 2 == 1


def test_a_pause_of_two_workers_and_what_follows(cluster: Cluster, place: Place) -> None:
    job = start(cluster, place, "paused", epochs=ENDLESS)
    until(lambda: look(job).run.step >= 2)
    pause(job)
    until(lambda: look(job).status.state == "paused")
    step = look(job).run.step
    resume(job)
    job = find_job(place.folder / "runs", "paused")
    until(lambda: look(job).run.step > step)
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")
    until(lambda: not processes(job, "train") and not processes(job, "node"))


def test_what_cannot_go_well_is_not_tried_again(cluster: Cluster, place: Place) -> None:
    job = start(cluster, place, "refused", max_length=2)
    until(lambda: look(job).status.state == "failed")
    attempts = {event.attempt for event in told(job, "status")}
    assert attempts == {1}


def test_a_key_of_another_run_is_told(cluster: Cluster, place: Place) -> None:
    job = start(cluster, place, "first", nodes=1, key="same", epochs=ENDLESS)
    with pytest.raises(RunError, match="another run") as caught:
        start(cluster, place, "second", nodes=1, key="same", runs="elsewhere")
    assert caught.value.code == "job.key_taken"
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")


def test_a_cluster_that_is_not_there_is_told(place: Place) -> None:
    closed = Cluster(place.folder, 1, "http://127.0.0.1:1", dict(os.environ))
    with pytest.raises(NetworkError, match="Ray cluster"):
        start(closed, place, "nowhere")


def test_ray_train_can_keep_its_notes_where_runs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object store is reached with the library and the credentials that the run itself is reached with."""
    from tunesmith.launchers.ray_train import own_storage

    assert own_storage((tmp_path / "one").as_uri()) == (str(tmp_path / "one" / "ray"), None)
    with serve_s3(tmp_path, monkeypatch) as bucket:
        path, files = own_storage(f"{bucket}/runs/one")
        with files.open_output_stream(f"{path}/attempt/note.json") as stream:
            stream.write(b"{}")
        assert open_store(f"{bucket}/runs/one").read("ray/attempt/note.json") == b"{}"


@pytest.fixture
def serve(cluster: Cluster) -> Iterator[RayServe]:
    serve = RayServe(Ray(address=cluster.dashboard))
    yield serve
    for name in ("guarded", "idle"):
        serve.delete({"application": name, "address": cluster.dashboard})


def test_models_answer_behind_serves_proxy(serve: RayServe, place: Place) -> None:
    ask = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    endpoint = Endpoint("guarded", "a", {"tiny": str(place.model)})
    handle = serve.deploy(endpoint)
    assert serve.deploy(endpoint) == handle
    with pytest.raises(RunError, match="application of this name"):
        serve.deploy(Endpoint("guarded", "b", {"tiny": str(place.model)}))
    status = until(lambda: (found := serve.status(handle)).state in ("ready", "failed") and found)
    assert status.state == "ready", status
    with httpx.Client(base_url=status.address, timeout=120, trust_env=False) as client:
        assert client.post("/chat/completions", json=ask).status_code == 401
        client.headers["Authorization"] = f"Bearer {API_KEY}"
        assert [one["id"] for one in client.get("/models").json()["data"]] == ["tiny"]
        answer = client.post("/chat/completions", json=ask)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] <= 4
        with client.stream("POST", "/chat/completions", json={**ask, "stream": True}) as stream:
            lines = [line for line in stream.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert len(lines) > 2
        # Another one beside it leaves it as it is.
        serve.deploy(Endpoint("idle", "c", {"tiny": str(place.model)}, replicas=0, environment={ANYBODY: "yes"}))
        assert client.get("/models").status_code == 200
    assert serve.status(handle).state == "ready"
    serve.delete(handle)
    until(lambda: serve.status(handle).state == "lost")
    serve.delete(handle)
    assert serve.status({**handle, "application": "idle"}).state in ("ready", "starting")


def test_a_node_that_is_lost_is_replaced(cluster: Cluster, place: Place) -> None:
    """The last test of this cluster: another node comes, as an autoscaler would bring it, and the run goes on there."""
    job = start(cluster, place, "lost", epochs=100)
    until(lambda: kept_checkpoint(job))
    cluster.nodes[1].lose()
    cluster.add("127.0.0.3")
    require_one_training(job, attempts=2)
