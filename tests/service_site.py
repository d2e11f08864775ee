"""A service of this process for tests: its application, its context, and clients with keys of every kind.

site = make_site(tmp_path, database)
site.client("member").get("/v1/files")
other = site.project("other"); other.client("member")...
"""

from __future__ import annotations

import atexit
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from anyio.from_thread import BlockingPortal, start_blocking_portal
from fastapi.testclient import TestClient
from sqlalchemy import insert, select

from tunesmith.service.app import make_app
from tunesmith.service.auth.keys import make_key
from tunesmith.service.context import Context, open_context
from tunesmith.service.db.migrate import upgrade
from tunesmith.service.db.tables.accounts import API_KEYS, PROJECTS
from tunesmith.service.db.tables.files import FILES
from tunesmith.service.first import prepare
from tunesmith.service.ids import new_id
from tunesmith.service.settings import Settings

DATABASES = ("sqlite", "postgresql")
# Of a test whose fixture `site` is made for each: it is about something else, and one is enough.
ANY_DATABASE = pytest.mark.parametrize("site", ["sqlite"], indirect=True)


def database_url(kind: str, folder: Path) -> str:
    """An empty database of a kind."""
    if kind == "sqlite":
        return f"sqlite:///{folder / 'service.db'}"
    from postgres import new_database

    return new_database()


def _database_with_tables(kind: str, folder: Path) -> str:
    """A database with the tables of this program and nothing in them: a copy, since the steps to them take longer."""
    pattern = _pattern(kind)
    if kind == "sqlite":
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pattern.removeprefix("sqlite:///"), folder / "service.db")
        return database_url(kind, folder)
    from postgres import new_database

    return new_database(pattern.rpartition("/")[2])


@cache
def _pattern(kind: str) -> str:
    """The address of the database that is copied; nothing is connected to it any more."""
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-tables-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    url = database_url(kind, folder)
    context = open_context(Settings(data_folder=folder / "data", database=url, storage=str(folder / "storage")))
    upgrade(context.database)
    context.database.close()
    return url


_opened = ExitStack()
_portals: list[BlockingPortal] = []


def _portal() -> BlockingPortal:
    """Where clients of this test run applications: one loop for all of them, since each costs more than a request."""
    if not _portals:
        _portals.append(_opened.enter_context(start_blocking_portal("asyncio")))
    return _portals[0]


@contextmanager
def served(site: Site) -> Iterator[str]:
    """The site at an address of this machine, for clients that want one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(site.app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def close_portal() -> None:
    """End the loop of a test; its clients are of no use any more."""
    _portals.clear()
    _opened.close()


@dataclass(frozen=True)
class Project:
    """A project of a site."""

    site: Site
    id: str

    def key(self, scope: str = "member", **columns: Any) -> str:
        """A new key of the project."""
        return self.site.new_key(scope, self.id, **columns)

    def client(self, scope: str = "member") -> httpx.Client:
        """A client with a new key."""
        return self.site.with_key(self.key(scope))


class Site:
    """A service without processes of its own."""

    def __init__(self, context: Context, first_key: str) -> None:
        self.context = context
        self.app = make_app(context)
        self.first_key = first_key

    @property
    def default(self) -> Project:
        """The project that every service has."""
        with self.context.database.read() as connection:
            found = connection.execute(select(PROJECTS.c.id).where(PROJECTS.c.name == "default")).scalar_one()
        return Project(self, found)

    @property
    def operator(self) -> httpx.Client:
        """Whoever runs the service."""
        return self.with_key(self.first_key)

    def client(self, scope: str = "member") -> httpx.Client:
        """A client of the default project."""
        return self.default.client(scope)

    def file_bytes(self, file_id: str) -> bytes:
        """What a file's row says lies in the storage."""
        with self.context.database.read() as connection:
            place = connection.execute(select(FILES.c.place).where(FILES.c.id == file_id)).scalar_one()
        return self.context.storage.read(place)

    def with_key(self, key: str | None) -> httpx.Client:
        """A client with a key, or with none. Errors of the application are answers, as over a network."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        client = TestClient(self.app, headers=headers, raise_server_exceptions=False)
        client.portal = _portal()
        return client

    def project(self, name: str, **columns: Any) -> Project:
        """A new project."""
        row = {"id": new_id("proj_"), "name": name, "created_at": self.context.now(), "priority": 0, **columns}
        with self.context.database.write() as connection:
            connection.execute(insert(PROJECTS).values(budget_action="stop", **row))
        return Project(self, row["id"])

    def new_key(self, scope: str, project_id: str | None, **columns: Any) -> str:
        """A new key; without a project it is an administrator's."""
        key = make_key()
        row = {
            "id": new_id("key_"),
            "project_id": project_id,
            "name": scope,
            "hash": key.hash,
            "shown": key.shown,
            "scope": scope,
            "created_at": self.context.now(),
            **columns,
        }
        with self.context.database.write() as connection:
            connection.execute(insert(API_KEYS).values(**row))
        return key.secret


def make_site(folder: Path, kind: str = "sqlite", **settings: Any) -> Site:
    """A new service in a folder."""
    plain = {"data_folder": folder / "data", "storage": str(folder / "storage"), **settings}
    if "database" in plain:
        context = open_context(Settings(**plain))
        upgrade(context.database)
    else:
        context = open_context(Settings(database=_database_with_tables(kind, folder), **plain))
    first_key = prepare(context)
    assert first_key is not None
    return Site(context, first_key)
