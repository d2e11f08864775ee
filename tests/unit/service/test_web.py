"""Pages of the service as HTML: who may see them, what they show, and that nothing in them becomes markup."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from registry_cases import add_small
from service_evaluations import go_on, plan_of, report_of, stand_in_worker
from service_jobs import chat_rows, create, jobs_site, upload
from service_rows import Putter, plant
from service_site import DATABASES, Site, make_site
from web_pages import FOR_INFERENCE, PAGES, Page, see

from tunesmith.service.auth.gate import COOKIE
from tunesmith.service.batches.states import take
from tunesmith.service.batches.work import work
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.db.tables.jobs import JOB_CHECKPOINTS, JOBS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.ids import short_id
from tunesmith.service.projects.schema import QUOTAS
from tunesmith.service.web import choosing, project_router, training_router
from tunesmith.service.web.asking import PROJECT_COOKIE
from tunesmith.service.web.rendering import STATIC, VENDOR, count, duration, environment, moment, money, short, size
from tunesmith.storage.address import open_store

HOSTILE = "<script>alert('x')</script>\"&"


@pytest.fixture(params=DATABASES)
def site(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


@pytest.fixture
def lite(tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path)
    yield site
    site.context.database.close()


def test_every_page_of_an_empty_service(site: Site) -> None:
    with site.operator as client:
        for path in PAGES:
            see(client, path)


def test_every_page_with_hostile_names(tmp_path: Path) -> None:
    """Names of files, jobs and keys are shown as they are, and become no markup."""
    site = jobs_site(tmp_path)
    file_id = upload(site.default, chat_rows(20), name=f"{HOSTILE}.jsonl")
    with site.client("admin") as client:
        job = create(client, file_id, suffix="mine")
        made = client.post("/tunesmith/v1/keys", json={"name": HOSTILE})
        assert made.status_code == 200
        for path in (*PAGES[:-1], f"/ui/jobs/{job['id']}", f"/ui/jobs/{job['id']}/results"):
            page = see(client, path)
            assert not [one for one in page.all("script") if one.get("src") is None]
        assert HOSTILE in see(client, "/ui/files").words
        assert HOSTILE in see(client, "/ui/project").words
        assert HOSTILE in see(client, "/ui/jobs/new").words
        assert "mine" in see(client, f"/ui/jobs/{job['id']}").words
        for path in ("/ui/catalog?search=", "/ui/audit?action=", "/ui/playground?left=", "/ui/deployments?model="):
            see(client, path + "%3Cscript%3Ealert(1)%3C%2Fscript%3E%22%27")
    site.context.database.close()


def test_everything_that_a_project_can_hold(site: Site) -> None:
    project = site.project("own")
    rows = plant(site, project).by_parameter
    with project.client("admin") as client:
        things = (f"jobs/{rows['job']}", f"deployments/{rows['name']}", f"batches/{rows['batch_id']}")
        things = (*things, f"evaluations/{rows['evaluation_id']}")
        hook = f"webhooks/{rows['webhook_id']}"
        for path in (*PAGES[:-1], *(f"/ui/{thing}" for thing in (*things, hook))):
            see(client, path)
    with site.operator as client:
        see(client, "/ui/admin")


def test_long_lists_have_pages(lite: Site) -> None:
    site = lite
    for number in range(25):
        upload(site.default, chat_rows(1), name=f"file-{number:02}.jsonl")
    with site.client() as client:
        first = see(client, "/ui/files")
        (following,) = [one["href"] for one in first.all("a") if one.get("rel") == "next"]
        assert following is not None
        second = see(client, following)
        assert "file-24" in first.words
        assert "file-04" not in first.words
        assert "file-04" in second.words
        assert not [one for one in second.all("a") if one.get("rel") == "next"]
        assert [one for one in second.all("a") if one.get("href") == "/ui/files" and one.get("class")]


def test_what_an_address_names_can_be_chosen_however_old_it_is(lite: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A select holds the newest; the page says how many older ones there are, and what is not there at all."""
    monkeypatch.setattr(choosing, "MOST_LISTED", 3)
    put = Putter(lite.context, lite.default.id)
    listed = {"fine-tune": "jobs/new", "batch": "batches", "evals": "evaluations"}
    old = {}
    for purpose in listed:
        for number in range(5):
            name = put(FILES, "file-", purpose=purpose, status="processed", filename=f"{purpose}-{number:03}.jsonl")
            old.setdefault(purpose, name)
    with lite.client() as client:
        for purpose, place in listed.items():
            # Of evaluations, files for training are rows as well.
            others = 7 if purpose == "evals" else 2
            page = see(client, f"/ui/{place}")
            assert old[purpose] not in chosen(page, all_of_them=True)
            assert f"{others} older ones are not" in page.words
            page = see(client, f"/ui/{place}?file={old[purpose]}")
            assert old[purpose] in chosen(page)
            assert f"{others - 1} older ones are not" in page.words
            assert "This project has no" not in page.words
            wrong = "file-nothing" if purpose == "evals" else old["evals"]
            page = see(client, f"/ui/{place}?file={wrong}")
            assert wrong not in chosen(page)
            assert f"{wrong} for this" in page.words


