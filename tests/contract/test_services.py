"""What every service with a trainer of its own does with a training: one job a key, events, an end with a reason."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from executor_cases import told, until
from service_cases import SERVICES, Play, Service

from tunesmith.errors import RunError, TunesmithError, WorkerError
from tunesmith.executors import table
from tunesmith.executors.protocol import Tells
from tunesmith.jobs.submitted import Job, cancel, find_job, follow, list_jobs, logs, look, resume
from tunesmith.jobs.submitting import Asked, render, submit
from tunesmith.recipe.load import parse_recipe
from tunesmith.recipe.schema import Recipe

pytestmark = pytest.mark.timeout(120)
PLANTED = {
    "AZURE_CLIENT_SECRET": "planted-azure-77ab",
    "OPENAI_API_KEY": "planted-openai-91de",
    "AZURE_OPENAI_API_KEY": "planted-azure-openai-2c9d",
    "HF_TOKEN": "planted-hub-c04e",
}


class Site:
    """A service that is reached, and a place to submit from."""

    def __init__(self, folder: Path, service: Service) -> None:
        self.folder = folder
        self.service = service
        self.runs = folder / "runs"
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"What is {n}?"},
                    {"role": "assistant", "content": f"It is {n}."},
                ]
            }
            for n in range(20)
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def recipe(self) -> Recipe:
        return parse_recipe(
            {
                "model": self.service.model,
                "data": {"train": str(self.folder / "rows.jsonl"), "validation": 0.25},
                "executor": self.service.settings,
                **self.service.recipe,
            },
            "the test",
        )

    def submit(self, name: str, play: Play = "succeed", key: str | None = None) -> Job:
        self.service.play(play)
        return find_job(self.runs, submit(self.recipe(), self.runs, Asked(name, key)).name)


@pytest.fixture(params=list(SERVICES))
def site(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    for name, value in PLANTED.items():
        monkeypatch.setenv(name, value)
    # Polls are only spaced out for services far away.
    monkeypatch.setattr("tunesmith.jobs.submitted._POLL_SECONDS", 0.01)
    place = tmp_path / "service"
    place.mkdir()
    with SERVICES[request.param](place, monkeypatch) as service:
        yield Site(tmp_path, service)


def test_no_service_is_missing_here() -> None:
    assert set(SERVICES) == table._OWN_TRAINER


def test_a_job_is_told_to_its_end(site: Site) -> None:
    job = site.submit("one", key="a")
    assert isinstance(job.executor, Tells)
    events = list(follow(job))
    states = [event.data["state"] for event in events if event.type == "status"]
    assert states[-2:] == ["training", "finished"]
    steps = [event.step or 0 for event in events if event.type == "step"]
    assert steps == sorted(set(steps))
    assert steps
    assert all(event.data["loss"] > 0 for event in events if event.type == "step")
    assert {event.attempt for event in events} == {1}
    view = look(job)
    assert (view.status.state, view.run.state, view.run.step) == ("succeeded", "finished", steps[-1])
    # Looking once more tells nothing anew.
    assert [event.seq for event in told(job, "step")] == [event.seq for event in events if event.type == "step"]
    assert told(job, "artifact")
    assert [one.job.run.name for one in list_jobs(site.runs)] == ["one"]
    cancel(job)
    assert look(job).status.state == "succeeded"
    with pytest.raises(RunError):
        resume(job)


def test_one_key_is_one_job(site: Site) -> None:
    first = site.submit("one", "wait", key="a")
    again = site.submit("another", "wait", key="a")
    assert again.run.path == first.run.path
    assert (again.handle, site.service.jobs()) == (first.handle, 1)
    # An answer that was lost on the way: the service knows the key, and so it does from another folder of runs.
    record = json.loads((first.run.path / "job.json").read_text())
    (first.run.path / "job.json").write_text(json.dumps({**record, "handle": None}))
    assert look(find_job(site.runs, "one")).status.state == "lost"
    site.submit("one", "wait", key="a")
    assert find_job(site.runs, "one").handle == first.handle
    site.runs = site.folder / "other-runs"
    assert site.submit("two", "wait", key="a").handle == first.handle
    assert site.service.jobs() == 1
    site.submit("three", "wait", key="b")
    assert site.service.jobs() == 2


def test_a_failure_has_its_reason(site: Site) -> None:
    job = site.submit("one", "fail")
    with pytest.raises(WorkerError) as caught:
        list(follow(job))
    assert site.service.reason in str(caught.value)
    view = look(job)
    assert (view.status.state, view.run.state) == ("failed", "failed")
    assert site.service.reason in str(view.status.reason)
    assert [event.data["code"] for event in told(job, "error")] == [caught.value.code]
    # Submitted anew, it is another job, told from its own beginning.
    site.service.play("succeed")
    resume(job)
    job = find_job(site.runs, "one")
    list(follow(job))
    assert look(job).status.state == "succeeded"
    assert site.service.jobs() == 2
    assert {event.attempt for event in told(job, "step")} == {1, 2}


def test_a_cancelled_job_stays_cancelled(site: Site) -> None:
    job = site.submit("one", "wait", key="a")
    until(lambda: look(job).run.step >= 1)
    view = look(job)
    assert (view.status.state, view.run.state) == ("running", "running")
    cancel(job)
    until(lambda: look(job).status.state == "cancelled")
    cancel(job)
    view = look(job)
    assert (view.status.state, view.run.state) == ("cancelled", "cancelled")
    assert [event.data["state"] for event in told(job, "status")].count("cancelled") == 1
    site.submit("one", "wait", key="a")
    assert site.service.jobs() == 1


def test_a_result_is_brought_again_where_that_broke_off(site: Site) -> None:
    job = site.submit("one")
    list(follow(job))
    record = json.loads((job.run.path / "told.json").read_text())
    own = {"job.json", "told.json", "recipe.yaml", "events.jsonl"}
    brought = [path for path in job.run.path.iterdir() if path.is_file() and path.name not in own]
    assert brought
    for path in brought:
        path.unlink()
    look(job)
    assert not brought[0].exists()
    (job.run.path / "told.json").write_text(json.dumps({"cursor": record["cursor"]}))
    look(job)
    assert all(path.is_file() for path in brought)


def test_logs_are_what_the_trainer_printed(site: Site) -> None:
    job = site.submit("one")
    list(follow(job))
    lines = list(logs(job))
    assert lines
    assert not any("\r" in line or "\n" in line for line in lines)


def test_what_was_not_sent_leaves_nothing_behind(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {**site.service.settings, "no_such_setting": 1}
    with pytest.raises(TunesmithError):
        parse_recipe({"model": site.service.model, "data": {"train": "rows.jsonl"}, "executor": broken}, "the test")
    recipe = parse_recipe({**site.recipe().model_dump(exclude_unset=True), "technique": "full"}, "the test")
    with pytest.raises(TunesmithError) as caught:
        submit(recipe, site.runs, Asked("refused"))
    assert any(problem.place == "technique" for problem in caught.value.problems)
    assert not (site.runs / "refused").exists()
    assert site.service.jobs() == 0


def test_secrets_are_in_nothing_that_is_kept_or_sent(site: Site) -> None:
    for name, play in (("one", "succeed"), ("two", "fail")):
        job = site.submit(name, play)
        with pytest.raises(WorkerError) if play == "fail" else nullcontext():
            list(follow(job))
    rendered = render(site.recipe(), site.runs, Asked("shown"), site.folder / "rendered")
    assert rendered
    secrets = [*site.service.secrets, *PLANTED.values()]
    kept = [*site.runs.rglob("*"), *(site.folder / "rendered").rglob("*")]
    for path in kept:
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in secrets if secret.encode() in content], path
    assert not [secret for secret in secrets if secret in site.service.sent()]


def test_the_planted_secrets_are_there_to_be_leaked(site: Site) -> None:
    """The test above would pass for nothing if they were not."""
    assert {name: os.environ[name] for name in PLANTED} == PLANTED
    assert site.service.secrets
