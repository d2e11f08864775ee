"""Batches without engines: refused with line numbers, cancelled, ended by their window, on each database."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from openapi import Contract, load_contract
from service_site import DATABASES, Project, Site, make_site
from sqlalchemy import select, update

from tunesmith.service.batches.states import give_turn, take
from tunesmith.service.batches.turns import AWAY_SECONDS, should_give_turn
from tunesmith.service.batches.work import work
from tunesmith.service.db.tables.inference import BATCHES
from tunesmith.service.db.tables.keeping import DELIVERIES, WEBHOOKS
from tunesmith.service.shared.files import keep_file


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    folder = tmp_path / "tiny"
    folder.mkdir()
    site = make_site(tmp_path, request.param, models=[f"tiny={folder}"])
    yield site
    site.context.database.close()


def line(number: int = 1, **changes: Any) -> dict[str, Any]:
    body = {"model": "tiny", "messages": [{"role": "user", "content": str(number)}]}
    return {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body, **changes}


def upload(project: Project, folder: Path, lines: list[Any], purpose: str = "batch") -> str:
    path = folder / "batch.jsonl"
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
    return keep_file(project.site.context, project.id, purpose, "batch.jsonl", path)


def create(project: Project, file: str, **more: Any) -> dict[str, Any]:
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h", **more}
    answer = project.client().post("/v1/batches", json=asked)
    assert answer.status_code == 200, answer.text
    return checked(load_contract(), dict(answer.json()))


def checked(contract: Contract, batch: dict[str, Any]) -> dict[str, Any]:
    assert contract.problems_of_named("Batch", {key: value for key, value in batch.items() if value is not None}) == []
    return batch


def go_on(site: Site) -> None:
    """What the dispatcher's thread does, once."""
    row = take(site.context)
    assert row is not None
    work(site.context, row, threading.Event())


def look(project: Project, name: str) -> dict[str, Any]:
    return checked(load_contract(), dict(project.client().get(f"/v1/batches/{name}").json()))


def test_lines_that_cannot_be_asked_are_told_with_their_numbers(site: Site, tmp_path: Path) -> None:
    project = site.default
    lines = [
        line(1),
        "{not json",
        line(1),
        line(4, url="/v1/embeddings"),
        line(5, method="GET"),
        "",
        line(7, body={"model": "another"}),
        line(8, body={**line()["body"], "stream": True}),
        line(9, body={}),
    ]
    batch = create(project, upload(project, tmp_path, lines))
    assert batch["status"] == "validating"
    go_on(site)
    batch = look(project, batch["id"])
    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    assert {error["line"]: error["code"] for error in batch["errors"]["data"]} == {
        2: "invalid_json_line",
        3: "duplicate_custom_id",
        4: "invalid_url",
        5: "invalid_request",
        7: "mismatched_model",
        8: "invalid_request",
        9: "missing_required_parameter",
    }
    assert take(site.context) is None


def test_a_model_that_the_project_may_not_use_fails_the_batch(site: Site, tmp_path: Path) -> None:
    project = site.project("narrow", allowed_models=["another"])
    batch = create(project, upload(project, tmp_path, [line()]))
    go_on(site)
    (error,) = look(project, batch["id"])["errors"]["data"]
    assert error["code"] == "model_not_allowed"


def test_what_cannot_be_a_batch_is_refused_at_once(site: Site, tmp_path: Path) -> None:
    project = site.default
    client = project.client()
    file = upload(project, tmp_path, [line()])
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    tuning = upload(project, tmp_path, [line()], "fine-tune")
    for wrong, status, param in (
        ({"endpoint": "/v1/responses"}, 400, "endpoint"),
        ({"completion_window": "1h"}, 400, "completion_window"),
        ({"input_file_id": "file-nothing"}, 404, "input_file_id"),
        ({"input_file_id": tuning}, 400, "input_file_id"),
        ({"metadata": {"k" * 65: "v"}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 5}}, 400, "output_expires_after.seconds"),
    ):
        answer = client.post("/v1/batches", json={**asked, **wrong})
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["param"] == param
    other = site.project("other")
    answer = other.client().post("/v1/batches", json=asked)
    assert answer.status_code == 404
    batch = create(project, file)
    assert other.client().get(f"/v1/batches/{batch['id']}").status_code == 404
    assert other.client().post(f"/v1/batches/{batch['id']}/cancel").status_code == 404
    assert other.client().get("/v1/batches").json()["data"] == []
    assert project.client("inference").post("/v1/batches", json=asked).status_code == 403


def test_a_batch_of_too_many_requests(site: Site, tmp_path: Path) -> None:
    site.context.settings.limits.batch_requests = 2
    batch = create(site.default, upload(site.default, tmp_path, [line(at) for at in range(3)]))
    go_on(site)
    assert [error["code"] for error in look(site.default, batch["id"])["errors"]["data"]] == ["too_many_requests"]


def test_a_repeated_request_makes_one_batch(site: Site, tmp_path: Path) -> None:
    client = site.client()
    file = upload(site.default, tmp_path, [line()])
    asked = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    first = client.post("/v1/batches", json=asked)
    again = client.post("/v1/batches", json=asked, headers={"x-stainless-retry-count": "1"})
    assert again.json() == first.json()
    assert len(client.get("/v1/batches").json()["data"]) == 1


