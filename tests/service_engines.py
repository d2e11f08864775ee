"""Engines of a service for tests: a host for as long as a block runs, and processes that stand in for real ones.

with hosted(site.context): ...               # engines come and go while the block runs
with served(site) as url: ...                # the service over a real connection
monkeypatch.setattr(process, "serving_command", serving_command)   # engines of tests/fake_engine.py
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_engine
import pytest
import uvicorn
from service_site import Site, make_site
from sqlalchemy import select

from tunesmith.service.batches import work
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import ENGINES
from tunesmith.service.engines import host, wishes
from tunesmith.service.shared import working

NAMES = ("one", "two", "three", "broken")


def serving_command(folder: Path) -> list[str]:
    """The command of a process that stands in."""
    options = ["--service", str(folder / "service.json"), "--ready-file", str(folder / "ready.json")]
    return [sys.executable, fake_engine.__file__, *options]


def stand_in_site(folder: Path, kind: str, **settings: Any) -> Site:
    """A service whose models are those of :data:`NAMES`; their folders pass for models."""
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model" / "config.json").write_text("{}")
    models = [f"{name}={folder / 'model'}" for name in NAMES]
    return make_site(folder, kind, **{"models": models, "engine_wait_seconds": 30.0, **settings})


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look more often than a service does, so that tests wait for processes and not for the next look."""
    monkeypatch.setattr(host, "_TURN_SECONDS", 0.05)
    monkeypatch.setattr(host, "TOUCH_SECONDS", 0.1)
    monkeypatch.setattr(wishes, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(working, "_BEAT_SECONDS", 0.2)
    monkeypatch.setattr(working, "_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(work, "_BREAK_SECONDS", 0.5)


@contextmanager
def hosted(context: Context) -> Iterator[None]:
    """Engines are kept while the block runs."""
    stop = threading.Event()
    thread = threading.Thread(target=host.run, args=(context, stop), name="host")
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(60)


@contextmanager
def served(site: Site) -> Iterator[str]:
    """The service at an address of this machine."""
    config = uvicorn.Config(site.app, port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="api")
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)


def engine_states(context: Context) -> dict[str, str]:
    with context.database.read() as connection:
        return {row.base: row.state for row in connection.execute(select(ENGINES))}


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait for something."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