def chosen(page: Page, *, all_of_them: bool = False) -> list[str]:
    return [str(one.get("value")) for one in page.all("option") if all_of_them or "selected" in one]


def test_an_older_model_can_be_trained_further_and_older_checkpoints_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "MOST_LISTED", 3)
    monkeypatch.setattr(training_router, "_CHECKPOINTS", 3)
    site = jobs_site(tmp_path)
    put = Putter(site.context, site.default.id)
    add_small(open_store(site.context.settings.registry), tmp_path, "small", {"adapter/a.bin": b"a"})
    job = put(JOBS, "ftjob-", model="tiny", base="tiny", method={"type": "supervised"}, state="running")
    names = [f"ft:tiny:tunesmith:m{number:03}:{short_id()}" for number in range(4)]
    for step, name in enumerate(names):
        put(TUNED_MODELS, id=name, base="tiny", job_id=job, address="small:1", created_at=float(step))
        put(JOB_CHECKPOINTS, "ftckpt_", job_id=job, step=step, name=name, metrics={})
    with site.client() as client:
        everything = chosen(see(client, "/ui/jobs/new"), all_of_them=True)
        (old,) = set(names) - set(everything)
        page = see(client, f"/ui/jobs/new?model={old}")
        assert old in chosen(page)
        assert "some older ones are not" in page.words
        assert "This project has no model" not in see(client, "/ui/jobs/new?model=tiny").words
        assert "ft:gone for this" in see(client, "/ui/jobs/new?model=ft:gone").words
        first = see(client, f"/ui/jobs/{job}/results")
        (following,) = [str(one["hx-get"]) for one in first.all("button") if "hx-get" in one]
        assert names[0] not in first.words
        second = see(client, following)
        assert names[0] in second.words
        assert names[3] not in second.words
    site.context.database.close()


def test_long_lists_of_people_and_projects_are_apart(lite: Site) -> None:
    """Each of the two lists of a page goes on by itself."""
    with lite.operator as client:
        for number in range(51):
            made = client.post("/tunesmith/v1/users", json={"name": f"N{number:02}", "email": f"n{number}@example.org"})
            assert made.status_code == 200
        first = see(client, "/ui/admin")
        (following,) = [one["href"] for one in first.all("a") if one.get("rel") == "next"]
        assert "N50" in first.words
        assert "N00" not in first.words
        second = see(client, str(following))
        assert "N00" in second.words
        assert "default" in second.words


def sent_by(page: Page, to: str) -> dict[str, Any]:
    """What a form of a page would send as it stands, by its fields' names."""
    (form,) = [at for at, (tag, given) in enumerate(page.tags) if tag == "form" and given.get("data-api") == to]
    sent: dict[str, Any] = {}
    for tag, given in page.tags[form + 1 :]:
        if tag == "form":
            break
        name, value = given.get("name"), given.get("value") or ""
        if tag == "input" and name:
            empty = None if given.get("data-empty") == "null" else ""
            if given.get("data-type") == "list":
                sent.setdefault(name, empty)
            else:
                sent[name] = float(value) if value and given.get("data-type") == "number" else value or empty
    return sent


def test_limits_are_changed_by_those_who_may(site: Site) -> None:
    """The form holds every limit that the API knows, as it is now; owners see only what is theirs to change."""
    project = site.default
    form = f"POST /tunesmith/v1/projects/{project.id}"
    limits = {"jobs_at_once": 2, "requests_per_minute": 50, "tokens_per_minute": 200_000, "budget": 12.5}
    with site.operator as client:
        assert client.post(form.removeprefix("POST "), json=limits).status_code == 200
        sent = sent_by(see(client, "/ui/project"), form)
        assert {name: sent[name] for name in limits} == limits
        assert set(sent) == set(QUOTAS) - {"budget_action"}
        saved = client.post(form.removeprefix("POST "), json=sent)
        assert saved.status_code == 200, saved.text
        assert {name: saved.json()[name] for name in limits} == limits
    with site.client("admin") as client:
        page = see(client, "/ui/project")
        assert "12.50 USD" in page.words
        assert set(sent_by(page, form)) == {"retention_days"}
        assert client.post(form.removeprefix("POST "), json=sent_by(page, form)).status_code == 200
    with site.client("member") as client:
        assert form not in [one.get("data-api") for one in see(client, "/ui/project").all("form")]


