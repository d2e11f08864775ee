"""Evaluations of the service that really measure: with the worker, beside a dispatcher in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from service_evaluations import PATH
from service_jobs import QUICK, chat_rows, jobs_site, upload
from service_jobs import create as create_job
from service_site import Site
from sqlalchemy import select, update
from tiny_models import tiny_model_folder

from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.settings import write_settings

_PATIENCE_SECONDS = 400.0
_PROGRAM = """
import sys, threading
from pathlib import Path
from tunesmith.service.context import open_context
from tunesmith.service.process import WORK, _function, run_together
from tunesmith.service.settings import read_settings
work = [_function(place) for place in WORK["dispatcher"]]
run_together(work, open_context(read_settings(Path(sys.argv[1]))), threading.Event())
"""
CHOICE = {"question": "Which is a fruit?", "choices": ["a stone", "an apple"], "answer": 1}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = jobs_site(tmp_path, "sqlite", tiny_model_folder("llama", tmp_path / "tiny"))
    yield site
    site.context.database.close()


def start_dispatcher(site: Site) -> subprocess.Popen[bytes]:
    path = site.context.settings.data_folder / "settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_settings(site.context.settings, path)
    with (path.parent / "dispatcher.log").open("ab") as log:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen([sys.executable, "-c", _PROGRAM, str(path)], stdout=log, stderr=log, env=environment)


@contextmanager
def dispatching(site: Site) -> Iterator[None]:
    process = start_dispatcher(site)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def until(found: Callable[[], Any], site: Site) -> Any:
    """What is found at last."""
    ends = time.monotonic() + _PATIENCE_SECONDS
    while not (value := found()):
        assert time.monotonic() < ends, (site.context.settings.data_folder / "dispatcher.log").read_text()[-3000:]
        time.sleep(0.2)
    return value


def ended(site: Site, path: str) -> dict[str, Any]:
    client = site.client()

    def look() -> dict[str, Any] | None:
        found: dict[str, Any] = client.get(path).json()
        return found if found["status"] in ("succeeded", "failed", "cancelled") else None

    told: dict[str, Any] = until(look, site)
    assert told["status"] == "succeeded", told["error"]
    return told


def measure(site: Site, **asked: Any) -> dict[str, Any]:
    """An evaluation that succeeds, with its report, which tells nothing of where things lie."""
    made = site.client().post(PATH, json=asked)
    assert made.status_code == 200, made.text
    path = f"{PATH}/{made.json()['id']}"
    done = ended(site, path)
    for form in ("html", "md", "json"):
        report = site.client().get(f"{path}/report?format={form}")
        assert report.status_code == 200
        assert str(site.context.settings.data_folder.parent) not in report.text
        assert "ftjob-" not in report.text
    return {**done, "report": report.json()}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_models_of_every_kind_are_measured(site: Site) -> None:
    client, file_id = site.client(), upload(site.default, chat_rows(40))
    rows, choices = upload(site.default, chat_rows(8), "evals"), upload(site.default, [CHOICE] * 3, "evals")
    with dispatching(site):
        numbers = {"n_epochs": 1, "batch_size": 12}
        job_id = create_job(client, file_id, suffix="mine", hyperparameters=numbers, tunesmith=QUICK)["id"]
        base = measure(site, model="tiny", file=rows, rows=5, max_new_tokens=4, samples=2)
        assert (base["report"]["run"], base["report"]["model"]["name"]) == ("tiny", "tiny")
        assert base["report"]["verdict"] is None
        assert len(base["report"]["samples"]) == 2
        assert base["report"]["samples"][0]["place"].startswith("rows.jsonl:")
        assert base["result"]["rows"] == 5
        assert base["usage"]["input_tokens"] > 50
        assert 0 < base["usage"]["output_tokens"] <= 20
        tuned = ended(site, f"/v1/fine_tuning/jobs/{job_id}")["fine_tuned_model"]
        both = measure(site, model=tuned, file=rows, rows=6, max_new_tokens=4, few_shot=1)
        assert [one["name"] for one in both["result"]["systems"]] == ["base", "few_shot", "tuned"]
        assert both["report"]["run"] == tuned
        assert both["report"]["verdict"]["rows"] == 6
        chosen = measure(site, model=tuned, file=choices, multiple_choice=True, robustness=True)
        assert [one["name"] for one in chosen["result"]["systems"]] == ["base", "tuned"]
        assert "choice_accuracy" in chosen["result"]["systems"][0]["metrics"]
        assert chosen["usage"]["output_tokens"] == 0
    with site.context.database.read() as connection:
        quantities: dict[str, float] = {}
        for row in connection.execute(select(USAGE).where(USAGE.c.kind == "input_tokens")):
            quantities[row.model] = quantities.get(row.model, 0) + row.quantity
    assert set(quantities) == {"tiny", tuned}
    assert sum(quantities.values()) == sum(one["usage"]["input_tokens"] for one in (base, both, chosen))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dispatcher_that_is_killed_loses_no_evaluation_and_ends_none_twice(site: Site) -> None:
    rows = upload(site.default, chat_rows(8))
    asked = {"model": "tiny", "file": rows, "max_new_tokens": 4}
    name = site.client().post(PATH, json=asked).json()["id"]
    dispatcher = start_dispatcher(site)
    until(lambda: site.client().get(f"{PATH}/{name}").json()["status"] == "running", site)
    workers = until(lambda: psutil.Process(dispatcher.pid).children(recursive=True), site)
    dispatcher.kill()
    dispatcher.wait()
    # A worker ends with who started it.
    assert psutil.wait_procs(workers, timeout=120)[1] == []
    assert site.client().get(f"{PATH}/{name}").json()["status"] == "running"
    with site.context.database.write() as connection:
        # What a minute would do.
        connection.execute(update(EVALUATIONS).values(lock_expires_at=0.0))
    with dispatching(site):
        done = ended(site, f"{PATH}/{name}")
    with site.context.database.read() as connection:
        counted = {row.kind: row.quantity for row in connection.execute(select(USAGE))}
        assert connection.execute(select(EVALUATIONS.c.tries)).scalar_one() == 1
    assert counted["input_tokens"] == done["usage"]["input_tokens"]
    assert counted["output_tokens"] == done["usage"]["output_tokens"]
