"""Whole trainings as executions of a Container Apps job: a Resource Manager of this machine, and the real worker.

What an execution's container would run is run as a process. Its image is not there; what would be mounted is a folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_cases import told, until
from fake_azure import ENVIRONMENT, GROUP, SUBSCRIPTION, FakeAzure, serve_azure
from real_worker import ENDLESS, Place, write_labelled

from tunesmith.errors import TunesmithError
from tunesmith.jobs.submitted import Job, cancel, find_job, follow, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.load import parse_recipe

pytest.importorskip("azure.identity")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PLANTED = {"AZURE_STORAGE_KEY": "planted-storage-8c1d", "HF_TOKEN": "planted-hub-c04e"}


class Site:
    """A Container Apps environment that runs processes, and a place to submit from."""

    def __init__(self, place: Place, azure: FakeAzure) -> None:
        self.place, self.azure, self.runs = place, azure, place.folder / "runs"

    def submit(self, name: str, *, key: str | None = None, **train: Any) -> Job:
        recipe = parse_recipe(
            {
                "model": str(self.place.model),
                "data": {"train": str(self.place.folder / "rows.csv"), "validation": 0.25},
                "technique": {"name": "lora", "rank": 4},
                "train": {"epochs": 2, "learning_rate": 0.01, "tokens_per_step": 600, "precision": "float32", **train},
                "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
                "executor": {
                    "name": "aca",
                    "subscription": SUBSCRIPTION,
                    "resource_group": GROUP.rpartition("/")[2],
                    "environment": ENVIRONMENT.rpartition("/")[2],
                    "image": "registry.example.com/tunesmith:1",
                    "storage_account": "labstore",
                    "file_share": "runs",
                    "mount_path": str(self.place.folder / "store"),
                    "resource_manager": self.azure.url,
                    "log_analytics": self.azure.url,
                },
            },
            "the test",
        )
        run = submit(recipe, self.runs, Asked(name, key, str(self.place.folder / "store")))
        return find_job(self.runs, run.name)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    place = Place.make(tmp_path)
    write_labelled(place.folder / "rows.csv", 32)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    with serve_azure(tmp_path, monkeypatch) as azure:
        azure.runs_processes = True
        yield Site(place, azure)


def test_a_training_runs_to_its_end_and_its_result_comes_here(site: Site) -> None:
    job = site.submit("one", key="a")
    states = [event.data["state"] for event in follow(job) if event.type == "status"]
    assert states[-1] == "finished"
    assert (look(job).status.state, look(job).status.words) == ("succeeded", "Succeeded")
    assert (job.run.adapter / "adapter_model.safetensors").is_file()
    assert json.loads(job.run.manifest.read_text())
    assert site.submit("another", key="a").handle == job.handle
    assert isinstance(list(logs(job)), list)
    sent = json.dumps(site.azure.asked)
    files = [path.read_bytes() for path in site.place.folder.rglob("*") if path.is_file()]
    for value in PLANTED.values():
        assert value not in sent
        assert not any(value.encode() in content for content in files)


def test_a_refused_training_says_why(site: Site) -> None:
    job = site.submit("refused", max_length=2, epochs=1)
    with pytest.raises(TunesmithError) as caught:
        list(follow(job))
    assert caught.value.code.split(".")[0] in ("supervision", "data", "recipe")
    assert look(job).status.state == "failed"


def test_a_paused_training_goes_on_in_another_execution(site: Site) -> None:
    job = site.submit("paused", epochs=ENDLESS)
    until(lambda: look(job).run.step >= 2)
    pause(job)
    until(lambda: look(job).status.state == "paused")
    step, first = look(job).run.step, job.handle["execution"]
    resume(job)
    job = find_job(site.runs, "paused")
    assert job.handle["execution"] != first
    until(lambda: look(job).run.step > step)
    steps = [event.step for event in told(job, "step")]
    assert steps == list(range(1, len(steps) + 1))
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")
