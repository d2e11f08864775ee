"""Requests and tokens a minute, and addresses that try keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from service_site import DATABASES, Site, make_site
from sqlalchemy import func, select, update

from tunesmith.service.app import make_app
from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.pace import count_tokens, require_tokens
from tunesmith.service.auth.rates import Rates, forget_old
from tunesmith.service.db.tables.accounts import API_KEYS, PROJECTS, RATES
from tunesmith.service.errors import ApiError

PATH = "/tunesmith/v1/projects"
START = 1_800_000_000.0 - 1_800_000_000.0 % 60


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def with_clock(site: Site, clock: Clock) -> Site:
    """A process of the site's service with a clock of its own and counts of its own."""
    process = Site(replace(site.context, now=clock, rates=Rates()), site.first_key)
    process.app = make_app(process.context)
    return process


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param, limits={"requests_per_minute": 5, "failures_per_minute": 3})
    yield site
    site.context.database.close()


def test_a_key_has_so_many_requests_a_minute(site: Site) -> None:
    clock = Clock()
    process = with_clock(site, clock)
    key = site.default.key()
    client, other = process.with_key(key), process.client()
    answers = [client.get(PATH) for _ in range(6)]
    assert [one.status_code for one in answers] == [200] * 5 + [429]
    assert [one.headers["x-ratelimit-remaining-requests"] for one in answers] == ["4", "3", "2", "1", "0", "0"]
    assert answers[0].headers["x-ratelimit-limit-requests"] == "5"
    refused = answers[-1]
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert refused.json()["error"]["type"] == "rate_limit_error"
    assert other.get(PATH).status_code == 200
    wait = int(refused.headers["retry-after"])
    clock.now += wait - 2
    assert client.get(PATH).status_code == 429
    clock.now += 2
    assert client.get(PATH).status_code == 200


def test_a_minutes_edge_does_not_double_the_limit(site: Site) -> None:
    clock = Clock()
    client = with_clock(site, clock).with_key(site.default.key())
    clock.now = START + 59
    assert [client.get(PATH).status_code for _ in range(6)] == [200] * 5 + [429]
    clock.now = START + 61
    assert client.get(PATH).status_code == 429


def test_a_project_has_so_many_requests_for_all_its_keys(site: Site) -> None:
    project = site.project("small", requests_per_minute=3)
    process = with_clock(site, Clock())
    clients = [process.with_key(project.key()) for _ in range(2)]
    got = [clients[at % 2].get(PATH).status_code for at in range(5)]
    assert got == [200, 200, 200, 429, 429]


def test_several_processes_count_together(site: Site) -> None:
    clock, key = Clock(), site.default.key()
    first, second = (with_clock(site, clock).with_key(key) for _ in range(2))
    assert [first.get(PATH).status_code for _ in range(3)] == [200] * 3
    clock.now += 1.5
    assert first.get(PATH).headers["x-ratelimit-remaining-requests"] == "1"
    # The second knows of three; of the fourth, within the same second, it does not.
    assert [second.get(PATH).status_code for _ in range(3)] == [200, 200, 429]
    clock.now += 1.5
    assert first.get(PATH).status_code == 200
    # From then on they agree.
    clock.now += 1.5
    assert [one.get(PATH).status_code for one in (first, second)] == [429, 429]
    # A process that starts now knows what was counted.
    assert with_clock(site, clock).with_key(key).get(PATH).status_code == 429


def test_no_request_waits_for_a_write_of_its_own(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    clock = Clock()
    process = with_clock(site, clock)
    client = process.with_key(site.default.key())
    with site.context.database.write() as connection:
        connection.execute(update(API_KEYS).values(used_at=START))
    client.get(PATH)
    writes = []
    database = process.context.database
    original = database.write
    database.write = lambda: writes.append(1) or original()  # type: ignore[method-assign]
    for _ in range(20):
        assert client.get(PATH).status_code == 200
    assert writes == []
    clock.now += 2
    client.get(PATH)
    assert writes == [1]


def test_old_minutes_are_forgotten(site: Site) -> None:
    clock = Clock()
    client = with_clock(site, clock).with_key(site.default.key())
    client.get(PATH)
    clock.now += 2
    client.get(PATH)
    count = select(func.count()).select_from(RATES)
    for later, left in ((60, 1), (180, 0)):
        forget_old(site.context.database, START + later)
        with site.context.database.read() as connection:
            assert connection.execute(count).scalar_one() == left


def test_an_address_that_tries_keys_is_refused_and_others_are_not(site: Site) -> None:
    clock = Clock()
    process = with_clock(site, clock)
    good, fresh = process.with_key(site.default.key()), process.with_key(site.default.key())
    assert good.get(PATH).status_code == 200
    got = [process.with_key(f"ts-guess-{at}").get(PATH).status_code for at in range(5)]
    assert got == [401, 401, 401, 429, 429]
    assert process.with_key(None).post("/tunesmith/v1/sessions", json={"key": "ts-guess"}).status_code == 429
    # Whoever was let in before from there goes on; a good guess would be refused.
    assert good.get(PATH).status_code == 200
    assert fresh.get(PATH).status_code == 429
    clock.now += 130
    assert fresh.get(PATH).status_code == 200


def test_tokens_a_minute_are_looked_at_before_and_counted_after(site: Site) -> None:
    project = site.project("talking", tokens_per_minute=1000)
    clock = Clock()
    context = with_clock(site, clock).context
    caller = Caller("inference", False, project.id, "key k", "k", None, "req_1", None)
    assert require_tokens(context, caller, 100)["x-ratelimit-remaining-tokens"] == "1000"
    count_tokens(context, caller, 950)
    with pytest.raises(ApiError) as refused:
        require_tokens(context, caller, 100)
    assert (refused.value.status, refused.value.detail.code) == (429, "rate_limit_exceeded")
    assert refused.value.headers["x-ratelimit-remaining-tokens"] == "50"
    require_tokens(context, caller, 50)
    clock.now += 130
    # More than a whole minute allows waits for an empty one, and is not refused for ever.
    require_tokens(context, caller, 5000)
    with site.context.database.write() as connection:
        connection.execute(update(PROJECTS).where(PROJECTS.c.id == project.id).values(tokens_per_minute=None))
    clock.now += 2
    assert require_tokens(context, caller, 5000) == {}
