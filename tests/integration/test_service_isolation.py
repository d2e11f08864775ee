"""Every route of the service, with what belongs to somebody else, with no key, and with a key that may too little.

A new route is walked by itself. It needs: a name for each new parameter of its path (tests/service_rows.py), a body in
``BODIES`` if it reads one before it looks for the thing, and a line in ``FOR_INFERENCE`` or ``OPEN`` if that is so.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.routing import iter_route_contexts
from service_rows import BASE, PLANTED, Rows, plant
from service_site import Project, Site, make_site
from sqlalchemy import select

import tunesmith.service
from tunesmith.service.app import OWN_PREFIX, PREFIXES
from tunesmith.service.db.tables import METADATA
from tunesmith.service.db.tables.accounts import SECRETS, SESSIONS
from tunesmith.service.db.tables.keeping import WEBHOOKS

ROOMS = {path.name for path in Path(tunesmith.service.__file__).parent.iterdir() if path.is_dir()}
# For everybody.
OPEN = {
    ("GET", "/health"),
    ("GET", "/ready"),
    ("POST", f"{OWN_PREFIX}/sessions"),
    ("GET", f"{OWN_PREFIX}/openid/login"),
    ("GET", f"{OWN_PREFIX}/openid/callback"),
    ("GET", "/"),
    ("GET", "/ui/sign-in"),
    ("GET", "/ui/static/{asset:path}"),
}
# Addresses that begin so are pages: their refusals are too.
PAGES = "/ui"
# For keys that may only ask models; without the prefixes.
FOR_INFERENCE = {
    ("POST", "/chat/completions"),
    ("POST", "/completions"),
    ("POST", "/embeddings"),
    ("POST", "/classify"),
    ("POST", "/deployments/{deployment:path}/chat/completions"),
    ("POST", "/deployments/{deployment:path}/completions"),
    ("POST", "/deployments/{deployment:path}/embeddings"),
    ("GET", "/models"),
    ("GET", "/models/{model:path}"),
    ("GET", "/batches"),
    ("GET", "/batches/{batch_id}"),
    ("GET", "/catalog"),
    ("GET", "/catalog/{model:path}"),
    ("GET", "/prices"),
    ("GET", "/session"),
    ("DELETE", "/session"),
    ("GET", "/deployments"),
    ("GET", "/deployments/{name}"),
    ("GET", "/registry"),
    ("GET", "/registry/{model:path}"),
    ("GET", "/registry/{model:path}/card"),
    ("GET", "/ui"),
    ("GET", "/ui/catalog"),
    ("GET", "/ui/models"),
    ("GET", "/ui/models/{model:path}"),
    ("GET", "/ui/playground"),
    ("GET", "/ui/deployments"),
    ("GET", "/ui/deployments/{name}"),
    ("GET", "/ui/{rest:path}"),
}
MESSAGES = [{"role": "user", "content": "hello"}]
# What is read before the thing is looked for.
BODIES: dict[tuple[str, str], Any] = {
    ("POST", "/projects/{project_id}"): {"name": "taken"},
    ("POST", "/projects/{project_id}/members"): {"email": "somebody@example.org"},
    ("POST", "/projects/{project_id}/members/{user_id}"): {"role": "owner"},
    ("POST", "/users/{user_id}"): {"disabled": True},
    ("POST", "/webhooks/{webhook_id}"): {"enabled": False},
    ("POST", "/uploads/{upload_id}/complete"): {"part_ids": ["part_1"]},
    ("POST", "/fine_tuning/checkpoints/{checkpoint:path}/permissions"): {"project_ids": ["proj_1"]},
    ("PATCH", "/deployments/{name}"): {"min_replicas": 1},
    ("POST", "/registry/{model:path}/labels"): {"label": "production"},
    ("POST", "/deployments/{deployment:path}/chat/completions"): {"model": BASE, "messages": MESSAGES},
    ("POST", "/deployments/{deployment:path}/completions"): {"model": BASE, "prompt": "hello"},
    ("POST", "/deployments/{deployment:path}/embeddings"): {"model": BASE, "input": "hello"},
}
Route = tuple[str, str]


class Walker(ExitStack):
    """Asks as somebody, and keeps all answers."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: list[tuple[str, httpx.Response]] = []

    def as_(self, client: httpx.Client) -> httpx.Client:
        """A client whose requests share one loop: a new one for each takes longer than the request."""
        return self.enter_context(client)

    def ask(self, client: httpx.Client, method: str, path: str, body: Any = None) -> httpx.Response:
        content = {} if body is None and method not in ("POST", "PATCH", "PUT") else {"json": body or {}}
        answer = client.request(method, path, **content)
        self.answers.append((f"{method} {path}", answer))
        return answer


