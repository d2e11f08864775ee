"""A server on this machine that answers for models as the hub does: listing, a file's head, a file, and commits.

Every file comes within the commit. The real hub takes large ones by its own protocol (Xet), which has no server here.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class LoopbackHub:
    """Repositories by id, ids that are refused with a status and an error code, files
    that are listed but fail, and what was asked for so far."""

    url: str
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, str]] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    private: dict[str, bool] = field(default_factory=dict)


@contextmanager
def serve_hub() -> Iterator[LoopbackHub]:
    """Serve until the block ends."""
    hub = LoopbackHub("")

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            status, body, headers = _answer(hub, self.path.split("?")[0].strip("/"))
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                content = self._chunks()
            status, body = _take(hub, self.path.split("?")[0].strip("/"), content)
            self._end(status, body)

        def _chunks(self) -> bytes:
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def _end(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        hub.url = url
        yield hub


def _answer(hub: LoopbackHub, path: str) -> tuple[int, bytes, dict[str, str]]:
    hub.asked.append(path)
    parts = path.split("/")
    is_api = parts[:2] == ["api", "models"]
    name = "/".join(parts[2:4] if is_api else parts[:2])
    if name in hub.refusals:
        status, code = hub.refusals[name]
        return status, b"{}", {"X-Error-Code": code} if code else {}
    files = hub.repositories.get(name)
    if files is None:
        return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
    if is_api and parts[4:5] == ["tree"]:
        tree = [{"type": "file", "path": file, "size": len(data), "oid": "0" * 40} for file, data in files.items()]
        return 200, json.dumps(tree).encode(), {}
    if is_api:
        siblings = [{"rfilename": file, "size": len(data)} for file, data in files.items()]
        return 200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {}
    # org/name/resolve/COMMIT/path/of/file
    file = "/".join(parts[4:])
    if file in hub.failing:
        return 403, b"", {}
    if file not in files:
        return 404, b"", {"X-Error-Code": "EntryNotFound"}
    etag = hashlib.sha1(files[file]).hexdigest()
    return 200, files[file], {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT}


def _take(hub: LoopbackHub, path: str, content: bytes) -> tuple[int, bytes]:
    """A repository is made, files are announced, large ones uploaded, and committed."""
    hub.asked.append(path)
    parts = path.split("/")
    if path == "api/repos/create":
        wanted = json.loads(content)
        name = f"{wanted['organization']}/{wanted['name']}" if wanted.get("organization") else wanted["name"]
        if name in hub.refusals:
            return hub.refusals[name][0], b"{}"
        if name in hub.repositories:
            return 409, json.dumps({"url": f"{hub.url}/{name}"}).encode()
        hub.repositories[name] = {}
        # Newer clients say a visibility, older ones whether it is private.
        hub.private[name] = bool(wanted.get("private")) or wanted.get("visibility") == "private"
        return 200, json.dumps({"url": f"{hub.url}/{name}"}).encode()
    if path == "api/validate-yaml":
        assert json.loads(content)["content"].startswith("---")
        return 200, b'{"errors": [], "warnings": []}'
    name = "/".join(parts[2:4])
    if parts[4] == "preupload":
        wanted = json.loads(content)["files"]
        files = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in wanted]
        return 200, json.dumps({"files": files}).encode()
    assert parts[4] == "commit", path
    for line in content.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "file":
            hub.repositories[name][value["path"]] = base64.b64decode(value["content"])
        elif entry["key"] == "deletedFile":
            del hub.repositories[name][value["path"]]
    answer = {"commitUrl": f"{hub.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
    return 200, json.dumps(answer).encode()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve with a handler on a free port; gives the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
