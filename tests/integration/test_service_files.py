"""Files through a real server process: large ones at constant memory, and clients that go away."""

from __future__ import annotations

import hashlib
import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from service_site import Site, make_site

from tunesmith.service.settings import write_settings

_SERVE = """
import sys, uvicorn
from pathlib import Path
from tunesmith.service.app import make_app
from tunesmith.service.context import open_context
from tunesmith.service.settings import read_settings
app = make_app(open_context(read_settings(Path(sys.argv[1]))))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""
_MIB = 2**20


class Server:
    """A site's application in a process of its own."""

    def __init__(self, site: Site, folder: Path) -> None:
        write_settings(site.context.settings, folder / "settings.json")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-c", _SERVE, str(folder / "settings.json"), str(port)]
        self.site = site
        self.port = port
        self.process = subprocess.Popen(command)
        self.memory = psutil.Process(self.process.pid)
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {site.default.key()}"},
            timeout=120,
            trust_env=False,
        )
        self.most_mib = 0.0

    def wait(self) -> None:
        until = time.monotonic() + 60
        while True:
            try:
                self.client.get("/health")
            except httpx.TransportError:
                assert self.process.poll() is None
                assert time.monotonic() < until
                time.sleep(0.1)
            else:
                return

    def watch(self) -> float:
        self.most_mib = max(self.most_mib, self.memory.memory_info().rss / _MIB)
        return self.most_mib

    def stop(self) -> None:
        self.client.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    site = make_site(tmp_path)
    server = Server(site, tmp_path)
    try:
        server.wait()
        yield server
    finally:
        server.stop()
        site.context.database.close()


def _form(pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield b'--mark\r\ncontent-disposition: form-data; name="file"; filename="large.jsonl"\r\n\r\n'
    yield from pieces
    yield b'\r\n--mark\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--mark--\r\n'


_KIND = {"content-type": "multipart/form-data; boundary=mark"}


def _bytes_left(site: Site) -> list[str]:
    return [one.path for one in site.context.storage.walk("projects")] + [
        path.name for path in site.context.scratch.iterdir()
    ]


@pytest.mark.slow
def test_large_files_come_and_go_at_constant_memory(server: Server) -> None:
    piece, sent = bytes(range(256)) * 4096, hashlib.sha256()

    def pieces() -> Iterator[bytes]:
        for at in range(300):
            own = at.to_bytes(4, "big") + piece[4:]
            sent.update(own)
            server.watch()
            yield own

    server.client.get("/v1/files")
    before = server.watch()
    told = server.client.post("/v1/files", content=_form(pieces()), headers=_KIND)
    assert told.status_code == 200, told.text
    assert told.json()["bytes"] == 300 * _MIB
    got = hashlib.sha256()
    with server.client.stream("GET", f"/v1/files/{told.json()['id']}/content") as content:
        for chunk in content.iter_bytes(_MIB):
            got.update(chunk)
            server.watch()
    assert got.digest() == sent.digest()
    grown = server.most_mib - before
    assert grown < 60, f"{grown:.0f} MiB more"


def test_a_client_that_goes_away_leaves_nothing(server: Server) -> None:
    def broken() -> Iterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000
        raise RuntimeError("the client is gone")

    with pytest.raises(RuntimeError, match="gone"):
        server.client.post("/v1/files", content=_form(broken()), headers=_KIND)
    until = time.monotonic() + 30
    while left := _bytes_left(server.site):
        assert time.monotonic() < until, left
        time.sleep(0.05)
    assert server.client.get("/v1/files").json()["data"] == []


def test_a_refusal_is_heard_while_the_body_is_still_coming(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/v1/files")
    for name, value in {**server.client.headers, **_KIND, "content-length": str(2**40)}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    connection.close()