def routes_of(site: Site) -> list[Route]:
    """Every method of every path, under every prefix."""
    found = []
    for one in iter_route_contexts(site.app.routes):
        assert one.methods, f"{one.path} is no route with methods: say here who may see it"
        found += [(method, str(one.path)) for method in sorted(one.methods - {"HEAD"})]
    assert len(found) > 40
    return found


def plain(route: Route) -> Route:
    """A route without its prefix."""
    for prefix in sorted((OWN_PREFIX, *PREFIXES), key=len, reverse=True):
        if route[1].startswith(f"{prefix}/"):
            return route[0], route[1].removeprefix(prefix)
    return route


def parameters_of(path: str) -> list[str]:
    return re.findall(r"\{(\w+)(?::\w+)?\}", path)


def filled(path: str, rows: Rows) -> str:
    """A path with names of real things."""

    def name(match: re.Match[str]) -> str:
        known = rows.by_parameter.get(match[1])
        assert known is not None, f"{path}: tests/service_rows.py makes nothing for {match[1]}"
        return quote(known, safe=":")

    return re.sub(r"\{(\w+)(?::\w+)?\}", name, path)


def make(folder: Path, kind: str) -> Site:
    return make_site(folder, kind, limits={"requests_per_minute": 1_000_000, "failures_per_minute": 10_000})


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = make(tmp_path, "sqlite")
    yield site
    site.context.database.close()


@pytest.fixture
def walker() -> Iterator[Walker]:
    with Walker() as walker:
        yield walker


@pytest.fixture
def victim(site: Site) -> Project:
    return site.project("victim", allowed_models=[BASE])


@pytest.fixture
def rows(site: Site, victim: Project) -> Rows:
    return plant(site, victim)


def rows_of(site: Site, project: Project) -> dict[str, list[tuple[Any, ...]]]:
    """Everything in the database but how often somebody asked."""
    passing = {"used_at", "beat_at"}
    found = {}
    with site.context.database.read() as connection:
        for table in METADATA.sorted_tables:
            if table.name in ("rates", "api_keys", "requests", "audit"):
                continue
            columns = [column for column in table.columns if column.name not in passing]
            query = select(*columns)
            if "project_id" in table.columns:
                query = query.where(table.c.project_id == project.id)
            found[table.name] = sorted((tuple(row) for row in connection.execute(query)), key=repr)
    return found


@pytest.mark.parametrize(("kind", "scope"), [("sqlite", "member"), ("sqlite", "admin"), ("postgresql", "admin")])
def test_what_is_another_projects_is_not_there(tmp_path: Path, walker: Walker, kind: str, scope: str) -> None:
    site = make(tmp_path, kind)
    victim = site.project("victim", allowed_models=[BASE])
    rows, client = plant(site, victim), walker.as_(site.project("other").client(scope))
    before = rows_of(site, victim)
    wrong = []
    for method, path in routes_of(site):
        if not parameters_of(path):
            continue
        answer = walker.ask(client, method, filled(path, rows), BODIES.get(plain((method, path))))
        # 501: the part of the contract that the service does not have, whatever is named.
        if answer.status_code not in (403, 404, 501):
            wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert len(walker.answers) >= 20
    assert rows_of(site, victim) == before
    _require_no_leak(site, rows, walker, names_too=False)
    site.context.database.close()