def test_whoever_sets_how_long_things_are_kept_reads_what_goes(site: Site) -> None:
    for client in (site.operator, site.client("admin"), site.client("member")):
        with client:
            words = see(client, "/ui/project").words
            assert "Files, runs with checkpoints, reports, logs and evaluations are kept" in words


def test_a_batch_from_its_file_to_its_end(site: Site) -> None:
    file_id = upload(site.default, ["not json"], purpose="batch", name="questions.jsonl")
    asked = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    with site.client() as client:
        before = see(client, f"/ui/batches?file={file_id}")
        assert [one for one in before.all("option") if one.get("value") == file_id and "selected" in one]
        assert {one.get("name") for one in (*before.all("input"), *before.all("select"))} >= set(asked)
        batch = client.post("/v1/batches", json=asked).json()["id"]
        path, cancel = f"/ui/batches/{batch}", f"POST /v1/batches/{batch}/cancel"
        live = see(client, path)
        assert "questions.jsonl" in live.words
        assert [one for one in live.all("div") if one.get("hx-get") == path]
        assert cancel in [one.get("data-api") for one in live.all("form")]
        assert "HX-Refresh" not in client.get(path, headers={"HX-Request": "true"}).headers
        run_one_batch(site)
        ended = see(client, path)
        assert "Mend these lines" in ended.words
        assert not [one for one in ended.all("div") if "hx-get" in one]
        assert cancel not in [one.get("data-api") for one in ended.all("form")]
        # Whoever watches gets the page anew, with what may be done now.
        assert client.get(path, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"
        assert batch in see(client, "/ui/batches").words


def test_an_evaluation_from_its_rows_to_its_report(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = jobs_site(tmp_path)
    request.addfinalizer(site.context.database.close)
    file_id = upload(site.default, chat_rows(3), name=f"{HOSTILE}.jsonl")
    with site.client() as client:
        before = see(client, f"/ui/evaluations?model=tiny&file={file_id}")
        assert [one for one in before.all("option") if one.get("value") == file_id and "selected" in one]
        asked = {"model": "tiny", "file": file_id, "samples": 1, "robustness": False}
        assert {one.get("name") for one in (*before.all("input"), *before.all("select"))} >= set(asked)
        made = client.post("/tunesmith/v1/evaluations", json=asked).json()["id"]
        path, cancel = f"/ui/evaluations/{made}", f"POST /tunesmith/v1/evaluations/{made}/cancel"
        live = see(client, path)
        assert f"{HOSTILE}.jsonl" in live.words
        assert [one for one in live.all("div") if one.get("hx-get") == path]
        assert cancel in [one.get("data-api") for one in live.all("form")]
        stand_in_worker(monkeypatch, tmp_path, plan_of(report_of()))
        go_on(site)
        assert client.get(path, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"
        ended = see(client, path)
        assert "Before and after" in ended.words
        assert "answers side by side" in ended.words
        assert not [one for one in ended.all("div") if "hx-get" in one]
        (report,) = [str(one["href"]) for one in ended.all("a") if "download" in one]
        assert client.get(report).text.startswith("<!doctype html>")
        assert "exact match" in see(client, "/ui/evaluations").words
        gone = f"DELETE /tunesmith/v1/evaluations/{made}"
        assert gone in [one.get("data-api") for one in ended.all("form")]
        failing = client.post("/tunesmith/v1/evaluations", json=asked).json()["id"]
        stand_in_worker(monkeypatch, tmp_path, [["write", "report.json", report_of(systems=[])], ["exit", 0]])
        monkeypatch.setattr("tunesmith.service.evaluations.work._MOST_TRIES", 1)
        go_on(site)
        assert "failed" in see(client, f"/ui/evaluations/{failing}").words


def run_one_batch(site: Site) -> None:
    """The work of the dispatcher for the oldest batch."""
    row = take(site.context)
    assert row is not None
    work(site.context, row, threading.Event())


def test_an_export_of_use_has_the_days_that_are_shown(lite: Site) -> None:
    other = lite.project("other")
    with lite.operator as client:
        client.cookies.set(PROJECT_COOKIE, other.id)
        day = datetime.now(UTC).date().isoformat()
        old = exported(client, "/ui/usage?start=2020-01-01&end=2020-02-01")
        assert old == {"start": ["2020-01-01"], "end": ["2020-02-01"], "project": [other.id]}
        assert exported(client, f"/ui/usage?start={day}") == {"start": [day], "project": [other.id]}
        assert exported(client, "/ui/usage") == {"project": [other.id]}
        # As a browser sends the form with one day left empty, or both.
        assert exported(client, f"/ui/usage?start={day}&end=") == {"start": [day], "project": [other.id]}
        assert exported(client, "/ui/usage?start=&end=") == {"project": [other.id]}
    with lite.client("admin") as client:
        assert exported(client, "/ui/usage") == {}


def exported(client: httpx.Client, path: str) -> dict[str, list[str]]:
    """What the page's link asks of the export, which is there."""
    (link,) = [str(one["href"]) for one in see(client, path).all("a") if "download" in one]
    assert client.get(link).status_code == 200
    return parse_qs(urlsplit(link).query)


def test_a_service_of_own_folders_offers_every_technique(tmp_path: Path) -> None:
    own = make_site(tmp_path / "own", models=[f"mine={tmp_path / 'mine'}"])
    known = make_site(tmp_path / "known", models=["smollm2-135m-instruct"])
    offered = []
    for site in (own, known):
        with site.client() as client:
            page = see(client, "/ui/jobs/new")
            at = next(at for at, (tag, given) in enumerate(page.tags) if given.get("id") == "technique")
            offered.append(
                [given["value"] for tag, given in takewhile(lambda one: one[0] == "option", page.tags[at + 1 :])]
            )
        site.context.database.close()
    assert offered[0] == offered[1]
    assert {"lora", "qlora", "freeze", "full"} <= set(offered[0])


def test_webhooks_and_what_was_sent(site: Site) -> None:
    with site.client("admin") as client:
        asked = {"url": "https://example.com/hook", "events": ["batch.completed"]}
        hook = client.post("/tunesmith/v1/webhooks", json=asked).json()
        path = f"/ui/webhooks/{hook['id']}"
        assert asked["url"] in see(client, "/ui/webhooks").words
        page = see(client, path)
        chosen = [one["value"] for one in page.all("input") if one.get("name") == "events" and "checked" in one]
        assert chosen == asked["events"]
        assert client.post(f"/tunesmith/v1/webhooks/{hook['id']}/test").status_code == 200
        page = see(client, path)
        assert "webhook.test" in page.words
        assert [one for one in page.all("div") if one.get("hx-get") == path]
        for shown in ("/ui/webhooks", path, "/ui/audit"):
            assert hook["secret"] not in client.get(shown).text


def test_nobody_and_keys_that_may_less(lite: Site) -> None:
    site = lite
    with site.with_key(None) as client:
        for path in PAGES:
            page = see(client, path, 401)
            assert [one for one in page.all("form") if one.get("data-api") == "POST /tunesmith/v1/sessions"]
        assert client.get("/", follow_redirects=False).headers["location"] == "/ui/sign-in"
        see(client, "/ui/sign-in")
    with site.client("inference") as client:
        for path in PAGES:
            see(client, path, 200 if path in FOR_INFERENCE else 403)
        links = {one.get("href") for one in see(client, "/ui").all("a")}
        assert links.isdisjoint({"/ui/jobs", "/ui/files", "/ui/usage", "/ui/admin"})
    with site.client("member") as client:
        for path in ("/ui/admin", "/ui/audit", "/ui/webhooks"):
            see(client, path, 403)


def test_a_session_and_what_it_may(lite: Site) -> None:
    """A browser signs in with a key; the word against forged requests is in no page."""
    site = lite
    with site.with_key(None) as client:
        answer = client.post("/tunesmith/v1/sessions", json={"key": site.default.key("admin")})
        word = answer.json()["csrf_token"]
        assert client.get("/", follow_redirects=False).headers["location"] == "/ui"
        for path in PAGES[:-1]:
            see(client, path)
            assert word not in client.get(path).text
        assert client.get("/tunesmith/v1/session").json()["csrf_token"] == word
        refused = client.post("/tunesmith/v1/keys", json={"name": "forged"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "csrf")
        client.request("DELETE", "/tunesmith/v1/session", headers={"x-csrf-token": word})
        see(client, "/ui", 401)


def test_errors_are_pages_in_words(lite: Site) -> None:
    site = lite
    with site.client() as client:
        assert "ftjob-nothing" in see(client, "/ui/jobs/ftjob-nothing", 404).words
        assert "nothing" in see(client, "/ui/deployments/nothing", 404).words
        assert "not valid" in see(client, "/ui/usage?start=yesterday", 400).words
        see(client, f"/ui/jobs/{'x' * 300}", 404)
        page = see(client, "/ui/no/such", 404)
        assert "/ui/no/such" in page.words
        # Whoever is signed in finds the way on.
        assert [one for one in page.all("a") if one.get("href") == "/ui/jobs"]
        for thing in ("models/ft:tiny:a::b", "batches/batch_1", "evaluations/eval_1"):
            see(client, f"/ui/{thing}", 404)
    with site.client("admin") as client:
        see(client, "/ui/webhooks/wh_1", 404)
    with site.with_key(None) as client:
        assert "has ended" not in see(client, "/ui/files", 401).words
        client.cookies.set(COOKIE, "old")
        assert "has ended" in see(client, "/ui/files", 401).words


def test_a_mistake_of_the_service_is_a_page_too(
    lite: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise KeyError("a secret")

    monkeypatch.setattr(project_router, "page", broken)
    with lite.client("admin") as client:
        page = see(client, "/ui/webhooks", status=500)
    assert "KeyError" in page.words
    assert "a secret" not in page.words
    assert "/ui/webhooks failed" in caplog.text


def test_a_project_is_chosen_by_a_cookie_and_no_other_ones(lite: Site) -> None:
    site = lite
    other = site.project("other")
    upload(other, chat_rows(1), name="other.jsonl")
    with site.operator as client:
        assert "other.jsonl" not in see(client, "/ui/files").words
        client.cookies.set(PROJECT_COOKIE, other.id)
        assert "other.jsonl" in see(client, "/ui/files").words
    with site.client() as client:
        client.cookies.set(PROJECT_COOKIE, other.id)
        answer = client.get("/ui/files")
        assert answer.status_code == 403
        assert "other.jsonl" not in answer.text
        # The next page is one's own again.
        assert f"{PROJECT_COOKIE}=" in answer.headers["set-cookie"]


def test_files_of_the_pages_and_no_others(lite: Site) -> None:
    with lite.with_key(None) as client:
        page = see(client, "/ui/sign-in")
        wanted = [one.get("src") or one.get("href") for tag in ("script", "link") for one in page.all(tag)]
        assert len(wanted) >= 4
        for address in wanted:
            answer = client.get(str(address))
            assert answer.status_code == 200, address
            assert "immutable" in answer.headers["cache-control"]
        for name in ("../rendering.py", "..%2Frendering.py", "/etc/passwd", "nothing.js", ""):
            answer = client.get(f"/ui/static/{name}")
            # Some are put right by the client, and then name a page, which is for those who have signed in.
            assert answer.status_code == (404 if answer.url.path.startswith("/ui/static/") else 401), name


def test_pages_say_what_is_missing(lite: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tunesmith.service.web.rendering.STATIC", tmp_path)
    with lite.operator as client:
        page = see(client, "/ui")
        assert "make web" in page.words
        assert not [one for one in page.all("script") if "vendor" in str(one.get("src"))]
        assert client.get("/v1/models").status_code == 200


def test_scripts_of_the_pages_ask_nobody_else() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css")]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"https?://|//[a-z]+\.|innerHTML|outerHTML|insertAdjacentHTML|\beval\(|new Function", text
        ), path
    assert {name.partition("/")[0] for name in VENDOR} == {"vendor"}
    assert environment().autoescape is True


def test_numbers_for_people() -> None:
    assert [money(value, "USD") for value in (None, 0, 0.000007, 0.0192, 0.2, 1234.5)] == [
        "–",
        "0.00 USD",
        "0.000007 USD",
        "0.0192 USD",
        "0.20 USD",
        "1,234.50 USD",
    ]
    assert [size(value) for value in (None, 0, 1023, 1536, 5 * 2**30, 3 * 2**40)] == [
        "–",
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
    assert [duration(value) for value in (None, 5, 90, 5400, 200_000)] == ["–", "5 s", "2 min", "1.5 h", "2.3 days"]
    assert (count(None), count(12345.4), short(0.123456), short(None)) == ("–", "12,345", "0.1235", "–")
    assert (moment(None), moment(0)) == ("–", "1970-01-01 00:00")
