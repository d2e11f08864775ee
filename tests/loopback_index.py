"""A package index on this machine, in the form that pip asks for, and small wheels to put on it."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from typing import Any

from loopback_hub import serving


def make_wheel(name: str, version: str, files: Mapping[str, bytes], requires: str = "") -> bytes:
    """A wheel with the given files; ``requires`` adds a dependency."""
    stem = f"{name.replace('-', '_')}-{version}"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    metadata += f"Requires-Dist: {requires}\n" if requires else ""
    content = {
        **files,
        f"{stem}.dist-info/METADATA": metadata.encode(),
        f"{stem}.dist-info/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{stem}.dist-info/RECORD": b"",
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for file, data in content.items():
            archive.writestr(file, data)
    return packed.getvalue()


@contextmanager
def serve_index(name: str, version: str, wheel: bytes) -> Iterator[str]:
    """Serve one wheel; gives the address for PIP_INDEX_URL."""
    file = f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    page = f'<!DOCTYPE html><html><body><a href="/files/{file}#sha256={hashlib.sha256(wheel).hexdigest()}">{file}</a>'

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

        def do_GET(self) -> None:
            answers = {f"/simple/{name}/": (page.encode(), "text/html"), f"/files/{file}": (wheel, "application/zip")}
            body, kind = answers.get(self.path, (b"", "text/plain"))
            self.send_response(200 if body else 404)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as url:
        yield f"{url}/simple/"


def use_index(monkeypatch: Any, url: str) -> None:
    """Let pip ask this index alone, at once, and keep nothing."""
    for key, value in {
        "PIP_INDEX_URL": url,
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_NO_CACHE_DIR": "1",
        "PIP_RETRIES": "0",
        "PIP_TIMEOUT": "3",
    }.items():
        monkeypatch.setenv(key, value)