def test_lists_hold_nothing_of_others(site: Site, rows: Rows, walker: Walker) -> None:
    client = walker.as_(site.project("other").client("admin"))
    for method, path in routes_of(site):
        if method == "GET" and not parameters_of(path) and (method, path) not in OPEN:
            walker.ask(client, method, path)
    assert sum(answer.status_code == 200 for _, answer in walker.answers) >= 8
    _require_no_leak(site, rows, walker, names_too=True)


def test_nobody_comes_in_without_a_key(site: Site, rows: Rows, walker: Walker) -> None:
    wrong = []
    for client in (walker.as_(site.with_key(None)), walker.as_(site.with_key("ts-wrong"))):
        for method, path in routes_of(site):
            if (method, path) in OPEN:
                continue
            answer = walker.ask(client, method, filled(path, rows))
            told = PAGES if path.startswith(PAGES) else answer.json()["error"]["code"]
            if answer.status_code != 401 or told not in (PAGES, "invalid_api_key"):
                wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert {route for route in OPEN if route not in routes_of(site)} == set()


def test_a_key_for_asking_models_does_nothing_else(site: Site, victim: Project, rows: Rows, walker: Walker) -> None:
    client = walker.as_(victim.client("inference"))
    before = rows_of(site, victim)
    wrong, allowed = [], set()
    for method, path in routes_of(site):
        if (method, path) in OPEN:
            continue
        if plain((method, path)) in FOR_INFERENCE:
            allowed.add(plain((method, path)))
            continue
        answer = walker.ask(client, method, filled(path, rows), BODIES.get(plain((method, path))))
        if answer.status_code != 403:
            wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert rows_of(site, victim) == before
    if {"batches", "chat", "deployments", "models", "registry"} <= ROOMS:
        assert allowed == FOR_INFERENCE


def test_a_member_does_not_run_the_project_and_nobody_but_operators_the_service(site: Site) -> None:
    project = site.project("own")
    member, admin = project.client("member"), project.client("admin")
    for path in ("audit", "webhooks"):
        assert member.get(f"{OWN_PREFIX}/{path}").status_code == 403
        assert admin.get(f"{OWN_PREFIX}/{path}").status_code == 200
    for method, path, body in (
        ("GET", "users", None),
        ("POST", "users", {"email": "a@b.org", "name": "a"}),
        ("POST", "projects", {"name": "more"}),
        ("POST", f"projects/{project.id}/archive", None),
        ("DELETE", f"projects/{project.id}", None),
        ("GET", "keys?operator=true", None),
    ):
        assert admin.request(method, f"{OWN_PREFIX}/{path}", json=body).status_code == 403


def test_another_project_cannot_be_named_in_a_header(site: Site, victim: Project, rows: Rows) -> None:
    client = site.project("other").client("admin")
    for name in (victim.id, "victim"):
        for given in ({"headers": {"OpenAI-Project": name}}, {"params": {"project": name}}):
            answer = client.get(f"{OWN_PREFIX}/keys", **given)
            assert answer.status_code == 403
            assert PLANTED not in answer.text
    assert site.operator.get(f"{OWN_PREFIX}/keys", headers={"OpenAI-Project": victim.id}).status_code == 200


