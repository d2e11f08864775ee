"""A PostgreSQL of this machine's own programs, on a free port, for as long as the tests run."""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import psycopg
import pytest

_USER = "postgres"


def new_database(pattern: str = "template1") -> str:
    """The address of a new database of the server; skips, loudly, where PostgreSQL is not installed.

    Args:
        pattern: The name of the database that it is a copy of; as it is, an empty one.
    """
    port = server_port()
    with psycopg.connect(f"host=127.0.0.1 port={port} user={_USER} dbname=postgres", autocommit=True) as connection:
        (number,) = connection.execute("SELECT count(*) FROM pg_database").fetchone() or (0,)
        name = f"test_{number}_{os.getpid()}"
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{pattern}"')  # type: ignore[arg-type]
    return f"postgresql://{_USER}@127.0.0.1:{port}/{name}"


class Server:
    """A server in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port

    def control(self, *words: str) -> None:
        """Start or stop it."""
        options = (
            f"-c listen_addresses=127.0.0.1 -c port={self.port} -c fsync=off -c unix_socket_directories={self.folder}"
        )
        command = [_program("pg_ctl"), "-D", str(self.folder / "data"), "-w", "-l", str(self.folder / "log")]
        extra = ["-o", options] if words[0] in ("start", "restart") else []
        subprocess.run(_as_user([*command, *extra, *words]), check=True, capture_output=True, cwd=self.folder)


@cache
def server() -> Server:
    """The one server of this test session."""
    if shutil.which("initdb") is None and _program("initdb") == "initdb":
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-postgres-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    if os.geteuid() == 0:
        shutil.chown(folder, _USER)
    made = [_program("initdb"), "-D", str(folder / "data"), "-U", _USER, "-A", "trust", "--no-sync", "-E", "UTF8"]
    subprocess.run(_as_user(made), check=True, capture_output=True, cwd=folder)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = Server(folder, port)
    found.control("start")
    atexit.register(found.control, "stop", "-m", "immediate")
    return found


def server_port() -> int:
    """Where it listens."""
    return server().port


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is not None:
        return found
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return str(places[-1]) if places else name


def _as_user(command: list[str]) -> list[str]:
    """The programs refuse to run as root."""
    return ["runuser", "-u", _USER, "--", *command] if os.geteuid() == 0 else command
