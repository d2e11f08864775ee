"""Numbers for Prometheus, and traces sent to a receiver."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from service_site import ANY_DATABASE, DATABASES, Site, make_site
from sqlalchemy import insert
from trace_receiver import receiver

from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.ids import new_id
from tunesmith.service.shared.traces import span, start_traces, stop_traces

OWN = "/tunesmith/v1"


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


def numbers(answer: httpx.Response) -> dict[tuple[str, ...], float]:
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


@ANY_DATABASE
def test_requests_are_counted_by_route_and_never_by_name(site: Site) -> None:
    client = site.client()
    for name in ("proj_a", "proj_b", site.default.id):
        client.get(f"{OWN}/projects/{name}")
    client.get("/nowhere/secret-name")
    answer = site.operator.get("/metrics")
    found = numbers(answer)
    route = f"{OWN}/projects/{{project_id}}"
    assert found["tunesmith_requests_total", "GET", route, "404"] == 2
    assert found["tunesmith_requests_total", "GET", route, "200"] == 1
    assert found["tunesmith_requests_total", "GET", "none", "404"] == 1
    assert found["tunesmith_request_seconds_count", "GET", route] == 3
    assert not re.search("proj_a|secret-name", answer.text)


def test_jobs_and_their_queue_are_told(site: Site) -> None:
    empty: dict[str, Any] = {name: {} for name in ("method", "hyperparameters", "options", "recipe")}
    row = {"project_id": site.default.id, "created_by": "x", "model": "m", "training_file": "f", "seed": 0, **empty}
    with site.context.database.write() as connection:
        for state, age in (("queued", 100), ("queued", 20), ("running", 500)):
            more = {"id": new_id("ftjob-"), "state": state, "created_at": site.context.now() - age}
            rest = {"reason": "none", "wish": "run", "priority": 0, "result_files": []}
            connection.execute(insert(JOBS).values(**row, **more, **rest))
    found = numbers(site.operator.get("/metrics"))
    assert found["tunesmith_jobs", "queued"] == 2
    assert found["tunesmith_jobs", "running"] == 1
    assert found["tunesmith_jobs", "failed"] == 0
    assert 100 <= found["tunesmith_queue_age_seconds",] < 110


@ANY_DATABASE
def test_numbers_are_for_operators_wherever_the_request_comes_from(site: Site) -> None:
    assert site.operator.get("/metrics").status_code == 200
    assert site.client("admin").get("/metrics").status_code == 403
    for address in ("127.0.0.1", "::1", "9.9.9.9"):
        here = TestClient(site.app, client=(address, 5), raise_server_exceptions=False)
        assert here.get("/metrics").status_code == 401


def test_the_settings_may_let_scrapers_read_numbers_without_a_key(tmp_path: Path) -> None:
    site = make_site(tmp_path, metrics_without_key=True)
    assert numbers(site.with_key(None).get("/metrics"))["tunesmith_projects",] == 1
    assert site.with_key(None).get("/v1/models").status_code == 401
    site.context.database.close()


def test_traces_arrive_and_hold_no_secret(tmp_path: Path) -> None:
    with receiver() as traces:
        site = make_site(tmp_path, traces=traces.address)
        key = site.default.key()
        site.with_key(key).get(f"{OWN}/projects/{site.default.id}")
        site.with_key(None).get(f"{OWN}/openid/callback?code=secret-code&state=x")
        with span("job.submit", {"job": "ftjob-1"}):
            pass
        stop_traces()
        site.context.database.close()
    names = {one.name for one in traces.spans}
    assert f"GET {OWN}/projects/{{project_id}}" in names
    assert "job.submit" in names
    assert key not in str(traces.spans)
    assert "secret-code" not in str(traces.spans)


def test_without_a_place_nothing_is_traced(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    start_traces(site.context.settings, "api")
    with span("job.submit"):
        assert site.client().get(f"{OWN}/projects").status_code == 200
