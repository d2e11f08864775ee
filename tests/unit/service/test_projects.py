"""Projects, people in them, and keys: who may make and see what."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from service_site import DATABASES, Site, make_site
from sqlalchemy import insert, select, update

from tunesmith.service.db.tables.accounts import API_KEYS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.jobs import JOBS
from tunesmith.service.db.tables.keeping import AUDIT
from tunesmith.service.db.tables.usage import USAGE
from tunesmith.service.ids import new_id

OWN = "/tunesmith/v1"


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


def add_job(site: Site, project_id: str, state: str) -> str:
    row: dict[str, Any] = {
        "id": new_id("ftjob-"),
        "project_id": project_id,
        "created_at": site.context.now(),
        "created_by": "somebody",
        "model": "smollm2-135m-instruct",
        "training_file": "file-1",
        "seed": 0,
        "method": {},
        "hyperparameters": {},
        "options": {},
        "recipe": {},
        "state": state,
        "reason": "none",
        "wish": "run",
        "priority": 0,
        "result_files": [],
        "run": None,
    }
    with site.context.database.write() as connection:
        connection.execute(insert(JOBS).values(**row))
    return str(row["id"])


def actions(site: Site, project_id: str) -> list[str]:
    with site.context.database.read() as connection:
        found = connection.execute(select(AUDIT.c.action).where(AUDIT.c.project_id == project_id).order_by(AUDIT.c.id))
        return list(found.scalars())


def test_an_operator_makes_changes_and_closes_a_project(site: Site) -> None:
    made = site.operator.post(f"{OWN}/projects", json={"name": "team a", "budget": 12.5, "jobs_at_once": 2})
    assert made.status_code == 200, made.text
    project = made.json()
    assert (project["name"], project["budget"], project["status"]) == ("team a", 12.5, "active")
    assert site.operator.post(f"{OWN}/projects", json={"name": "team a"}).json()["error"]["code"] == "name_taken"
    changed = site.operator.post(f"{OWN}/projects/{project['id']}", json={"budget": None, "priority": 3}).json()
    assert (changed["budget"], changed["priority"], changed["jobs_at_once"]) == (None, 3, 2)

    key = site.new_key("member", project["id"])
    assert site.with_key(key).get(f"{OWN}/projects/{project['id']}").status_code == 200
    assert site.operator.delete(f"{OWN}/projects/{project['id']}").json()["error"]["code"] == "not_archived"
    site.operator.post(f"{OWN}/projects/{project['id']}/archive")
    assert site.with_key(key).get(f"{OWN}/projects").status_code == 403
    site.operator.post(f"{OWN}/projects/{project['id']}/restore")
    assert site.with_key(key).get(f"{OWN}/projects").status_code == 200
    assert actions(site, project["id"]) == ["project.create", "project.update", "project.archive", "project.restore"]


def test_a_deleted_project_leaves_no_rows_and_no_bytes(site: Site) -> None:
    project = site.project("gone")
    site.context.storage.write(f"projects/{project.id}/files/file-1", b"secret rows")
    key = project.key("member")
    job = add_job(site, project.id, "running")
    refused = site.operator.post(f"{OWN}/projects/{project.id}/archive")
    assert refused.json()["error"]["code"] == "jobs_open"
    with site.context.database.write() as connection:
        connection.execute(update(JOBS).where(JOBS.c.id == job).values(state="succeeded"))
    # A run of a cluster lies in the storage; the job may have lost its word of it.
    site.context.storage.write(f"runs/{job}/recipe.yaml", b"x")
    site.operator.post(f"{OWN}/projects/{project.id}/archive")
    assert site.operator.delete(f"{OWN}/projects/{project.id}").json()["deleted"] is True
    assert site.operator.get(f"{OWN}/projects/{project.id}").status_code == 404
    assert site.with_key(key).get(f"{OWN}/projects").status_code == 401
    assert not site.context.storage.exists(f"projects/{project.id}/files/file-1")
    assert not site.context.storage.exists(f"runs/{job}/recipe.yaml")
    assert actions(site, project.id)[-1] == "project.delete"


def test_what_a_deleted_project_has_used_stays_in_the_operators_accounts(site: Site) -> None:
    project, other = site.project("gone"), site.project("there")
    hour = int(site.context.now() // 3600)
    row = {"hour": hour, "kind": "input_tokens", "model": "tiny", "key_id": "", "quantity": 7, "cost": 0.5}
    with site.context.database.write() as connection:
        connection.execute(insert(USAGE), [{"project_id": one.id, **row} for one in (project, other)])
    site.operator.post(f"{OWN}/projects/{project.id}/archive")
    assert site.operator.delete(f"{OWN}/projects/{project.id}").json()["deleted"] is True
    told = site.operator.get(f"{OWN}/usage/projects").json()
    assert told["cost"] == 1.0
    by_name = {one["project"]: one for one in told["data"]}
    assert by_name.keys() == {"gone", "there"}
    assert by_name["gone"]["deleted_at"] == pytest.approx(site.context.now(), abs=60)
    assert (by_name["gone"]["project_id"], by_name["gone"]["quantity"]) == (project.id, 7)
    assert by_name["there"]["deleted_at"] is None
    # Its name is free again, and the new one has used nothing.
    again = site.project("gone")
    assert again.client().get(f"{OWN}/usage").json()["data"] == []
    assert other.client("admin").get(f"{OWN}/usage/projects").status_code == 403
    assert site.operator.delete(f"{OWN}/projects/{project.id}").status_code == 404


def test_the_default_project_stays(site: Site) -> None:
    path = f"{OWN}/projects/{site.default.id}"
    assert site.operator.post(f"{path}/archive").json()["error"]["code"] == "default_project"
    assert site.operator.post(path, json={"name": "other"}).json()["error"]["code"] == "default_project"


def test_owners_decide_part_of_their_project(site: Site) -> None:
    project = site.project("mine")
    owner = project.client("admin")
    path = f"{OWN}/projects/{project.id}"
    assert owner.post(path, json={"retention_days": 30, "name": "ours"}).json()["retention_days"] == 30
    refused = owner.post(path, json={"budget": 1e6})
    assert (refused.status_code, refused.json()["error"]["param"]) == (403, "budget")
    assert project.client("member").post(path, json={"name": "theirs"}).status_code == 403
    assert owner.post(f"{OWN}/projects", json={"name": "more"}).status_code == 403
    assert owner.post(f"{OWN}/projects/{site.default.id}", json={"name": "taken"}).status_code == 404


WRONG: tuple[tuple[dict[str, Any], str], ...] = (
    ({"name": "proj_like_an_id"}, "name"),
    ({"name": "../up"}, "name"),
    ({"name": "a\nb"}, "name"),
    ({"name": "ok", "budget": -1}, "budget"),
    ({"name": "ok", "budget_action": "ignore"}, "budget_action"),
    ({"name": "ok", "quota": 1}, "quota"),
    ({"name": "ok", "allowed_models": ["/etc/passwd"]}, "allowed_models"),
)


def test_what_is_wrong_with_a_project_is_named(tmp_path: Path) -> None:
    operator = make_site(tmp_path).operator
    for body, param in WRONG:
        answer = operator.post(f"{OWN}/projects", json=body)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_quotas_are_told_with_what_is_used(site: Site) -> None:
    project = site.project("busy", storage_bytes=1000)
    for state in ("running", "queued", "paused", "succeeded"):
        add_job(site, project.id, state)
    with site.context.database.write() as connection:
        for deleted in (None, 5.0):
            row = {"project_id": project.id, "purpose": "fine-tune", "filename": "a", "bytes": 400, "sha256": "0"}
            more = {"id": new_id("file-"), "place": "x", "status": "processed", "created_at": 1.0}
            connection.execute(insert(FILES).values(**row, **more, deleted_at=deleted))
    told = project.client().get(f"{OWN}/projects/{project.id}/quotas").json()
    assert told["limits"]["storage_bytes"] == 1000
    assert told["use"] == {
        "jobs_running": 1,
        "jobs_waiting": 1,
        "jobs_paused": 1,
        "storage_bytes": 400,
        "spent_this_month": 0.0,
        "currency": "USD",
    }


def test_a_key_is_shown_once_and_worth_no_more_than_its_maker(site: Site) -> None:
    project = site.project("keys")
    member = project.client("member")
    made = member.post(f"{OWN}/keys", json={"name": "ci", "scope": "inference"}).json()
    assert made["value"].startswith("ts-")
    assert site.with_key(made["value"]).get(f"{OWN}/keys").status_code == 403
    listed = member.get(f"{OWN}/keys")
    assert made["value"] not in listed.text
    assert made["id"] in {one["id"] for one in listed.json()["data"]}
    assert member.post(f"{OWN}/keys", json={"name": "more", "scope": "admin"}).status_code == 403
    assert member.post(f"{OWN}/keys", json={"name": "all", "operator": True}).status_code == 403
    assert project.client("admin").get(f"{OWN}/keys?operator=true").status_code == 403

    assert member.delete(f"{OWN}/keys/{made['id']}").json()["revoked_at"] is not None
    assert site.with_key(made["value"]).get(f"{OWN}/keys").status_code
    assert actions(site, project.id) == ["api_key.create", "api_key.revoke"]


def test_members_see_and_revoke_their_own_keys_only(site: Site) -> None:
    project = site.project("keys")
    first, second, admin = project.client("member"), project.client("member"), project.client("admin")
    key = first.post(f"{OWN}/keys", json={"name": "mine"}).json()["id"]
    assert second.delete(f"{OWN}/keys/{key}").status_code == 404
    assert len(second.get(f"{OWN}/keys").json()["data"]) == 1
    assert len(admin.get(f"{OWN}/keys").json()["data"]) == 4
    assert site.client("admin").delete(f"{OWN}/keys/{key}").status_code == 404
    assert admin.delete(f"{OWN}/keys/{key}").status_code == 200


def test_a_key_ends_when_it_should_and_with_the_one_that_made_it(site: Site) -> None:
    project = site.project("keys")
    soon = site.context.now() + 100
    short = site.with_key(project.key("member", expires_at=soon))
    made = short.post(f"{OWN}/keys", json={"name": "longer", "expires_seconds": 10_000}).json()
    assert made["expires_at"] == int(soon)
    forever = project.client("member").post(f"{OWN}/keys", json={"name": "forever"}).json()
    assert forever["expires_at"] is None
    with site.context.database.write() as connection:
        connection.execute(update(API_KEYS).where(API_KEYS.c.id == made["id"]).values(expires_at=soon - 1000))
    assert site.with_key(made["value"]).get(f"{OWN}/projects").status_code == 401


def test_operators_keys_are_for_the_whole_service(site: Site) -> None:
    made = site.operator.post(f"{OWN}/keys", json={"name": "second", "operator": True}).json()
    assert made["project_id"] is None
    second = site.with_key(made["value"])
    assert second.get(f"{OWN}/users").status_code == 200
    assert len(second.get(f"{OWN}/keys?operator=true").json()["data"]) == 2
    second.delete(f"{OWN}/keys/{made['id']}")
    assert second.get(f"{OWN}/users").status_code == 401


def test_people_join_and_leave_a_project(site: Site) -> None:
    project = site.project("people")
    owner, path = project.client("admin"), f"{OWN}/projects/{project.id}/members"
    user = site.operator.post(f"{OWN}/users", json={"email": "Ada@Example.org", "name": "Ada"}).json()
    assert user["email"] == "ada@example.org"
    assert owner.post(path, json={"email": "nobody@example.org"}).status_code == 404
    assert owner.post(path, json={}).status_code == 400
    added = owner.post(path, json={"email": "ada@example.org", "role": "owner"}).json()
    assert (added["id"], added["role"]) == (user["id"], "owner")
    assert owner.post(path, json={"user_id": user["id"]}).status_code == 409

    theirs = site.with_key(project.key("admin", user_id=user["id"]))
    least = site.with_key(project.key("inference", user_id=user["id"]))
    assert theirs.get(path).json()["data"][0]["email"] == "ada@example.org"
    assert owner.post(f"{path}/{user['id']}", json={"role": "inference"}).json()["role"] == "inference"
    assert theirs.get(path).status_code == 401
    assert least.get(path).status_code == 403
    assert owner.delete(f"{path}/{user['id']}").json()["deleted"] is True
    assert least.get(path).status_code == 401
    assert owner.delete(f"{path}/{user['id']}").status_code == 404
    assert actions(site, project.id) == ["member.add", "member.update", "member.remove"]


def test_the_keys_of_somebody_disabled_are_good_for_nothing(site: Site) -> None:
    user = site.operator.post(f"{OWN}/users", json={"email": "eve@example.org", "name": "Eve"}).json()
    members = f"{OWN}/projects/{site.default.id}/members"
    site.operator.post(members, json={"user_id": user["id"], "role": "member"})
    theirs = site.with_key(site.default.key("member", user_id=user["id"]))
    assert theirs.get(f"{OWN}/projects").status_code == 200
    path = f"{OWN}/users/{user['id']}"
    assert site.operator.post(path, json={"disabled": True}).json()["disabled_at"] is not None
    assert theirs.get(f"{OWN}/projects").status_code == 401
    site.operator.post(path, json={"disabled": False})
    assert theirs.get(f"{OWN}/projects").status_code == 200
    assert site.client("admin").get(f"{OWN}/users").status_code == 403


def test_the_keys_of_an_administrator_who_is_none_any_more_are_worth_what_the_person_is(site: Site) -> None:
    user = site.operator.post(f"{OWN}/users", json={"email": "eve@example.org", "name": "Eve", "is_admin": True}).json()
    project, other = site.project("theirs"), site.project("others")
    site.operator.post(f"{OWN}/projects/{project.id}/members", json={"user_id": user["id"], "role": "member"})
    of_all = site.with_key(site.new_key("admin", None, user_id=user["id"]))
    # Made with that key: it is the same person's.
    second = site.with_key(of_all.post(f"{OWN}/keys", json={"name": "two", "operator": True}).json()["value"])
    owner, member = (site.with_key(project.key(scope, user_id=user["id"])) for scope in ("admin", "member"))
    stranger = site.with_key(other.key("inference", user_id=user["id"]))
    session = site.with_key(None)
    signed = session.post(f"{OWN}/sessions", json={"key": second.headers["authorization"].split()[1]})
    clients = (of_all, second, session, owner, stranger, member)
    assert signed.status_code == 200
    assert [one.get(f"{OWN}/session").status_code for one in clients] == [200] * 6

    path = f"{OWN}/users/{user['id']}"
    assert site.operator.post(path, json={"is_admin": False}).json()["is_admin"] is False
    assert [one.get(f"{OWN}/session").status_code for one in clients] == [401, 401, 401, 401, 401, 200]
    assert [one.post(f"{OWN}/projects", json={"name": "x"}).status_code for one in clients[:2]] == [401, 401]
