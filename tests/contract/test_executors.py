"""What every executor does with a training, whatever the machine: one worker, one key, one end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from executor_cases import NOT_REACHED, REACHED, SLOW, Reached, told, until
from real_worker import ENDLESS, Place, write_labelled
from service_cases import SERVICES

from tunesmith.errors import RunError, TunesmithError
from tunesmith.jobs.registry import Wanted, register
from tunesmith.jobs.submitted import Job, cancel, find_job, follow, list_jobs, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, submit
from tunesmith.recipe.executors import ExecutorSpec
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.parts import variant_names
from tunesmith.storage.address import open_store

pytestmark = pytest.mark.timeout(600)
PLANTED = {
    "AWS_SECRET_ACCESS_KEY": "planted-aws-3f1c",
    "AZURE_CLIENT_SECRET": "planted-azure-77ab",
    "OPENAI_API_KEY": "planted-openai-91de",
    "HF_TOKEN": "planted-hub-c04e",
}
# Everything is common to all; only what the platform is differs.
NAMES = list(REACHED)


class Site:
    """An executor that is reached, and a place to submit from."""

    def __init__(self, place: Place, reached: Reached) -> None:
        self.place = place
        self.reached = reached
        self.runs = place.folder / "runs"

    def submit(self, name: str, *, key: str | None = None, **train: Any) -> Job:
        recipe = parse_recipe(
            {
                "model": str(self.place.model),
                "data": {"train": str(self.place.folder / "rows.csv"), "validation": 0.25},
                "technique": {"name": "lora", "rank": 4},
                "train": {"epochs": 2, "learning_rate": 0.01, "tokens_per_step": 600, "precision": "float32", **train},
                "evaluate": {"max_new_tokens": 4, "few_shot": 0, "samples": 2},
                "executor": self.reached.settings,
            },
            "the test",
        )
        run = submit(recipe, self.runs, Asked(name, key, self.reached.storage))
        return find_job(self.runs, run.name)


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in NAMES])
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    place = Place.make(tmp_path)
    write_labelled(place.folder / "rows.csv", 32)
    monkeypatch.setenv("TUNESMITH_CACHE", str(place.folder / "cache"))
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    with REACHED[request.param](tmp_path, monkeypatch) as reached:
        yield Site(place, reached)


def test_no_executor_is_missing_here() -> None:
    variants = get_args(ExecutorSpec) or (ExecutorSpec,)
    known = {name for variant in variants for name in variant_names(variant)}
    assert known == set(NAMES) | set(SERVICES) | NOT_REACHED.keys()
    assert not set(NAMES) & NOT_REACHED.keys()


def test_a_job_runs_to_its_end_and_its_result_comes_here(site: Site) -> None:
    job = site.submit("one", key="a")
    states = [event.data["state"] for event in follow(job) if event.type == "status"]
    assert states[-1] == "finished"
    view = look(job)
    assert (view.status.state, view.run.state) == ("succeeded", "finished")
    assert (job.run.adapter / "adapter_model.safetensors").is_file()
    assert job.run.report_html.is_file()
    assert json.loads(job.run.manifest.read_text())
    assert [event.seq for event in told(job, "step")] == sorted({event.seq for event in told(job, "step")})
    assert [one.job.run.name for one in list_jobs(site.runs)] == ["one"]
    # Its base was a folder of this machine, without which an adapter is of no use.
    registry = open_store((site.place.folder / "registry").as_uri())
    kept = register(registry, str(job.run.path), site.runs, Wanted("kept", checkpoints=False), lambda _event: None)
    assert kept.version.state == "whole"
    # Submitted once more under its key it is the same job, also when all is over.
    again = site.submit("another", key="a")
    assert again.run.path == job.run.path
    assert again.handle == job.handle
    with pytest.raises(RunError):
        resume(job)
    _no_secret_anywhere(site)


def test_a_refused_job_says_why(site: Site) -> None:
    job = site.submit("refused", max_length=2, epochs=1)
    with pytest.raises(TunesmithError) as caught:
        list(follow(job))
    assert caught.value.code.split(".")[0] in ("supervision", "data", "recipe")
    assert look(job).status.state == "failed"
    assert isinstance(list(logs(job)), list)


def test_a_paused_job_goes_on_from_its_checkpoint(site: Site) -> None:
    job = site.submit("paused", epochs=ENDLESS)
    until(lambda: look(job).run.step >= 2)
    pause(job)
    until(lambda: look(job).status.state == "paused")
    step = look(job).run.step
    assert 2 <= step < ENDLESS
    resume(job)
    job = find_job(site.runs, "paused")
    until(lambda: look(job).run.step > step)
    steps = [event.step for event in told(job, "step")]
    assert steps == list(range(1, len(steps) + 1))
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")
    cancel(job)
    with pytest.raises(RunError):
        pause(job)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_goes_on(site: Site) -> None:
    job = site.submit("killed", epochs=100, checkpoint_every_steps=5)
    until(lambda: told(job, "checkpoint") or look(job) is None)
    site.reached.kill_worker(job)
    until(lambda: look(job).status.state in ("succeeded", "failed"))
    view = look(job)
    assert view.status.state == "succeeded", view
    attempts = {event.attempt for event in told(job, "step")}
    assert len(attempts) == 2
    assert max(event.step or 0 for event in told(job, "step")) == view.run.total_steps


def _no_secret_anywhere(site: Site) -> None:
    for path in site.place.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for value in PLANTED.values():
                assert value.encode() not in content, path


def test_the_planted_secrets_are_seen_by_commands_here(site: Site) -> None:
    """The test above would pass for nothing if they were not there to be leaked."""
    assert site.reached.settings
    assert {name: os.environ[name] for name in PLANTED} == PLANTED
