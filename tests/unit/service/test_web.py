"""Pages of the service as HTML: who may see them, what they show, and that nothing in them becomes markup."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from service_jobs import chat_rows, create, jobs_site, upload
from service_rows import plant
from service_site import DATABASES, Site, make_site

from tunesmith.service.web.asking import PROJECT_COOKIE
from tunesmith.service.web.rendering import STATIC, VENDOR, count, duration, environment, moment, money, short, size
from tunesmith.service.web.snippets import snippets

HOSTILE = "<script>alert('x')</script>\"&"
PAGES = (
    "/ui",
    "/ui/catalog",
    "/ui/files",
    "/ui/jobs",
    "/ui/jobs/new",
    "/ui/models",
    "/ui/playground",
    "/ui/deployments",
    "/ui/usage",
    "/ui/project",
    "/ui/audit",
    "/ui/admin",
)
FOR_INFERENCE = {"/ui", "/ui/catalog", "/ui/models", "/ui/playground", "/ui/deployments"}


class Page(HTMLParser):
    """What a test looks at in a page."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._open: list[str] = []
        self.wrong: list[str] = []
        self.feed(answer.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "input", "img", "br"):
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        self.words += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


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


def see(client: httpx.Client, path: str, status: int = 200) -> Page:
    """A page that must be whole."""
    answer = client.get(path)
    assert answer.status_code == status, (path, answer.text[-2000:])
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-store"
    page = Page(answer)
    assert page.wrong == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    _require_plain(page)
    return page


def _require_plain(page: Page) -> None:
    """Nothing that the content security policy would stop, nothing of another host, every field with a label."""
    for tag, attributes in page.tags:
        assert "style" not in attributes, (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
        for name in ("src", "action", "hx-get"):
            assert (attributes.get(name) or "/").startswith("/"), (tag, attributes)
        if tag == "script":
            assert (attributes.get("src") or "").startswith("/ui/static/")
        if tag == "link":
            assert (attributes.get("href") or "").startswith("/ui/static/")
    named = {one.get("for") for one in page.all("label")}
    for tag in ("input", "select", "textarea"):
        for one in page.all(tag):
            hidden = one.get("type") in ("hidden", "checkbox", "radio")
            assert hidden or one.get("id") in named, one


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
        for path in (*PAGES[:-1], f"/ui/jobs/{rows['fine_tuning_job_id']}", f"/ui/deployments/{rows['name']}"):
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
        see(client, "/ui/admin", 403)
        see(client, "/ui/audit", 403)


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
            assert client.get(f"/ui/static/{name}").status_code == 404, name


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


def test_snippets_are_programs() -> None:
    for name in ("support", "ft:smollm2-135m-instruct:tunesmith::abcdefgh", 'it\'s "quoted"'):
        found = snippets("http://127.0.0.1:8321/v1", name)
        assert [one.name for one in found] == ["curl", "OpenAI", "LangChain", "Semantic Kernel"]
        for one in found[1:]:
            compile(one.text, one.name, "exec")
        assert found[0].text.count("'") % 2 == 0


def test_numbers_for_people() -> None:
    assert [money(value, "USD") for value in (None, 0, 0.000007, 0.0192, 1234.5)] == [
        "–",
        "0.00 USD",
        "0.000007 USD",
        "0.0192 USD",
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
