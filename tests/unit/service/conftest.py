"""A world of jobs and dispatchers, see tests/service_dispatch.py: on one database, or on each kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from service_dispatch import World, make_world
from service_site import DATABASES


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = make_world(tmp_path, monkeypatch)
    yield made
    made.context.database.close()


@pytest.fixture(params=DATABASES)
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    made = make_world(tmp_path, monkeypatch, request.param)
    yield made
    made.context.database.close()