def bodies_that_name(rows: Rows, own_upload: str, own_file: str) -> list[tuple[str, str, str, Any]]:
    """Room, method, path and body of requests that name things of others within their bodies."""
    named = rows.by_parameter
    tuned, file = named["model"], named["file_id"]
    batch = {"endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return [
        ("fine_tuning", "POST", "/v1/fine_tuning/jobs", {"model": BASE, "training_file": file}),
        ("fine_tuning", "POST", "/v1/fine_tuning/jobs", {"model": tuned, "training_file": file}),
        ("fine_tuning", "POST", f"{OWN_PREFIX}/estimates", {"model": BASE, "training_file": file}),
        ("batches", "POST", "/v1/batches", {"input_file_id": rows.batch_file, **batch}),
        ("evaluations", "POST", f"{OWN_PREFIX}/evaluations", {"model": BASE, "file": file}),
        ("evaluations", "POST", f"{OWN_PREFIX}/evaluations", {"model": tuned, "file": own_file}),
        ("evaluations", "POST", f"{OWN_PREFIX}/evaluations", {"model": named["name"], "file": own_file}),
        ("chat", "POST", "/v1/chat/completions", {"model": tuned, "messages": MESSAGES}),
        ("chat", "POST", "/v1/chat/completions", {"model": named["name"], "messages": MESSAGES}),
        ("chat", "POST", "/v1/completions", {"model": tuned, "prompt": "hello"}),
        ("chat", "POST", "/v1/embeddings", {"model": tuned, "input": "hello"}),
        ("chat", "POST", f"{OWN_PREFIX}/classify", {"model": tuned, "input": "hello"}),
        ("deployments", "POST", f"{OWN_PREFIX}/deployments", {"name": "mine", "model": tuned}),
        ("deployments", "POST", f"{OWN_PREFIX}/deployments", {"name": "mine", "traffic": {tuned: 100}}),
        ("uploads", "POST", f"/v1/uploads/{own_upload}/complete", {"part_ids": [rows.upload_part]}),
    ]


def test_bodies_do_not_reach_what_is_another_projects(site: Site, victim: Project, rows: Rows, walker: Walker) -> None:
    other = site.project("other")
    own, client = plant(site, other), walker.as_(other.client("admin"))
    before = rows_of(site, victim)
    wrong = []
    for room, method, path, body in bodies_that_name(rows, own.by_parameter["upload_id"], own.by_parameter["file_id"]):
        if room in ROOMS:
            answer = walker.ask(client, method, path, body)
            known = answer.status_code in (400, 403, 404) and answer.json()["error"]["code"] != "unknown_url"
            if not known:
                wrong.append(f"{method} {path} {body}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert rows_of(site, victim) == before
    for text in rows.secrets:
        assert all(text not in answer.text for _, answer in walker.answers)


def test_no_answer_and_no_log_holds_a_secret(
    site: Site, victim: Project, rows: Rows, walker: Walker, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    key = victim.key("admin")
    admin, operator = walker.as_(site.with_key(key)), walker.as_(site.operator)
    made = admin.post(f"{OWN_PREFIX}/keys", json={"name": "one"}).json()["value"]
    hook = {"url": "https://example.org/", "events": ["batch.completed"]}
    secret = admin.post(f"{OWN_PREFIX}/webhooks", json=hook).json()["secret"]
    browser = walker.as_(site.with_key(None))
    session = browser.post(f"{OWN_PREFIX}/sessions", json={"key": key}).json()["csrf_token"]
    cookie = browser.cookies["tunesmith_session"]
    for client in (admin, operator, browser):
        for method, path in routes_of(site):
            # What answers without end, or by a process that is not there, is not a list.
            if method == "GET" and not path.endswith("/stream") and path != f"{OWN_PREFIX}/session":
                walker.ask(client, method, filled(path, rows))
    with site.context.database.read() as connection:
        signing = connection.execute(select(SECRETS.c.value)).scalar_one()
        hashes = list(connection.execute(select(SESSIONS.c.hash)).scalars())
        hooks = list(connection.execute(select(WEBHOOKS.c.secret)).scalars())
    secrets = [*rows.secrets, key, made, secret, session, cookie, site.first_key, signing, *hashes, *hooks]
    text = "\n".join(answer.text for _, answer in walker.answers) + caplog.text
    assert PLANTED in text
    assert [one for one in secrets if one in text] == []


def _require_no_leak(site: Site, rows: Rows, walker: Walker, *, names_too: bool) -> None:
    """No text of the other project; in lists not even a name."""
    own = {"label", "rest"}
    names = [name for key, name in rows.by_parameter.items() if key not in own] if names_too else []
    for what, answer in walker.answers:
        text = answer.text
        if not names_too:
            # A refusal says what was asked for.
            for name in rows.by_parameter.values():
                text = text.replace(name, "")
        for hidden in (PLANTED, *rows.secrets, *names, site.first_key):
            assert hidden not in text, f"{what} tells {hidden}: {answer.text[:300]}"
