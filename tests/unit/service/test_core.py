"""What every part of the service stands on: names, keys, databases, the gate and the edge."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from service_site import DATABASES, Site, database_url, make_site, served
from sqlalchemy import delete, insert, select, update

from tunesmith.errors import UsageError
from tunesmith.service.db.database import open_database
from tunesmith.service.db.migrate import newest, revision_of, upgrade
from tunesmith.service.db.tables import METADATA
from tunesmith.service.db.tables.accounts import API_KEYS, PROJECTS
from tunesmith.service.db.tables.evaluations import EVALUATIONS
from tunesmith.service.first import prepare
from tunesmith.service.ids import new_id


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


def test_names_are_in_the_order_in_which_they_were_made() -> None:
    names = [new_id("file-") for _ in range(500)]
    assert names == sorted(set(names))


def test_the_tables_are_those_that_the_program_names(site: Site) -> None:
    database = site.context.database
    assert revision_of(database) == newest()
    with database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), METADATA) == []
    upgrade(database)
    assert revision_of(database) == newest()


def test_tables_of_a_newer_program_are_left_alone(site: Site) -> None:
    with site.context.database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UsageError, match="newer version"):
        upgrade(site.context.database)


@pytest.mark.parametrize("kind", DATABASES)
def test_what_an_older_program_kept_gains_evaluations(kind: str, tmp_path: Path) -> None:
    database = open_database(database_url(kind, tmp_path))
    upgrade(database, "0004")
    project = {"id": "proj_1", "name": "old", "created_at": 1.0, "priority": 0, "budget_action": "stop"}
    with database.write() as connection:
        connection.execute(insert(PROJECTS).values(**project))
    upgrade(database)
    row = {"id": "eval_1", "project_id": "proj_1", "model": "m", "measured": "m", "base": "m", "file_id": "file-1"}
    with database.write() as connection:
        connection.execute(insert(EVALUATIONS).values(options={}, state="queued", created_at=1.0, **row))
        found = connection.execute(select(EVALUATIONS)).one()
        assert (found.tries, found.error, found.lock_token) == (0, None, None)
        connection.execute(delete(PROJECTS))
        assert connection.execute(select(EVALUATIONS)).first() is None
    database.close()


@pytest.mark.parametrize("kind", DATABASES)
def test_several_processes_start_at_once(kind: str, tmp_path: Path) -> None:
    url = database_url(kind, tmp_path)
    databases = [open_database(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade, databases))
    assert {revision_of(one) for one in databases} == {newest()}
    for one in databases:
        one.close()


def test_the_first_key_is_given_once_and_is_nowhere(site: Site, tmp_path: Path) -> None:
    assert site.first_key.startswith("ts-")
    assert prepare(site.context) is None
    with site.context.database.read() as connection:
        (row,) = connection.execute(select(API_KEYS)).all()
    assert site.first_key not in str(row)
    assert row.shown.endswith(site.first_key[-4:])


def test_an_error_undoes_what_was_written(site: Site) -> None:
    def fail() -> None:
        with site.context.database.write() as connection:
            connection.execute(
                insert(PROJECTS).values(id="proj_1", name="one", created_at=0, priority=0, budget_action="stop")
            )
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    with site.context.database.read() as connection:
        assert connection.execute(select(PROJECTS).where(PROJECTS.c.name == "one")).first() is None


def test_two_that_read_and_write_do_not_lose_anything(site: Site) -> None:
    database, project = site.context.database, site.default

    def count(_: int) -> None:
        with database.write() as connection:
            found = select(PROJECTS.c.priority).where(PROJECTS.c.id == project.id).with_for_update()
            now = connection.execute(found).scalar_one()
            connection.execute(update(PROJECTS).where(PROJECTS.c.id == project.id).values(priority=now + 1))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(40)))
    with database.read() as connection:
        assert connection.execute(select(PROJECTS.c.priority).where(PROJECTS.c.id == project.id)).scalar_one() == 40


def test_every_answer_has_a_name_and_keeps_browsers_safe(site: Site) -> None:
    answer = site.client().get("/nothing")
    assert answer.status_code == 404
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert answer.headers["x-request-id"].startswith("req_")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    site = make_site(tmp_path, limits={"body_bytes": 1000})
    answer = site.client().post("/v1/chat/completions", content=b"x" * 1001)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"


def test_a_body_that_says_no_length_is_refused_once_it_is_too_large(tmp_path: Path) -> None:
    """Over a network, whether the route or the framework reads the body; the same pieces within the limit are read."""
    site = make_site(tmp_path, limits={"body_bytes": 1000})
    headers = {"Authorization": f"Bearer {site.default.key('admin')}", "Content-Type": "application/json"}
    with served(site) as address, httpx.Client(base_url=address, headers=headers, trust_env=False) as client:
        for path in ("/v1/chat/completions", "/v1/embeddings", "/v1/fine_tuning/jobs", "/tunesmith/v1/keys"):
            answer = client.post(path, content=iter([b" " * 600, b" " * 600, b"{}"]))
            assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large"), path
            assert answer.headers["x-request-id"].startswith("req_")
            assert "content-security-policy" in answer.headers
            answer = client.post(path, content=iter([b" " * 400, b" " * 400, b"{}"]))
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), path


@pytest.mark.parametrize("text", ["\\u0000", "\\ud800", "\\udc00 letters"])
def test_a_text_that_no_answer_could_tell_is_not_taken(site: Site, text: str) -> None:
    """Kept in a row, it would end every list with that row in it."""
    client = site.client("admin")
    json = {"Content-Type": "application/json"}
    for path, body, param in (
        ("/v1/fine_tuning/jobs", '{"model": "m", "training_file": "f", "metadata": {"a": "%s"}}', "metadata.a"),
        ("/v1/fine_tuning/jobs", '{"model": "m", "training_file": "f", "tunesmith": {"%s": 1}}', "tunesmith"),
        ("/v1/batches", '{"input_file_id": "f", "endpoint": "e", "metadata": {"a": "%s"}}', "metadata.a"),
        ("/tunesmith/v1/keys", '{"name": "%s"}', "name"),
        ("/tunesmith/v1/deployments", '{"name": "d", "traffic": {"%s": 100}}', "traffic"),
    ):
        answer = client.post(path, content=body % text, headers=json)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, "invalid_value", param), path
        assert "lone surrogates" in error["message"]
    whole = client.post("/tunesmith/v1/keys", content='{"name": "\\ud83d\\ude00 \\\\ud800"}', headers=json)
    assert whole.json()["name"] == "\U0001f600 \\ud800"


def test_names_with_zero_bytes_reach_no_database(site: Site) -> None:
    client = site.client()
    for path in ("/v1/files/%00", "/v1/fine_tuning/jobs?after=%00", "/v1/fine_tuning/jobs?metadata[%00]=a"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_value"), path


def test_what_is_missing_is_named(site: Site) -> None:
    client = site.client()
    for body, code, param in (
        ({"model": "m"}, "missing_required_parameter", "training_file"),
        ({"model": 5, "training_file": "f"}, "invalid_value", "model"),
        (None, "missing_required_parameter", None),
    ):
        answer = client.post("/v1/fine_tuning/jobs", **({} if body is None else {"json": body}))
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["param"]) == (400, code, param)
    answer = client.put("/v1/fine_tuning/jobs", json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


def test_a_conflict_is_not_asked_again_by_itself(site: Site) -> None:
    site.project("taken")
    answer = site.operator.post("/tunesmith/v1/projects", json={"name": "taken"})
    assert (answer.status_code, answer.headers["x-should-retry"]) == (409, "false")


def test_a_service_is_ready_while_its_database_answers(site: Site) -> None:
    assert site.with_key(None).get("/ready").status_code == 200
    site.context.database.engine.dispose()
    assert site.with_key(None).get("/health").json() == {"status": "ok"}
