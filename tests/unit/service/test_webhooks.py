"""Webhooks: what they may point to, how they are signed, and that an event arrives or is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from openai import InvalidWebhookSignatureError, OpenAI
from service_site import DATABASES, Project, Site, make_site
from sqlalchemy import select

from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import DELIVERIES
from tunesmith.service.errors import ApiError
from tunesmith.service.settings import Settings
from tunesmith.service.shared.telling import tell
from tunesmith.service.webhooks import delivery
from tunesmith.service.webhooks.addresses import target_of
from tunesmith.service.webhooks.delivery import WAITS_SECONDS, deliver_due

OWN = "/tunesmith/v1"
EVENT = "fine_tuning.job.succeeded"


class Receiver(ThreadingHTTPServer):
    """A program that wants to be told; it answers with ``statuses`` in turn, then with 200."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Taking)
        self.taken: list[tuple[dict[str, str], str]] = []
        self.statuses: list[int] = []
        self.wait: Callable[[], Any] = lambda: None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook?a=1"


class _Taking(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.server.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.server.wait()
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if status in (301, 307):
            self.send_header("Location", "http://127.0.0.1:1/")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving() -> Iterator[Receiver]:
    server = Receiver()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param, webhook_networks=["127.0.0.0/8"])
    yield site
    site.context.database.close()


def make_hook(project: Project, url: str) -> dict[str, Any]:
    answer = project.client("admin").post(f"{OWN}/webhooks", json={"url": url, "events": [EVENT]})
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def happen(site: Site, project: Project, event: str = EVENT) -> None:
    with site.context.database.write() as connection:
        tell(site.context, connection, project.id, event, {"id": "ftjob-1"})


def only_delivery(context: Context) -> Any:
    with context.database.read() as connection:
        return connection.execute(select(DELIVERIES)).one()


