"""Evaluations: refused early with lines, taken in turn, measured once whatever is killed, on each database."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_engines import until
from service_evaluations import PATH, create, go_on, look, plan_of, report_of, stand_in_worker
from service_jobs import chat_rows, jobs_site, pair_rows, upload
from service_site import ANY_DATABASE, DATABASES, Project, Site
from sqlalchemy import func, insert, select, update

from tunesmith.errors import UsageError
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.inference import DEPLOYMENTS
from tunesmith.service.db.tables.keeping import AUDIT, DELIVERIES, WEBHOOKS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.evaluations.chores import remove_old_evaluations
from tunesmith.service.evaluations.states import end, leave, renew, take
from tunesmith.service.evaluations.work import run_evaluations, work
from tunesmith.service.files.chores import remove_deleted_bytes
from tunesmith.service.shared import working
from tunesmith.service.shared.working import LostError

TUNED = "ft:tiny:tunesmith:mine:abcdefgh"
CHOICE = {"question": "Which is a fruit?", "choices": ["a stone", "an apple"], "answer": 1}


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = jobs_site(tmp_path, request.param, prices={"tiny": {"input_tokens": 1e6, "output_tokens": 2e6}})
    yield site
    site.context.database.close()


def write(site: Site, **values: Any) -> None:
    with site.context.database.write() as connection:
        connection.execute(update(EVALUATIONS).values(**values))


def keep_tuned(project: Project, name: str = TUNED) -> str:
    """A tuned model of a project, as a dispatcher keeps it."""
    row = {"id": name, "project_id": project.id, "base": "tiny", "address": "ftjob-1:1", "created_at": 1.0}
    with project.site.context.database.write() as connection:
        connection.execute(insert(TUNED_MODELS).values(job_id="ftjob-1", **row))
    return name


def used(site: Site) -> dict[tuple[str, str], tuple[float, float]]:
    """Quantity and cost by model and kind, of all keys together."""
    total = (func.sum(USAGE.c.quantity).label("quantity"), func.sum(USAGE.c.cost).label("cost"))
    query = select(USAGE.c.model, USAGE.c.kind, *total).group_by(USAGE.c.model, USAGE.c.kind)
    with site.context.database.read() as connection:
        return {(row.model, row.kind): (row.quantity, row.cost) for row in connection.execute(query)}


def told_events(site: Site) -> list[str]:
    with site.context.database.read() as connection:
        return [row.event for row in connection.execute(select(DELIVERIES).order_by(DELIVERIES.c.id))]


def hook(project: Project) -> None:
    events = [f"evaluation.{state}" for state in ("succeeded", "failed", "cancelled")]
    row = {"id": f"wh_{project.id}", "project_id": project.id, "url": "https://example.org/", "created_at": 1.0}
    with project.site.context.database.write() as connection:
        connection.execute(insert(WEBHOOKS).values(secret="s", events=events, enabled=True, **row))


def test_a_tuned_model_is_measured_beside_its_base(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.default
    hook(project)
    keep_tuned(project)
    verdict = {"metric": "exact_match", "base": 0.25, "tuned": 0.5, "difference": 0.25, "decided": True, "text": "up"}
    report = report_of("base", "tuned", run="ftjob-1:1", verdict=verdict)
    stand_in_worker(monkeypatch, tmp_path, plan_of(report))
    monkeypatch.setattr("tunesmith.jobs.stages.make_usable", lambda *_, **__: None)
    asked = {"model": TUNED, "metrics": ["exact_match"], "rows": 3, "seed": 7, "metadata": {"a": "b"}}
    made = create(project, upload(project, chat_rows(3)), **asked)
    assert (made["status"], made["object"], made["measured_model"], made["base"]) == (
        "queued",
        "evaluation",
        TUNED,
        "tiny",
    )
    assert {name: made[name] for name in asked} == asked
    assert project.client().get(f"{PATH}/{made['id']}/report").status_code == 404
    go_on(site)
    done = look(project, made["id"])
    assert done["status"] == "succeeded"
    assert done["created_at"] <= done["started_at"] <= done["finished_at"]
    assert done["usage"] == {"input_tokens": 300, "output_tokens": 30, "total_tokens": 330}
    assert [one["name"] for one in done["result"]["systems"]] == ["base", "tuned"]
    assert (done["result"]["verdict"], done["result"]["rows"]) == (verdict, 3)
    assert used(site) == {
        ("tiny", "input_tokens"): (100, 100),
        ("tiny", "output_tokens"): (10, 20),
        (TUNED, "input_tokens"): (200, 200),
        (TUNED, "output_tokens"): (20, 40),
    }
    assert told_events(site) == ["evaluation.succeeded"]
    client = project.client()
    told = client.get(f"{PATH}/{made['id']}/report")
    assert told.json()["systems"][1]["metrics"]["exact_match"]["value"] == 0.5
    page = client.get(f"{PATH}/{made['id']}/report?format=html")
    assert page.headers["content-type"].startswith("text/html")
    assert page.text == f"<!doctype html><h1>Report of {TUNED}</h1>"
    assert [one for one in site.context.scratch.iterdir() if one.name.startswith("evaluation")] == []
    with site.context.database.read() as connection:
        assert "evaluation.create" in set(connection.execute(select(AUDIT.c.action)).scalars())


def test_rows_that_cannot_be_measured_are_told_with_their_lines(site: Site) -> None:
    project = site.default
    rows = [chat_rows(1)[0], "{not json", {"messages": []}, chat_rows(1)[0]]
    error = create(project, upload(project, rows), 400)
    assert (error["code"], error["param"]) == ("invalid_evaluation_file", "file")
    assert "line 2: " in error["message"]
    assert "line 3: " in error["message"]
    assert str(site.context.settings.data_folder.parent) not in error["message"]
    error = create(project, upload(project, [CHOICE, {"question": "What?"}]), 400, multiple_choice=True)
    assert (error["code"], error["param"]) == ("invalid_evaluation_file", "file")
    assert "line 2: " in error["message"]
    assert str(site.context.settings.data_folder.parent) not in error["message"]
    assert create(project, upload(project, []), 400)["param"] == "file"
    # What is no training file of a supervised job can be measured all the same.
    create(project, upload(project, pair_rows(1)))
    create(project, upload(project, [CHOICE]), multiple_choice=True, robustness=True, rows=1)


def test_what_cannot_be_an_evaluation_is_refused_at_once(site: Site) -> None:
    project = site.default
    file, choices = upload(project, chat_rows(3)), upload(project, [CHOICE])
    for wrong, status, param in (
        ({"model": "nothing"}, 404, "model"),
        ({"model": "/etc"}, 404, "model"),
        ({"model": TUNED}, 404, "model"),
        ({"file": "file-nothing"}, 404, "file"),
        ({"file": "../rows.jsonl"}, 404, "file"),
        ({"rows": 0}, 400, "rows"),
        ({"rows": True}, 400, "rows"),
        ({"few_shot": -1}, 400, "few_shot"),
        ({"max_new_tokens": 0}, 400, "max_new_tokens"),
        ({"samples": -1}, 400, "samples"),
        ({"seed": -1}, 400, "seed"),
        ({"metrics": []}, 400, "metrics"),
        ({"task": "nonsense"}, 400, "task"),
        ({"task": "ner"}, 400, "task"),
        ({"metadata": {"k" * 65: "v"}}, 400, "metadata"),
        ({"data": "rows.jsonl"}, 400, "data"),
        ({"file": choices, "multiple_choice": True, "task": "chat"}, 400, "task"),
        ({"file": choices, "multiple_choice": True, "few_shot": 0}, 400, "few_shot"),
        ({"multiple_choice": "yes"}, 400, "multiple_choice"),
    ):
        error = create(project, status=status, **{"file": file, **wrong})
        assert error["param"] == param, (wrong, error)
        assert set(error) == {"message", "type", "param", "code"}
    narrow = site.project("narrow", allowed_models=["another"])
    assert create(narrow, upload(narrow, chat_rows(1)), 403)["code"] == "model_not_allowed"
    poor = site.project("poor", budget=0.0)
    assert create(poor, upload(poor, chat_rows(1)), 429)["code"] == "insufficient_quota"
    site.context.settings.limits.jobs_waiting = 1
    create(project, file)
    assert create(project, file, 429)["code"] == "too_many_evaluations"


def test_nothing_of_another_project_is_reached(site: Site) -> None:
    project, other = site.default, site.project("other")
    file = upload(project, chat_rows(3))
    made = create(project, file)
    assert create(other, file, 404)["param"] == "file"
    keep_tuned(project)
    assert create(other, upload(other, chat_rows(3)), 404, model=TUNED)["param"] == "model"
    client = other.client("admin")
    for method, path in (("GET", ""), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/report")):
        assert client.request(method, f"{PATH}/{made['id']}{path}").status_code == 404
    assert client.get(PATH).json()["data"] == []
    assert project.client("inference").get(PATH).status_code == 403
    assert look(project, made["id"])["status"] == "queued"


def test_a_deployment_means_its_one_model(site: Site) -> None:
    project = site.default
    file = upload(project, chat_rows(3))
    with site.context.database.write() as connection:
        for name, traffic in (("one", {"tiny": 100}), ("two", {"tiny": 50, "other": 50})):
            row = {"id": f"dep_{name}", "project_id": project.id, "name": name, "kind": "real-time", "created_at": 1.0}
            connection.execute(insert(DEPLOYMENTS).values(traffic=traffic, **row))
    made = create(project, file, model="one")
    assert (made["model"], made["measured_model"]) == ("one", "tiny")
    assert create(project, file, 400, model="two")["code"] == "several_models"


def test_a_repeated_request_makes_one_and_lists_have_pages(site: Site) -> None:
    client, file = site.client(), upload(site.default, chat_rows(3))
    asked, key = {"model": "tiny", "file": file}, {"Idempotency-Key": "one"}
    first, again = (client.post(PATH, json=asked, headers=key).json() for _ in range(2))
    assert first == again
    second = client.post(PATH, json=asked).json()
    page = client.get(PATH, params={"limit": 1}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([second["id"]], True)
    page = client.get(PATH, params={"limit": 1, "after": page["last_id"]}).json()
    assert ([one["id"] for one in page["data"]], page["has_more"]) == ([first["id"]], False)


def test_turns_are_fair_over_projects(site: Site) -> None:
    one, two, urgent = site.default, site.project("two"), site.project("urgent")
    first = [create(one, upload(one, chat_rows(1)))["id"] for _ in range(3)]
    second = [create(two, upload(two, chat_rows(1)))["id"] for _ in range(2)]
    third = create(urgent, upload(urgent, chat_rows(1)))["id"]
    with site.context.database.write() as connection:
        connection.execute(update(PROJECTS).where(PROJECTS.c.id == urgent.id).values(priority=1))
    limited = site.project("limited", jobs_at_once=1)
    kept = [create(limited, upload(limited, chat_rows(1)))["id"] for _ in range(2)]
    order = [first[0], second[0], first[1], second[1], first[2]]
    taken = [row.id for row in iter(lambda: take(site.context), None)]
    assert taken == [third, order[0], order[1], kept[0], *order[2:]]
    # It has one that runs; when that is over, the next one may.
    limited.client().post(f"{PATH}/{kept[0]}/cancel")
    following = take(site.context)
    assert following is not None
    assert following.id == kept[1]


def test_a_cancelled_evaluation_ends_at_once_and_its_worker_soon(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = site.default
    hook(project)
    monkeypatch.setattr(working, "_BEAT_SECONDS", 0.1)
    stand_in_worker(monkeypatch, tmp_path, [["event", "status", None, {"state": "evaluating"}], ["sleep", 300]])
    waiting, running = (create(project, upload(project, chat_rows(1)))["id"] for _ in range(2))
    client = project.client()
    assert client.post(f"{PATH}/{waiting}/cancel").json()["status"] == "cancelled"
    row = take(site.context)
    assert row is not None
    thread = threading.Thread(target=work, args=(site.context, row, threading.Event()))
    thread.start()
    until(lambda: (look(project, running)["progress"] or {}).get("stage") == "evaluating")
    assert client.delete(f"{PATH}/{running}").status_code == 409
    cancelled = client.post(f"{PATH}/{running}/cancel").json()
    assert (cancelled["status"], cancelled["progress"]) == ("cancelled", None)
    thread.join(120)
    assert not thread.is_alive()
    again = client.post(f"{PATH}/{running}/cancel")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "evaluation_ended")
    assert look(project, running)["status"] == "cancelled"
    assert used(site) == {}
    assert told_events(site) == ["evaluation.cancelled"] * 2
    assert take(site.context) is None


def test_only_who_holds_the_lock_ends_it(site: Site) -> None:
    """A dispatcher that was silent for too long finds that another one has the evaluation."""
    create(site.default, upload(site.default, chat_rows(1)))
    late = take(site.context)
    assert late is not None
    assert take(site.context) is None
    write(site, lock_expires_at=0.0)
    heir = take(site.context)
    assert heir is not None
    assert (heir.id, heir.tries) == (late.id, 1)
    with pytest.raises(LostError):
        renew(site.context, late, None)
    with pytest.raises(LostError):
        leave(site.context, late)
    with pytest.raises(LostError), site.context.database.write() as connection:
        end(site.context, connection, late, "failed")
    with site.context.database.write() as connection:
        end(site.context, connection, heir, "succeeded")
    with pytest.raises(LostError), site.context.database.write() as connection:
        end(site.context, connection, heir, "failed")


def test_a_killed_worker_is_started_again_and_given_up_at_last(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = site.default
    hook(project)
    name = create(project, upload(project, chat_rows(1)))["id"]
    stand_in_worker(monkeypatch, tmp_path, [["kill"]])
    for _ in range(3):
        go_on(site)
        assert look(project, name)["status"] == "queued"
        # It waits longer and longer.
        assert take(site.context) is None
        write(site, lock_expires_at=0.0)
    stand_in_worker(monkeypatch, tmp_path, plan_of(report_of()))
    go_on(site)
    assert look(project, name)["status"] == "succeeded"
    failing = create(project, upload(project, chat_rows(1)))["id"]
    stand_in_worker(monkeypatch, tmp_path, [["kill"]])
    for _ in range(4):
        go_on(site)
        write(site, lock_expires_at=None)
    failed = look(project, failing)
    assert failed["status"] == "failed"
    assert signal.SIGKILL.name not in failed["error"]["message"]
    assert str(tmp_path) not in json.dumps(failed)
    assert told_events(site) == ["evaluation.succeeded", "evaluation.failed"]


def test_what_the_worker_refuses_is_told(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.default
    place = str(tmp_path / "tiny")
    error = UsageError("no such metric", code="usage.metric", place=place, value="x")
    stand_in_worker(monkeypatch, tmp_path, [["event", "error", None, error.to_json()], ["exit", 2]])
    name = create(project, upload(project, chat_rows(1)), metrics=["x"])["id"]
    go_on(site)
    failed = look(project, name)
    assert (failed["status"], failed["error"]["code"]) == ("failed", "usage.metric")
    assert "no such metric" in failed["error"]["message"]
    assert str(tmp_path) not in failed["error"]["message"]


def test_a_process_that_ends_leaves_it_to_the_next(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.default
    name = create(project, upload(project, chat_rows(1)))["id"]
    stand_in_worker(monkeypatch, tmp_path, [["event", "status", None, {"state": "evaluating"}], ["sleep", 300]])
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    go_on(site, stop)
    assert look(project, name)["status"] == "queued"
    stand_in_worker(monkeypatch, tmp_path, plan_of(report_of()))
    go_on(site)
    assert look(project, name)["status"] == "succeeded"
    assert used(site)["tiny", "input_tokens"] == (100, 100)


@ANY_DATABASE
def test_as_many_at_once_as_the_settings_say(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = site.default
    site.context.settings.limits.evaluations_at_once = 2
    monkeypatch.setattr(working, "_BEAT_SECONDS", 0.1)
    stand_in_worker(monkeypatch, tmp_path, [["sleep", 2], *plan_of(report_of())])
    for _ in range(3):
        create(project, upload(project, chat_rows(1)))
    stop, most = threading.Event(), 0
    thread = threading.Thread(target=run_evaluations, args=(site.context, stop))
    thread.start()
    ends = time.monotonic() + 120
    while time.monotonic() < ends:
        # In one answer: one after the other they would be seen at different moments.
        states = [one["status"] for one in project.client().get(PATH).json()["data"]]
        most = max(most, states.count("running"))
        if states == ["succeeded"] * 3:
            break
        time.sleep(0.05)
    stop.set()
    thread.join(60)
    assert most == 2
    assert states == ["succeeded"] * 3
    assert used(site)["tiny", "input_tokens"] == (300, 300)


def test_reports_go_with_their_evaluations(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deleted, kept for so many days, or gone with the project."""
    project = site.project("own", retention_days=2)
    stand_in_worker(monkeypatch, tmp_path, plan_of(report_of()))
    folder = f"projects/{project.id}/evaluations"
    names = [create(project, upload(project, chat_rows(1)))["id"] for _ in range(3)]
    for _ in names:
        go_on(site)
    store, client = site.context.storage, project.client()
    assert len(list(store.walk(folder))) == 9
    assert client.delete(f"{PATH}/{names[0]}").json() == {"id": names[0], "object": "evaluation", "deleted": True}
    assert client.get(f"{PATH}/{names[0]}").status_code == 404
    with site.context.database.write() as connection:
        old = site.context.now() - 3 * 86_400
        connection.execute(update(EVALUATIONS).where(EVALUATIONS.c.id == names[1]).values(finished_at=old))
    remove_old_evaluations(site.context)
    assert {one.path.split("/")[3] for one in store.walk(folder)} == {names[2]}
    assert [one["id"] for one in client.get(PATH).json()["data"]] == [names[2]]
    waiting = create(project, upload(project, chat_rows(1)))["id"]
    archive = f"/tunesmith/v1/projects/{project.id}"
    refused = site.operator.post(f"{archive}/archive")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "evaluations_open")
    client.post(f"{PATH}/{waiting}/cancel")
    assert site.operator.post(f"{archive}/archive").status_code == 200
    assert site.operator.delete(archive).status_code == 200
    assert list(store.walk(folder)) == []
    with site.context.database.read() as connection:
        assert connection.execute(select(EVALUATIONS)).first() is None


@ANY_DATABASE
def test_a_deleted_file_stays_while_an_evaluation_waits_for_it(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = site.default
    file = upload(project, chat_rows(1))
    name = create(project, file)["id"]
    assert project.client().delete(f"/v1/files/{file}").status_code == 200
    with site.context.database.write() as connection:
        connection.execute(update(FILES).values(deleted_at=1.0))
    remove_deleted_bytes(site.context)
    stand_in_worker(monkeypatch, tmp_path, plan_of(report_of()))
    go_on(site)
    assert look(project, name)["status"] == "succeeded"
    remove_deleted_bytes(site.context)
    with site.context.database.read() as connection:
        assert connection.execute(select(FILES).where(FILES.c.id == file)).first() is None
