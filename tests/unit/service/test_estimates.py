"""Estimates that many ask for at once: they take no more of a process than they should."""

from __future__ import annotations

from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from anyio.to_thread import current_default_thread_limiter
from service_jobs import chat_rows, jobs_site, upload
from service_site import make_site

from tunesmith.service.fine_tuning import estimate

# More than a process has threads for its routes.
MANY = 48
WAIT_SECONDS = 60.0


def test_estimates_that_wait_for_a_count_leave_threads_for_everybody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimate, "EXACT_SECONDS", WAIT_SECONDS)
    site = jobs_site(tmp_path)
    client, other = site.client(), site.client("inference")
    body = {"model": "tiny", "training_file": upload(site.default, chat_rows(20)), "tunesmith": {"exact": True}}

    def ask() -> dict[str, Any]:
        answer = client.post("/tunesmith/v1/estimates", json=body)
        assert answer.status_code == 200, answer.text
        told: dict[str, Any] = answer.json()
        return told

    with ThreadPoolExecutor(MANY + 1) as pool:
        # Somebody's tokens are being counted all the while.
        with estimate.COUNTING.take(0) as came:
            assert came
            done: set[Future[dict[str, Any]]] = set()
            waiting = {pool.submit(ask) for _ in range(MANY)}
            while len(waiting) > 3:
                more, waiting = wait(waiting, WAIT_SECONDS / 2, FIRST_COMPLETED)
                assert more, f"{len(waiting)} wait for one count"
                done |= more
            for one in done:
                told = one.result()
                assert told["guessed"] is True
                assert any("counts tokens for others" in line for line in told["warnings"])
            # Three are still waiting, and threads are there for others.
            assert pool.submit(other.get, "/v1/models").result(WAIT_SECONDS / 2).status_code == 200
            assert len(waiting) == 3
            assert not any(one.done() for one in waiting)
            turns: list[str] = []
            monkeypatch.setattr(estimate.stages, "audit", lambda recipe, *_, **__: turns.append(recipe))
        wait(waiting, WAIT_SECONDS)
        # What the worker counts, tests/integration/test_service_web.py looks at.
        assert len(turns) == 3
    site.context.database.close()


def test_a_process_without_a_free_thread_says_that_it_lives(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    client = site.with_key(None)
    assert client.portal is not None
    limiter = client.portal.call(current_default_thread_limiter)
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        client.portal.call(limiter.acquire_on_behalf_of_nowait, holder)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(client.get, "/health")
        try:
            assert asked.result(10.0).json() == {"status": "ok"}
        finally:
            for holder in holders:
                client.portal.call(limiter.release_on_behalf_of, holder)
    site.context.database.close()
