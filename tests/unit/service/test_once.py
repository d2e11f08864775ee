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
from tunesmith.service.shared.once import forget_old_answers, once

Make = Callable[[], tuple[int, dict[str, Any]]]
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

    def ask(
        self, headers: dict[str, str], body: Any = BODY, do: Callable[[], tuple[int, dict[str, Any]]] | None = None
    ):
        return once(self.context, self.caller, headers, "/v1/fine_tuning/jobs", body, do or self.make)

    def make(self) -> tuple[int, dict[str, Any]]:
        self.made += 1
        return 200, {"id": f"job-{self.made}", "z": 1.5, "a": {"é": [None, True]}}

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

    def slow() -> tuple[int, dict[str, Any]]:
        done.wait(10)
        return maker.make()

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

    def fail() -> tuple[int, dict[str, Any]]:
        raise ApiError(429, "wait")

    with pytest.raises(ApiError, match="wait"):
        maker.ask({"idempotency-key": "one"}, do=fail)
    assert maker.ask({"idempotency-key": "one"}, do=lambda: (503, {"error": {}})).status_code == 503
    assert maker.ask({"idempotency-key": "one"}).status_code == 200
    assert maker.made == 1


def test_a_process_that_was_killed_blocks_for_minutes_only(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    maker = Maker(site)
    monkeypatch.setattr("tunesmith.service.shared.once._forget", lambda *_: None)

    def killed() -> tuple[int, dict[str, Any]]:
        raise SystemExit

    with pytest.raises(SystemExit):
        maker.ask({"idempotency-key": "one"}, do=killed)
    with pytest.raises(ApiError, match="under way"):
        maker.ask({"idempotency-key": "one"})
    maker.later(10 * 60 + 1)
    maker.ask({"idempotency-key": "one"})
    assert maker.made == 1


def test_old_answers_are_removed(site: Site) -> None:
    maker = Maker(site)
    maker.ask({"x-stainless-retry-count": "0"})
    maker.ask({"idempotency-key": "one"})
    for seconds, left in ((0, 2), (16 * 60, 1), (24 * 3600, 0)):
        forget_old_answers(maker.later(seconds))
        with site.context.database.read() as connection:
            assert connection.execute(select(func.count()).select_from(REQUESTS)).scalar_one() == left