def test_openais_own_client_believes_what_arrives(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    hook = make_hook(project, receiver.url)
    happen(site, project)
    happen(site, project, "batch.completed")
    happen(site, site.default)
    deliver_due(site.context)
    deliver_due(site.context)
    ((headers, body),) = receiver.taken
    client = OpenAI(api_key="unused", webhook_secret=hook["secret"])
    event = client.webhooks.unwrap(body, headers)
    assert (event.type, event.data.id) == (EVENT, "ftjob-1")
    assert headers["webhook-id"] == event.id
    with pytest.raises(InvalidWebhookSignatureError):
        client.webhooks.unwrap(body.replace("ftjob-1", "ftjob-2"), headers)
    client.close()
    row = only_delivery(site.context)
    assert (row.state, row.tries, row.answer) == ("delivered", 1, "status 200")


def test_the_secret_is_shown_once(site: Site) -> None:
    project = site.project("told")
    hook = make_hook(project, "https://example.org/hook")
    admin = project.client("admin")
    path = f"{OWN}/webhooks/{hook['id']}"
    for answer in (admin.get(path), admin.get(f"{OWN}/webhooks"), admin.post(path, json={"enabled": False})):
        assert hook["secret"] not in answer.text
        assert hook["id"] in answer.text
    assert hook["secret"] not in site.operator.get(f"{OWN}/audit").text
    assert project.client("member").get(f"{OWN}/webhooks").status_code == 403
    assert admin.post(f"{OWN}/webhooks", json={"url": "https://a.b", "events": ["nothing"]}).status_code == 400
    assert admin.delete(path).json()["deleted"] is True
    assert admin.get(path).status_code == 404


def test_an_event_is_sent_again_until_it_is_taken(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    make_hook(project, receiver.url)
    receiver.statuses = [500, 301]
    happen(site, project)
    start = time.time()
    for later, state, tries in (
        (0.0, "waiting", 1),
        (WAITS_SECONDS[0] - 1, "waiting", 1),
        (WAITS_SECONDS[0] + 1, "waiting", 2),
        (WAITS_SECONDS[0] + WAITS_SECONDS[1] + 3, "delivered", 3),
    ):
        moment = start + later
        deliver_due(replace(site.context, now=lambda moment=moment: moment))
        row = only_delivery(site.context)
        assert (row.state, row.tries) == (state, tries)
    assert len({headers["webhook-id"] for headers, _ in receiver.taken}) == 1
    assert len(receiver.taken) == 3


def test_what_nobody_takes_is_given_up(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    hook = make_hook(project, receiver.url)
    receiver.statuses = [503] * 50
    happen(site, project)
    moment = time.time()
    for _ in range(len(WAITS_SECONDS) + 5):
        deliver_due(replace(site.context, now=lambda moment=moment: moment))
        moment += max(WAITS_SECONDS) + 1
    row = only_delivery(site.context)
    assert (row.state, row.tries, row.answer) == ("given_up", len(WAITS_SECONDS) + 1, "status 503")
    told = project.client("admin").get(f"{OWN}/webhooks/{hook['id']}/deliveries").json()["data"]
    assert [(one["state"], one["event"]) for one in told] == [("given_up", EVENT)]


def test_who_is_gone_is_not_asked_again(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    hook = make_hook(project, receiver.url)
    admin = project.client("admin")
    assert admin.post(f"{OWN}/webhooks/{hook['id']}/test").json()["event"] == "webhook.test"
    receiver.statuses = [410]
    deliver_due(site.context)
    assert only_delivery(site.context).state == "given_up"
    assert admin.get(f"{OWN}/webhooks/{hook['id']}").json()["enabled"] is False
    happen(site, project)
    deliver_due(site.context)
    assert len(receiver.taken) == 1


def test_who_does_not_answer_holds_nobody_up(site: Site, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "TRY_SECONDS", 0.3)
    project, end = site.project("told"), threading.Event()
    make_hook(project, receiver.url)
    receiver.wait = lambda: end.wait(10)
    happen(site, project)
    started = time.monotonic()
    deliver_due(site.context)
    assert time.monotonic() - started < 5
    end.set()
    assert "no answer" in only_delivery(site.context).answer


def test_two_processes_send_an_event_once(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    make_hook(project, receiver.url)
    for _ in range(6):
        happen(site, project)
    threads = [threading.Thread(target=deliver_due, args=(site.context,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    names = [headers["webhook-id"] for headers, _ in receiver.taken]
    assert len(names) == len(set(names)) == 6


def test_one_that_was_killed_while_sending_sends_again(site: Site, receiver: Receiver) -> None:
    project = site.project("told")
    make_hook(project, receiver.url)
    happen(site, project)
    assert len(delivery._claim(site.context)) == 1
    deliver_due(site.context)
    assert receiver.taken == []
    later = time.time() + 61
    deliver_due(replace(site.context, now=lambda: later))
    assert len(receiver.taken) == 1


PRIVATE = (
    "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1",
    "255.255.255.255", "::1", "::", "fe80::1%eth0", "fc00::1", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "ff02::1",
)  # fmt: skip


def settings_with(networks: list[str], tmp_path: Path) -> Settings:
    return Settings(data_folder=tmp_path, database="sqlite:///x", storage="x", webhook_networks=networks)


@pytest.mark.parametrize("address", PRIVATE)
def test_addresses_inside_the_house_are_not_asked(tmp_path: Path, address: str) -> None:
    settings = settings_with([], tmp_path)
    for found in ([address], ["93.184.216.34", address]):
        with pytest.raises(ApiError) as refused:
            target_of(settings, "https://evil.example/hook", lambda *_, found=found: found)
        assert refused.value.detail.code == "invalid_webhook_url"


def test_the_address_that_was_judged_is_the_one_that_is_asked(tmp_path: Path) -> None:
    target = target_of(settings_with([], tmp_path), "https://good.example:8443/a?b=c", lambda *_: ["93.184.216.34"])
    assert (target.url, target.host, target.sni) == (
        "https://93.184.216.34:8443/a?b=c",
        "good.example:8443",
        "good.example",
    )
    target = target_of(settings_with([], tmp_path), "https://good.example", lambda *_: ["2606:2800:220:1::1"])
    assert target.url == "https://[2606:2800:220:1::1]:443/"


WRONG = (
    "http://example.org/", "ftp://example.org/", "file:///etc/passwd", "https://", "https://user:pw@example.org/",
    "https://example.org:99999/", "https://example.org:0/", "https://exa mple.org/", "https://example.org/\n", "//x",
)  # fmt: skip


def test_other_kinds_of_addresses_are_refused_at_once(tmp_path: Path) -> None:
    admin = make_site(tmp_path).client("admin")
    for url in WRONG:
        answer = admin.post(f"{OWN}/webhooks", json={"url": url, "events": [EVENT]})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_webhook_url"), url


def test_plain_http_is_for_networks_that_the_operator_names(tmp_path: Path) -> None:
    settings = settings_with(["127.0.0.0/8"], tmp_path)
    assert target_of(settings, "http://inside/", lambda *_: ["127.0.0.1"]).url == "http://127.0.0.1:80/"
    for address in ("93.184.216.34", "10.0.0.1"):
        with pytest.raises(ApiError):
            target_of(settings, "http://outside/", lambda *_, address=address: [address])


def test_a_name_that_means_something_inside_by_then_reaches_nothing(tmp_path: Path, receiver: Receiver) -> None:
    site = make_site(tmp_path)
    project = site.project("told")
    make_hook(project, f"https://rebound.example:{receiver.server_port}/")
    happen(site, project)
    deliver_due(site.context, lambda *_: ["127.0.0.1"])
    row = only_delivery(site.context)
    assert row.state == "waiting"
    assert "inside" in row.answer
    assert receiver.taken == []