def test_pages_of_batches_are_the_newest_first(site: Site, tmp_path: Path) -> None:
    file = upload(site.default, tmp_path, [line()])
    names = [create(site.default, file, metadata={"at": str(at)})["id"] for at in range(3)]
    client = site.client("inference")
    first = client.get("/v1/batches?limit=2").json()
    assert [one["id"] for one in first["data"]] == names[:0:-1]
    assert first["has_more"] is True
    rest = client.get(f"/v1/batches?limit=2&after={first['last_id']}").json()
    assert [one["metadata"] for one in rest["data"]] == [{"at": "0"}]


def test_a_batch_that_is_cancelled_before_it_began(site: Site, tmp_path: Path) -> None:
    project = site.default
    hook = {"id": "wh_1", "project_id": project.id, "url": "https://example.com", "secret": "s", "enabled": True}
    with site.context.database.write() as connection:
        connection.execute(WEBHOOKS.insert().values(events=["batch.cancelled"], created_at=0, **hook))
    batch = create(project, upload(project, tmp_path, [line()]))
    answer = project.client().post(f"/v1/batches/{batch['id']}/cancel")
    assert answer.json()["status"] == "cancelling"
    go_on(site)
    batch = look(project, batch["id"])
    assert batch["status"] == "cancelled"
    assert batch.get("output_file_id") is None
    assert project.client().post(f"/v1/batches/{batch['id']}/cancel").status_code == 409
    with site.context.database.read() as connection:
        assert [row.event for row in connection.execute(select(DELIVERIES))] == ["batch.cancelled"]


def test_what_was_not_answered_in_time_is_told_line_by_line(site: Site, tmp_path: Path) -> None:
    project = site.default
    batch = create(project, upload(project, tmp_path, [line(at) for at in range(3)]))
    with site.context.database.write() as connection:
        connection.execute(update(BATCHES).values(expires_at=site.context.now() - 1))
    go_on(site)
    batch = look(project, batch["id"])
    assert batch["status"] == "expired"
    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    told = [json.loads(line) for line in site.file_bytes(batch["error_file_id"]).splitlines()]
    assert {one["custom_id"] for one in told} == {"r0", "r1", "r2"}
    assert {one["error"]["code"] for one in told} == {"batch_expired"}


def test_one_works_for_a_batch_and_the_next_one_once_that_is_gone(site: Site, tmp_path: Path) -> None:
    create(site.default, upload(site.default, tmp_path, [line()]))
    row = take(site.context)
    assert row is not None
    assert take(site.context) is None
    with site.context.database.write() as connection:
        connection.execute(update(BATCHES).values(lock_expires_at=site.context.now() - 1))
    again = take(site.context)
    assert again is not None
    # The first one was only slow: it changes nothing any more.
    work(site.context, row, threading.Event())
    with site.context.database.read() as connection:
        found = connection.execute(select(BATCHES)).one()
    assert found.state == "validating"
    assert found.lock_token == again.lock_token


def taken(site: Site) -> Any:
    row = take(site.context)
    assert row is not None
    return row


def test_turns_of_batches_go_by_priority_then_by_fairness_then_by_age(site: Site, tmp_path: Path) -> None:
    def make(project: Project) -> str:
        return str(create(project, upload(project, tmp_path, [line()]))["id"])

    mine = [make(site.default) for _ in range(3)]
    theirs = site.project("other")
    other = [make(theirs) for _ in range(2)]
    urgent = make(site.project("urgent", priority=5))
    dropped = make(site.default)
    site.client().post(f"/v1/batches/{dropped}/cancel")
    # The one that is cancelled asks nothing; as long as it is held it counts as under way.
    order = [taken(site).id for _ in range(6)]
    assert order == [dropped, urgent, other[0], mine[0], other[1], mine[1]]


def test_a_batch_that_gives_its_turn_waits_for_its_machine_and_for_the_others(site: Site, tmp_path: Path) -> None:
    projects = [site.default, site.project("other"), site.project("third")]
    names = [create(project, upload(project, tmp_path, [line()]))["id"] for project in projects]
    order = []
    for _ in range(5):
        row = taken(site)
        order.append(row.id)
        give_turn(site.context, row)
    assert order == [*names, *names[:2]]
    settings = site.context.settings.model_copy(update={"data_folder": tmp_path / "elsewhere"})
    assert take(replace(site.context, settings=settings)) is None
    later = replace(site.context, settings=settings, now=lambda: time.time() + AWAY_SECONDS + 1)
    assert take(later) is not None


def test_a_turn_is_given_to_projects_that_have_less(site: Site, tmp_path: Path) -> None:
    other, urgent = site.project("other"), site.project("urgent", priority=5)

    def make(project: Project) -> None:
        create(project, upload(project, tmp_path, [line()]))

    make(site.default)
    make(site.default)
    first = taken(site)
    assert not should_give_turn(site.context, first), "what waits is its own project's"
    make(other)
    assert should_give_turn(site.context, first)
    theirs = taken(site)
    assert theirs.project_id == other.id
    make(other)
    assert not should_give_turn(site.context, first), "they have as much as it has"
    make(urgent)
    assert should_give_turn(site.context, first)
    assert not should_give_turn(site.context, taken(site)), "nobody is more urgent"
