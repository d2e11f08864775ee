"""The executor for services with OpenAI's contract, with the official client, against a service of this machine.

Everything that either side says is held to OpenAI's own description of its service.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from client_environments import environment, packages_of
from fake_openai import KEY, STEPS, FakeOpenAi, serve_openai
from openai_site import MODEL, Site, events_of, requests, serving, until_ended
from openapi import load_contract

from tunesmith.cli.main import run as run_command
from tunesmith.errors import DataError, NetworkError, RecipeError, RunError, TunesmithError, UsageError, WorkerError
from tunesmith.formats.split import plan_split
from tunesmith.jobs.submitted import cancel, find_job, follow, list_jobs, logs, look, pause, resume
from tunesmith.jobs.submitting import Asked, render, submit
from tunesmith.recipe.load import dump_recipe

pytest.importorskip("openai")
SCRIPT = Path(__file__).parents[1] / "clients" / "openai_executor.py"


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOpenAi]:
    with serving(monkeypatch) as service:
        yield service


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_job_is_done_and_told_to_its_end(service: FakeOpenAi, site: Site) -> None:
    data = site.labelled()
    recipe = site.recipe(data, {"suffix": "mine", "batch_size": 4}, train={"epochs": 2, "seed": 7})
    job = site.submit(recipe, key="a")
    told = list(follow(job))
    assert [event.seq for event in told] == list(range(1, len(told) + 1))
    assert {event.attempt for event in told} == {1}
    steps = [event for event in told if event.type == "step"]
    assert [event.step for event in steps] == list(range(1, STEPS + 1))
    assert steps[2].data == {"loss": 1.0, "token_accuracy": pytest.approx(0.3), "total_steps": STEPS}
    (measured,) = events_of(job, "evaluation")
    assert (measured.step, measured.data["loss"]) == (STEPS, 0.75)
    assert [event.step for event in events_of(job, "checkpoint")] == [STEPS // 2, STEPS]
    states = [event.data["state"] for event in told if event.type == "status"]
    assert states[-2:] == ["training", "finished"]
    view = look(job)
    assert (view.status.state, view.run.state, view.run.total_steps) == ("succeeded", "finished", STEPS)

    (body,) = service.bodies
    assert (body["model"], body["suffix"], body["seed"]) == (MODEL, "mine", 7)
    numbers = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": "auto"}
    assert body["method"] == {"type": "supervised", "supervised": {"hyperparameters": numbers}}
    (made,) = requests(service, "POST", "/v1/fine_tuning/jobs")
    assert made["idempotency-key"] == body["metadata"]["tunesmith_key"]
    split = plan_split(data, fraction=0.25, seed=7)
    rows, held_out = service.lines(body["training_file"]), service.lines(body["validation_file"])
    assert (len(rows), len(held_out)) == (split.train_rows, split.validation_rows)
    assert not {json.dumps(row) for row in rows} & {json.dumps(row) for row in held_out}
    assert [message["role"] for message in rows[0]["messages"]] == ["system", "user", "assistant"]

    kept = json.loads(job.run.service_model.read_text())
    (artifact,) = events_of(job, "artifact")
    assert kept["name"] == artifact.data["name"]
    assert kept["name"].startswith(f"ft:{MODEL}:")
    assert (kept["base"], kept["base_url"], kept["results"]) == (MODEL, service.url, ["results.csv"])
    table = (job.run.path / "results.csv").read_text().splitlines()
    assert table[0].startswith("step,train_loss")
    assert len(table) == STEPS + 1
    assert any("successfully completed" in line for line in logs(job))
    with pytest.raises(RunError):
        resume(job)
    assert [one.job.run.name for one in list_jobs(site.runs)] == ["one"]
    # What is over needs no more questions about events.
    before = len(service.asked)
    look(job)
    assert len(service.asked) == before + 1


def test_one_key_is_one_job_also_for_somebody_who_lost_the_run(service: FakeOpenAi, site: Site) -> None:
    recipe = site.recipe(site.labelled())
    job = site.submit(recipe, key="nightly")
    again = site.submit(recipe, name="two", key="nightly")
    assert again.run.path == job.run.path
    elsewhere = submit(recipe, site.folder / "other", Asked("three", "nightly"))
    assert find_job(site.folder / "other", elsewhere.name).handle["job"] == job.handle["job"]
    other = site.submit(recipe, name="four", key="other")
    assert other.handle["job"] != job.handle["job"]
    assert len(service.jobs) == 2


@pytest.mark.parametrize(
    "habits",
    [{"lost answer"}, {"lost answer", "no metadata"}, {"lost answer", "no metadata", "no filter"}],
    ids=lambda habits: ", ".join(sorted(habits)),
)
def test_a_lost_answer_makes_no_second_job(service: FakeOpenAi, site: Site, habits: set[Any]) -> None:
    service.habits = frozenset(habits)
    job = site.submit(site.recipe(site.labelled()), key="once")
    assert list(service.jobs) == [job.handle["job"]]
    assert len(requests(service, "POST", "/v1/fine_tuning/jobs")) == 1
    assert until_ended(job).status.state == "succeeded"


def test_files_that_are_there_are_not_sent_again(service: FakeOpenAi, site: Site) -> None:
    service.habits = frozenset({"busy"})
    recipe = site.recipe(site.labelled())
    with pytest.raises(NetworkError) as caught:
        site.submit(recipe, key="later")
    assert caught.value.code == "openai.rate_limit_exceeded"
    assert len(service.files) == 2
    service.habits = frozenset()
    job = site.submit(recipe, key="later")
    assert job.run.name == "one"
    assert len(requests(service, "POST", "/v1/files")) == 2


def test_what_the_service_refuses_is_told_in_its_words_and_leaves_nothing(service: FakeOpenAi, site: Site) -> None:
    with pytest.raises(RecipeError) as caught:
        site.submit(site.recipe(site.labelled(), {"model": "unknown-model"}))
    error = caught.value
    assert (error.code, error.place) == ("openai.model_not_found", "model")
    assert "unknown-model does not exist" in str(error)
    assert "request req_" in str(error.hint)
    assert service.files == {}
    assert not (site.runs / "one").exists()


def test_a_key_that_is_not_taken_or_not_there_is_never_shown(
    service: FakeOpenAi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = site.recipe(site.labelled())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-another-secret-77f1")
    with pytest.raises(UsageError) as caught:
        site.submit(recipe)
    assert caught.value.code == "openai.invalid_api_key"
    assert "secret" not in str(caught.value)
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UsageError) as missing:
        site.submit(recipe)
    assert (missing.value.code, missing.value.value) == ("usage.no_key", "OPENAI_API_KEY")
    with pytest.raises(UsageError) as named:
        site.submit(site.recipe(site.labelled(), {"key_variable": "MY_SERVICE_KEY"}))
    assert named.value.value == "MY_SERVICE_KEY"
    monkeypatch.setenv("MY_SERVICE_KEY", KEY)
    site.submit(site.recipe(site.labelled(), {"key_variable": "MY_SERVICE_KEY"}))
    monkeypatch.setenv("OPENAI_BASE_URL", service.url.replace("http://", "http://user:hidden@"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(UsageError) as address:
        site.submit(recipe, name="two")
    assert "hidden" not in str(address.value)


def test_a_job_that_fails_says_why_and_keeps_keys_to_itself(service: FakeOpenAi, site: Site) -> None:
    few = site.submit(site.recipe(site.labelled(8)), name="few")
    with pytest.raises(DataError) as caught:
        list(follow(few))
    assert (caught.value.code, caught.value.place) == ("openai.invalid_training_file", "training_file")
    assert "at least 10 examples" in str(look(few).status.reason)
    assert any("fewer than 10" in event.data["message"] for event in events_of(few, "warning"))
    service.fails_at_step = 3
    broken = site.submit(site.recipe(site.labelled()), name="broken")
    with pytest.raises(WorkerError) as failed:
        list(follow(broken))
    assert failed.value.code == "openai.server_error"
    assert [event.step for event in events_of(broken, "step")] == [1, 2]
    assert any("internal error" in event.data["message"] for event in events_of(broken, "warning"))
    view = look(broken)
    assert (view.status.state, view.run.state) == ("failed", "failed")
    assert KEY not in str(failed.value)
    for path in site.folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    # Submitted anew it is another job, told from its own beginning.
    service.fails_at_step = None
    resume(broken)
    broken = find_job(site.runs, "broken")
    assert until_ended(broken).status.state == "succeeded"
    assert len(service.jobs) == 3
    steps = [(event.attempt, event.step) for event in events_of(broken, "step")]
    assert steps == [(1, 1), (1, 2), *((2, step) for step in range(1, STEPS + 1))]


def test_a_job_is_paused_goes_on_and_is_cancelled(service: FakeOpenAi, site: Site) -> None:
    service.most_turns = 0
    job = site.submit(site.recipe(site.labelled()))
    assert (look(job).status.state, look(job).status.words) == ("queued", "validating files")
    assert [event.data["state"] for event in events_of(job, "status")] == ["preparing"]
    service.most_turns = 1000
    while (view := look(job)).run.step < 2:
        pass
    assert (view.status.state, view.run.state) == ("running", "running")
    pause(job)
    view = look(job)
    assert (view.status.state, view.run.state) == ("paused", "paused")
    step = view.run.step
    assert look(job).run.step == step
    resume(job)
    assert look(job).status.state in ("queued", "running")
    service.most_turns = service.turns[job.handle["job"]] + 1
    for _ in range(5):
        look(job)
    assert look(job).run.step > step
    cancel(job)
    assert look(job).status.state == "cancelled"
    assert look(job).run.state == "cancelled"
    cancel(job)
    steps = [event.step for event in events_of(job, "step")]
    assert steps == list(range(1, len(steps) + 1))


def test_a_service_that_cannot_pause_says_so(service: FakeOpenAi, site: Site) -> None:
    service.habits = frozenset({"no pause"})
    job = site.submit(site.recipe(site.labelled()))
    with pytest.raises(RunError) as caught:
        pause(job)
    assert caught.value.code == "job.no_pause"


def test_a_job_that_the_service_has_forgotten_is_lost(service: FakeOpenAi, site: Site) -> None:
    job = site.submit(site.recipe(site.labelled()))
    service.jobs.clear()
    assert look(job).status.state == "lost"
    assert list(logs(job)) == []
    cancel(job)


def test_a_job_is_found_where_it_was_made_whatever_the_environment_says_later(
    service: FakeOpenAi, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = site.submit(site.recipe(site.labelled()))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    assert look(job).status.state in ("queued", "running")
    with pytest.raises(NetworkError) as caught:
        site.submit(site.recipe(site.labelled()), name="two", key="kept")
    assert caught.value.code == "network.openai"
    # Whoever tries again with the key goes on with this run.
    assert (site.runs / "two").is_dir()
    monkeypatch.setenv("OPENAI_BASE_URL", service.url)
    assert site.submit(site.recipe(site.labelled()), name="three", key="kept").run.name == "two"


@pytest.mark.parametrize("habit", ["base64 results", "gone results"])
def test_results_in_base64_are_read_and_ones_that_are_gone_do_no_harm(
    service: FakeOpenAi, site: Site, habit: Any
) -> None:
    service.habits = frozenset({habit})
    job = site.submit(site.recipe(site.labelled()))
    assert until_ended(job).status.state == "succeeded"
    kept = json.loads(job.run.service_model.read_text())
    assert kept["name"]
    if habit == "gone results":
        assert (kept["results"], len(kept["missing_results"])) == ([], 1)
    else:
        assert (job.run.path / "results.csv").read_text().startswith("step,train_loss")


def test_azures_paths(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    with serve_openai(load_contract(), prefix="/openai") as azure:
        monkeypatch.setenv("AZURE_OPENAI_API_KEY", KEY)
        endpoint = azure.url.removesuffix("/openai")
        settings = {"api": "azure", "api_version": "2025-04-01-preview", "training_type": "Developer"}
        with pytest.raises(UsageError) as caught:
            site.submit(site.recipe(site.labelled(), settings))
        assert caught.value.place == "executor.endpoint"
        job = site.submit(site.recipe(site.labelled(), {**settings, "endpoint": endpoint}))
        assert azure.bodies[0]["trainingType"] == "Developer"
        assert azure.contents[azure.bodies[0]["training_file"]].startswith(b"\xef\xbb\xbf{")
        assert all("api-version=2025-04-01-preview" in target for _, target, _ in azure.asked)
        assert all(headers["api-key"] == KEY for _, _, headers in azure.asked)
        assert until_ended(job).status.state == "succeeded"
        monkeypatch.delenv("AZURE_OPENAI_API_KEY")
        monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", KEY)
        assert look(job).status.state == "succeeded"
        assert azure.problems == []
    assert json.loads(job.run.service_model.read_text())["endpoint"] == endpoint


def test_what_would_be_submitted_is_written_and_nothing_is_asked(service: FakeOpenAi, site: Site) -> None:
    folder = site.folder / "rendered"
    asked = Asked("one", "a")
    names = {path.name for path in render(site.recipe(site.labelled()), site.runs, asked, folder)}
    assert names == {"job.json", "training.jsonl", "validation.jsonl"}
    body = json.loads((folder / "job.json").read_text())
    assert service.contract.problems_of_named("CreateFineTuningJobRequest", body) == []
    assert service.asked == []
    job = site.submit(site.recipe(site.labelled()), key="a")
    sent = service.contents[service.bodies[0]["training_file"]]
    assert sent == (folder / "training.jsonl").read_bytes()
    assert body["metadata"] == service.bodies[0]["metadata"]
    assert job.run.name == "one"


def test_from_the_command_line(service: FakeOpenAi, site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    runs = str(site.runs)
    command = ["submit", "--model", MODEL, "--data", str(site.labelled()), "--on", "openai", "--output", runs]
    assert run_command([*command, f"executor.model={MODEL}", "--name", "one", "--follow"]) == 0
    shown = capsys.readouterr()
    assert f"ft:{MODEL}:" in shown.out
    assert service.url in shown.out
    assert "tunesmith chat" not in shown.out
    assert run_command(["jobs", "show", "one", "--output", runs]) == 0
    assert "succeeded" in capsys.readouterr().out
    assert run_command(["jobs", "list", "--output", runs, "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["executor"], found["state"], found["progress"]["state"]) == ("openai", "succeeded", "finished")
    assert KEY not in json.dumps(found)
    assert run_command(["jobs", "logs", "one", "--output", runs]) == 0
    assert "Created fine-tuning job" in capsys.readouterr().out
    assert run_command(command) != 0
    assert "executor.model" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("package", ["openai==3.54.0", "openai==1.109.1"])
def test_both_generations_of_the_official_package(service: FakeOpenAi, site: Site, package: str) -> None:
    recipe = site.recipe(site.labelled(), {"base_url": service.url})
    (site.folder / "recipe.yaml").write_text(dump_recipe(recipe))
    path = os.pathsep.join([str(packages_of(environment(package))), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(site.folder)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["version"] == package.partition("==")[2]
    assert (seen["same"], seen["paused"], seen["state"]) == (True, "paused", "succeeded")
    assert [step for kind, step in seen["events"] if kind == "step"] == list(range(1, STEPS + 1))
    assert seen["model"]["name"].startswith(f"ft:{MODEL}:")
    assert seen["model"]["results"] == ["results.csv"]
    assert seen["lines"] >= STEPS
    assert len(service.jobs) == 1


def test_errors_of_ours_pass_through_the_client(service: FakeOpenAi, site: Site) -> None:
    unlearned = {"role": "assistant", "content": "!", "weight": 0}
    data = site.rows([{"messages": [{"role": "user", "content": "?"}, unlearned]}] * 2)
    with pytest.raises(TunesmithError) as caught:
        site.submit(site.recipe(data, validation=str(data)))
    assert caught.value.code == "data.nothing_trained"
    assert service.files == {}
