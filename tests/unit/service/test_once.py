"""A request that comes twice makes one thing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from service_site import DATABASES, Site, make_site
from sqlalchemy import func, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.keeping import REQUESTS
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.once import Keep, forget_old_answers, once

Make = Callable[[Keep], dict[str, Any]]
BODY = {"model": "base", "training_file": "file-1"}


@pytest.fixture(params=DATABASES)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = make_site(tmp_path, request.param)
    yield site
    site.context.database.close()


class Maker:
    """Makes things and counts them."""

    def __init__(self, site: Site) -> None:
        self.made = 0
        self.context = site.context
        self.caller = Caller("member", False, site.default.id, "key key_1", "key_1", None, "req_1", None)

    def ask(self, headers: dict[str, str], body: Any = BODY, do: Make | None = None):
        return once(self.context, self.caller, headers, "/v1/fine_tuning/jobs", body, do or self.make)

    def make(self, keep: Keep) -> dict[str, Any]:
        answer = {"id": f"job-{self.made + 1}", "z": 1.5, "a": {"é": [None, True]}}
        with self.context.database.write() as connection:
            keep(connection, answer)
        self.made += 1
        return answer

    def later(self, seconds: float) -> Context:
        now = self.context.now
        self.context = replace(self.context, now=lambda: now() + seconds)
        return self.context


def test_a_key_makes_one_thing_and_replays_its_answer(site: Site) -> None:
    maker = Maker(site)
    first = maker.ask({"idempotency-key": "one"})
    again = maker.ask({"idempotency-key": "one"})
    assert again.body == first.body
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert maker.made == 1
    assert maker.ask({"idempotency-key": "two"}).body != first.body


@pytest.mark.parametrize("headers", [{"idempotency-key": "one"}, {"x-stainless-retry-count": "1"}])
def test_many_at_once_make_one_thing(site: Site, headers: dict[str, str]) -> None:
    maker, gate, done = Maker(site), threading.Barrier(8), threading.Event()

    def slow(keep: Keep) -> dict[str, Any]:
        done.wait(10)
        return maker.make(keep)

    def ask(_: int) -> str:
        gate.wait(10)
        try:
            return bytes(maker.ask(headers, do=slow).body).decode()
        except ApiError as error:
            done.set()
            return f"{error.status} {error.detail.code} {error.headers['x-should-retry']}"

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(8)))
    assert maker.made == 1
    assert answers.count("409 request_under_way true") >= 1
    assert len(set(answers)) == 2
    assert maker.ask(headers).headers["idempotency-replayed"] == "true"


def test_the_first_try_is_new_and_later_ones_are_not(site: Site) -> None:
    maker = Maker(site)
    first = maker.ask({"x-stainless-retry-count": "0"})
    assert maker.ask({"x-stainless-retry-count": "1"}).body == first.body
    second = maker.ask({"x-stainless-retry-count": "0"})
    assert second.body != first.body
    assert maker.ask({"x-stainless-retry-count": "2"}).body == second.body
    assert maker.made == 2
    # Another body, another person, or much later: none of them is the same request.
    maker.ask({"x-stainless-retry-count": "1"}, {**BODY, "seed": 1})
    maker.caller = replace(maker.caller, name="key key_2")
    maker.ask({"x-stainless-retry-count": "1"})
    maker.later(16 * 60)
    maker.ask({"x-stainless-retry-count": "1"})
    assert maker.made == 5


def test_the_order_of_a_bodys_fields_says_nothing(site: Site) -> None:
    maker = Maker(site)
    maker.ask({"idempotency-key": "one"})
    maker.ask({"idempotency-key": "one"}, dict(reversed(BODY.items())))
    assert maker.made == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_a_key_must_be_one(site: Site, key: str) -> None:
    with pytest.raises(ApiError) as caught:
        Maker(site).ask({"idempotency-key": key})
    assert caught.value.status == 400


def test_a_key_with_another_body_is_refused(site: Site) -> None:
    maker = Maker(site)
    maker.ask({"idempotency-key": "one"})
    with pytest.raises(ApiError) as caught:
        maker.ask({"idempotency-key": "one"}, {**BODY, "seed": 1})
    assert (caught.value.status, caught.value.detail.code) == (422, "idempotency_key_reused")
    assert maker.made == 1


def test_what_failed_is_forgotten(site: Site) -> None:
    maker = Maker(site)

    def fail(_keep: Keep) -> dict[str, Any]:
        raise ApiError(429, "wait")

    with pytest.raises(ApiError, match="wait"):
        maker.ask({"idempotency-key": "one"}, do=fail)
    assert maker.ask({"idempotency-key": "one"}).status_code == 200
    assert maker.made == 1


def test_a_process_that_was_killed_blocks_for_minutes_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker(site)
    monkeypatch.setattr("tunesmith.service.shared.once._forget", lambda *_: None)

    def killed(_keep: Keep) -> dict[str, Any]:
        raise SystemExit

    with pytest.raises(SystemExit):
        maker.ask({"idempotency-key": "one"}, do=killed)
    with pytest.raises(ApiError, match="under way"):
        maker.ask({"idempotency-key": "one"})
    maker.later(10 * 60 + 1)
    maker.ask({"idempotency-key": "one"})
    assert maker.made == 1


@pytest.mark.parametrize("headers", [{"idempotency-key": "one"}, {"x-stainless-retry-count": "1"}])
def test_a_process_that_was_killed_after_it_made_the_thing_has_made_it(site: Site, headers: dict[str, str]) -> None:
    maker = Maker(site)

    def killed(keep: Keep) -> dict[str, Any]:
        maker.make(keep)
        raise SystemExit

    with pytest.raises(SystemExit):
        maker.ask(headers, do=killed)
    maker.later(10 * 60 + 1)
    assert maker.ask(headers).headers["idempotency-replayed"] == "true"
    assert maker.made == 1


def test_one_that_took_too_long_makes_nothing_beside_the_try_that_came_instead(site: Site) -> None:
    maker = Maker(site)

    def slow(keep: Keep) -> dict[str, Any]:
        maker.later(10 * 60 + 1)
        maker.ask({"idempotency-key": "one"})
        return maker.make(keep)

    with pytest.raises(ApiError, match="under way"):
        maker.ask({"idempotency-key": "one"}, do=slow)
    assert maker.made == 1
    # Two first tries without a key are two things, whichever is faster.
    first = {"x-stainless-retry-count": "0"}

    def overtaken(keep: Keep) -> dict[str, Any]:
        maker.ask(first)
        return maker.make(keep)

    maker.ask(first, do=overtaken)
    assert maker.made == 3


def test_old_answers_are_removed(site: Site) -> None:
    maker = Maker(site)
    maker.ask({"x-stainless-retry-count": "0"})
    maker.ask({"idempotency-key": "one"})
    for seconds, left in ((0, 2), (16 * 60, 1), (24 * 3600, 0)):
        forget_old_answers(maker.later(seconds))
        with site.context.database.read() as connection:
            assert connection.execute(select(func.count()).select_from(REQUESTS)).scalar_one() == left
