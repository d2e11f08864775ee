"""The catalog with its licences, use and prices, budgets, and the audit log."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from service_site import ANY_DATABASE, DATABASES, Project, Site, make_site
from sqlalchemy import insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.keeping import AUDIT, DELIVERIES, WEBHOOKS
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.errors import ApiError
from tunesmith.service.ids import new_id
from tunesmith.service.shared.metering import count_use, require_budget
from tunesmith.service.shared.naming import require_model
from tunesmith.service.shared.telling import note_action
from tunesmith.service.usage.usage import count_storage, tell_of_budgets

OWN = "/tunesmith/v1"
BASE, GATED = "smollm2-135m-instruct", "llama-3.2-1b-instruct"
PRICES = {"*": {"input_tokens": 1.0, "output_tokens": 4.0}, BASE: {"trained_tokens": 10.0}}


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param, models=[BASE, GATED, f"own={tmp_path}"], prices=PRICES, currency="EUR")
    yield site
    site.context.database.close()


def use(site: Site, project: Project, model: str, *, day: str = "2026-11-29", **quantities: int) -> None:
    moment = datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()
    context = replace(site.context, now=lambda: moment)
    with context.database.write() as connection:
        count_use(context, connection, project.id, model, quantities, key_id="key_1")  # type: ignore[arg-type]


@ANY_DATABASE
def test_the_catalog_tells_what_a_project_may_use(site: Site, tmp_path: Path) -> None:
    client = site.project("shop", allowed_models=[BASE, GATED]).client("inference")
    answer = client.get(f"{OWN}/catalog")
    models = {one["id"]: one for one in answer.json()["data"]}
    assert set(models) == {BASE, GATED, "own"}
    assert str(tmp_path) not in answer.text
    assert models[BASE]["licence"] == "apache-2.0"
    assert (models[BASE]["accepted"], models[BASE]["allowed"]) == (True, True)
    assert (models[GATED]["accepted"], models["own"]["allowed"]) == (False, False)
    assert models[BASE]["prices"]["trained_tokens"] == 10.0
    assert {"lora", "full"} <= set(models[BASE]["techniques"])
    assert [models[name]["chat_template"] for name in (BASE, "own")] == [True, None]
    assert [one["id"] for one in client.get(f"{OWN}/catalog?family=llama").json()["data"]] == [GATED]
    assert [one["id"] for one in client.get(f"{OWN}/catalog?search=SMOL").json()["data"]] == [BASE]
    assert [one["id"] for one in client.get(f"{OWN}/catalog?most_parameters=200000000").json()["data"]] == [BASE]
    assert client.get(f"{OWN}/catalog/{GATED}").json()["licence_to_accept"] == models[GATED]["licence"]


def test_a_licence_is_accepted_for_a_project_and_withdrawn(site: Site) -> None:
    project = site.project("shop")
    member = project.client()
    path = f"{OWN}/catalog/{GATED}/accept"
    caller = Caller("member", False, project.id, "key k", "k", None, "req_1", None)

    def ask() -> None:
        with site.context.database.read() as connection:
            require_model(site.context, connection, caller, GATED)

    with pytest.raises(ApiError, match="licence"):
        ask()
    assert project.client("inference").post(path).status_code == 403
    assert member.post(path, json={"licence": "mit"}).json()["error"]["code"] == "other_licence"
    licence = member.get(f"{OWN}/catalog/{GATED}").json()["licence"]
    made = member.post(path, json={"licence": licence}).json()
    assert made["accepted_by"].startswith("key ")
    assert member.post(path).json()["id"] == made["id"]
    ask()
    assert [one["model"] for one in member.get(f"{OWN}/catalog/acceptances").json()["data"]] == [GATED]
    assert site.client().get(f"{OWN}/catalog/{GATED}").json()["accepted"] is False
    assert member.delete(path).json()["deleted"] is True
    assert member.delete(path).status_code == 404
    with pytest.raises(ApiError, match="licence"):
        ask()
    assert member.post(f"{OWN}/catalog/{BASE}/accept").json()["error"]["code"] == "nothing_to_accept"


def test_use_is_summed_by_day_model_key_and_kind(site: Site) -> None:
    project = site.project("users")
    use(site, project, BASE, input_tokens=1_000_000, output_tokens=500_000)
    use(site, project, BASE, input_tokens=1_000_000)
    use(site, project, "ft:x", day="2026-11-28", trained_tokens=3)
    use(site, site.default, BASE, input_tokens=9)
    days = "start=2026-11-01&end=2026-11-30"
    client = project.client()
    total = client.get(f"{OWN}/usage?{days}").json()
    assert {one["kind"]: one["quantity"] for one in total["data"]} == {
        "input_tokens": 2_000_000,
        "output_tokens": 500_000,
        "trained_tokens": 3,
    }
    assert (total["cost"], total["currency"]) == (4.0, "EUR")
    by_day = client.get(f"{OWN}/usage?{days}&group_by=day&group_by=model").json()["data"]
    assert [(one["day"], one["model"], one["kind"]) for one in by_day] == [
        ("2026-11-28", "ft:x", "trained_tokens"),
        ("2026-11-29", BASE, "input_tokens"),
        ("2026-11-29", BASE, "output_tokens"),
    ]
    assert client.get(f"{OWN}/usage?start=2026-11-29&end=2026-11-29").json()["cost"] == 4.0
    assert client.get(f"{OWN}/usage?start=2026-11-30&end=2026-11-01").status_code == 400
    assert client.get(f"{OWN}/usage?group_by=secret").status_code == 400
    prices = {one["model"]: one for one in client.get(f"{OWN}/prices").json()["data"]}
    assert prices[BASE]["output_tokens"] == 4.0


@ANY_DATABASE
def test_days_are_asked_for_to_the_end_of_the_calendar(site: Site) -> None:
    client = site.client()
    for days, status in (
        ({"start": "9999-12-31", "end": "9999-12-31"}, 200),
        ({"start": "0001-01-01", "end": "9999-12-31"}, 400),
        ({"end": "9999-12-31"}, 400),
        ({"start": "2026-11-30", "end": "2026-11-01"}, 400),
    ):
        for path in ("usage", "usage/export"):
            answer = client.get(f"/tunesmith/v1/{path}", params=days)
            assert answer.status_code == status, answer.text
            assert status == 200 or answer.json()["error"]["param"] == "end"


def test_use_is_exported_for_spreadsheets(site: Site) -> None:
    project = site.project("users")
    use(site, project, "=HYPERLINK(1)", input_tokens=7)
    answer = project.client().get(f"{OWN}/usage/export?start=2026-11-29&end=2026-11-29")
    assert answer.headers["content-type"].startswith("text/csv")
    (row,) = csv.DictReader(answer.text.splitlines())
    assert row["model"] == "'=HYPERLINK(1)"
    assert (row["day"], row["quantity"], row["kind"], row["project_id"]) == (
        "2026-11-29",
        "7",
        "input_tokens",
        project.id,
    )


def test_bytes_that_are_kept_are_counted_once_an_hour(site: Site) -> None:
    project = site.project("keeping")
    row = {"purpose": "fine-tune", "filename": "a", "bytes": 500, "sha256": "0", "place": "x", "status": "processed"}
    with site.context.database.write() as connection:
        connection.execute(insert(FILES).values(id=new_id("file-"), project_id=project.id, created_at=1.0, **row))
    for _ in range(2):
        count_storage(site.context)
    with site.context.database.read() as connection:
        (counted,) = connection.execute(select(USAGE)).all()
    assert (counted.kind, counted.quantity, counted.project_id) == ("stored_byte_hours", 500, project.id)
    assert project.client().get(f"{OWN}/usage/now").json()["storage_bytes"] == 500


def test_a_budget_that_is_gone_stops_new_work_and_is_told_once_a_month(site: Site) -> None:
    project = site.project("poor", budget=2.0)
    moment = datetime(2026, 11, 29, tzinfo=UTC).timestamp()
    context = replace(site.context, now=lambda: moment)
    with context.database.write() as connection:
        row = {"id": "wh_1", "project_id": project.id, "url": "https://example.org", "secret": "s", "created_at": 0.0}
        connection.execute(insert(WEBHOOKS).values(**row, events=["budget.exceeded"], enabled=True))
    use(site, project, BASE, input_tokens=1_500_000)
    tell_of_budgets(context)
    with context.database.read() as connection:
        assert connection.execute(select(DELIVERIES)).all() == []
        require_budget(context, connection, project.id, coming=0.5)
        with pytest.raises(ApiError) as refused:
            require_budget(context, connection, project.id, coming=0.6)
    assert (refused.value.status, refused.value.detail.code) == (429, "insufficient_quota")
    assert refused.value.headers["x-should-retry"] == "false"
    use(site, project, BASE, input_tokens=600_000)
    for _ in range(2):
        tell_of_budgets(context)
    with context.database.read() as connection:
        (told,) = connection.execute(select(DELIVERIES)).all()
        with pytest.raises(ApiError):
            require_budget(context, connection, project.id)
    assert told.payload["data"]["id"] == project.id
    # The next month begins with all of it.
    later = replace(site.context, now=lambda: moment + 5 * 86_400)
    with context.database.read() as connection:
        require_budget(later, connection, project.id)


def test_the_audit_log_is_read_by_those_whom_it_concerns(site: Site) -> None:
    project, other = site.project("seen"), site.project("other")
    admin = project.client("admin")
    key = admin.post(f"{OWN}/keys", json={"name": "one"}).json()["id"]
    other.client("admin").post(f"{OWN}/keys", json={"name": "two"})
    admin.delete(f"{OWN}/keys/{key}")
    lines = admin.get(f"{OWN}/audit").json()["data"]
    assert [(one["action"], one["target"]) for one in lines] == [("api_key.revoke", key), ("api_key.create", key)]
    assert lines[0]["request_id"].startswith("req_")
    assert lines[0]["client"] == "testclient"
    assert len(admin.get(f"{OWN}/audit?action=api_key.create").json()["data"]) == 1
    assert admin.get(f"{OWN}/audit?since={site.context.now() + 5}").json()["data"] == []
    assert admin.get(f"{OWN}/audit?actor=nobody").json()["data"] == []
    assert admin.get(f"{OWN}/audit?project_id={other.id}").json()["data"] == []
    assert project.client("member").get(f"{OWN}/audit").status_code == 403
    everything = site.operator.get(f"{OWN}/audit").json()["data"]
    assert {one["project_id"] for one in everything} == {project.id, other.id}
    assert len(site.operator.get(f"{OWN}/audit?project_id={other.id}").json()["data"]) == 1
    first = site.operator.get(f"{OWN}/audit?limit=2").json()
    rest = site.operator.get(f"{OWN}/audit?limit=2&after={first['last_id']}").json()
    assert (first["has_more"], rest["has_more"], len(rest["data"])) == (True, False, 1)


@ANY_DATABASE
def test_nobody_writes_lines_into_logs_by_what_they_send(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="tunesmith.service.access")
    site.client().get("/v1/x%0Areq_fake%20GET%20/admin%20200%1b[2J")
    assert "\\nreq_fake" in caplog.text
    assert not any("\n" in record.getMessage() or "\x1b" in record.getMessage() for record in caplog.records)
    caller = Caller("admin", False, site.default.id, "a\nb", None, None, "req_1", None)
    with site.context.database.write() as connection:
        note_action(site.context, connection, caller, "x", target="c\r\nd\x1b")
        (row,) = connection.execute(select(AUDIT)).all()
    assert (row.actor, row.target) == ("a\\nb", "c\\r\\nd\\x1b")


def test_a_value_that_no_database_keeps_is_the_askers_mistake(site: Site) -> None:
    answer = site.operator.get(f"{OWN}/projects/%00")
    assert answer.status_code in (400, 404), answer.text
