"""Whole trainings through TrainJob and RayJob: the worker is ours, the cluster is a small one of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from executor_cases import told, until
from fake_kubernetes import FakeKubernetes, serve_kubernetes
from kubernetes_schemas import require_schemas
from real_worker import ENDLESS, Place, write_labelled

from tunesmith.jobs.submitted import Job, cancel, find_job, follow, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.load import parse_recipe
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import MEETING, RunStore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).resolve().parents[2]
IMAGE = "tunesmith:test"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    place = Place.make(tmp_path)
    write_labelled(place.folder / "rows.csv", 32)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    return place


@pytest.fixture
def cluster(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeKubernetes]:
    require_schemas("TrainJob", "RayJob", "ClusterTrainingRuntime")
    runtime = yaml.safe_load((ROOT / "deploy" / "kubernetes" / "training-runtime.yaml").read_text())
    with serve_kubernetes(place.folder / "cluster", monkeypatch) as found:
        claim = place.folder / "claim"
        claim.mkdir()
        found.claims["runs"] = claim
        found.images[IMAGE] = Path(sys.executable).parent
        found.image_variables = {"OMP_NUM_THREADS": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
        found.cache = Path(os.environ["TUNESMITH_CACHE"])
        found.runtimes["tunesmith"] = runtime
        yield found


def submitted(place: Place, kind: str, name: str, *, runtime: str | None = None, **train: Any) -> Job:
    claim = place.folder / "claim"
    executor = {"name": "kubernetes", "kind": kind, "image": IMAGE, "claim": "runs", "mount_path": str(claim)}
    if runtime is not None:
        executor["runtime"] = runtime
    recipe = parse_recipe(
        {
            "model": str(place.model),
            "data": {"train": str(place.folder / "rows.csv"), "validation": 0.25},
            "technique": {"name": "lora", "rank": 4},
            "train": {"epochs": 2, "learning_rate": 0.01, "tokens_per_step": 600, "precision": "float32", **train},
            "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
            "executor": executor,
        },
        "the test",
    )
    run = submit(recipe, place.folder / "runs", Asked(name, name, f"file://{claim}"))
    return find_job(place.folder / "runs", name) if run.name == name else pytest.fail(run.name)


@pytest.mark.parametrize(("kind", "runtime"), [("trainjob", "tunesmith"), ("rayjob", None)])
def test_a_run_goes_to_its_end_pauses_and_goes_on(
    place: Place, cluster: FakeKubernetes, kind: str, runtime: str | None
) -> None:
    job = submitted(place, kind, "one", runtime=runtime)
    states = [event.data["state"] for event in follow(job) if event.type == "status"]
    assert states[-1] == "finished", list(logs(job))
    assert (job.run.adapter / "adapter_model.safetensors").is_file()
    job = submitted(place, kind, "long", runtime=runtime, epochs=ENDLESS)
    until(lambda: look(job).run.step >= 2)
    pause(job)
    until(lambda: look(job).status.state == "paused")
    # To be asked to pause is no failure that a cluster should mend.
    assert job.executor.status(job.handle).state == "succeeded"
    step = look(job).run.step
    resume(job)
    job = find_job(place.folder / "runs", "long")
    until(lambda: look(job).run.step > step)
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")


def test_two_machines_train_one_model(place: Place, cluster: FakeKubernetes) -> None:
    if not _has_a_way_out():
        pytest.skip("this machine has no address but loopback, at which pods do not meet")
    job = submitted(place, "trainjob", "two", runtime="tunesmith", nodes=2)
    states = [event.data["state"] for event in follow(job) if event.type == "status"]
    assert states[-1] == "finished", list(logs(job))
    assert "meeting" in states
    lines = list(logs(job))
    assert any("machine 2 of 2: 1 of 2 processes train here" in line for line in lines), lines
    assert job.executor.status(job.handle).state == "succeeded"
    assert len(told(job, "step")) > 0
    assert MEETING not in RunStore(open_store(job.record["run"])).files()


def _has_a_way_out() -> bool:
    """Asked by another process: nothing is sent, but tests may not even look outside."""
    program = (
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.connect(('192.0.2.1', 9));"
        "assert not s.getsockname()[0].startswith('127.')"
    )
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=False).returncode == 0
