"""What a request calls a model is a name and nothing else: it is not looked for on a disk, in a hub or on a network."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from fastapi.routing import iter_route_contexts
from service_jobs import chat_rows
from service_rows import BASE, plant
from service_site import Site, make_site

from tunesmith.service.app import OWN_PREFIX
from tunesmith.service.shared.files import keep_file

MARK = "planted-model"
NAMES = (
    f"/tmp/{MARK}",
    f"../../{MARK}",
    f"./{MARK}",
    f"file:///{MARK}",
    f"https://127.0.0.1:9/{MARK}",
    f"s3://{MARK}/x",
    f"hf://{MARK}/x",
    f"{MARK}/Phi-3-mini-4k-instruct",
    f"{MARK}:1",
    f"{MARK}:1@120",
    f"{MARK}@production",
    f"runs/{MARK}",
    f"{BASE}@{MARK}",
    f"ft:{BASE}:tunesmith:{MARK}:abcdefgh",
    f"{MARK}\n{BASE}",
    "phi-3-mini-4k-instruct",
    "microsoft/Phi-3-mini-4k-instruct",
    "",
)
MESSAGES = [{"role": "user", "content": "hello"}]
# It is there, so that only the model can be wrong.
FILE = "file-of-the-caller"
# By path: a body that names a model.
PLACES: dict[str, Any] = {
    "/v1/chat/completions": lambda name: {"model": name, "messages": MESSAGES},
    "/v1/completions": lambda name: {"model": name, "prompt": "hello"},
    "/v1/embeddings": lambda name: {"model": name, "input": "hello"},
    f"{OWN_PREFIX}/classify": lambda name: {"model": name, "input": "hello"},
    f"{OWN_PREFIX}/deployments": lambda name: {"name": "mine", "model": name},
    "/v1/fine_tuning/jobs": lambda name: {"model": name, "training_file": FILE},
    f"{OWN_PREFIX}/estimates": lambda name: {"model": name, "training_file": FILE},
    f"{OWN_PREFIX}/projects": lambda name: {"name": "more", "allowed_models": [name]},
}
TUNING = ("/v1/fine_tuning/jobs", f"{OWN_PREFIX}/estimates")
PATHS = ("/v1/models/{}", f"{OWN_PREFIX}/catalog/{{}}", f"{OWN_PREFIX}/registry/{{}}")
_watched: list[str] | None = None


def _note(event: str, args: tuple[Any, ...]) -> None:
    if _watched is not None and event in ("open", "os.listdir", "os.scandir", "socket.getaddrinfo", "import"):
        _watched.append(f"{event} {args[0]}")


# It stays for as long as the interpreter lives, and notes nothing unless it is asked to.
sys.addaudithook(_note)


@contextmanager
def watching(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What is opened, listed, imported and asked of a network within the block."""
    global _watched  # noqa: PLW0603
    seen: list[str] = []

    def refuse(_: socket.socket, address: Any) -> None:
        seen.append(f"connect {address}")
        raise OSError("no network in this test")

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        _watched = seen
        try:
            yield seen
        finally:
            _watched = None


def keep_rows(site: Site, folder: Path) -> None:
    """Rows that can be trained on, as a file of the operator's project."""
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(20)))
    keep_file(site.context, site.default.id, "fine-tune", "rows.jsonl", path, file_id=FILE)


def test_no_name_of_a_model_reaches_a_disk_or_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(tmp_path, limits={"requests_per_minute": 1_000_000})
    known = {one.path for one in iter_route_contexts(site.app.routes)}
    other = plant(site, site.project("other")).by_parameter
    # Where the registry keeps what is another project's.
    names = (*NAMES, f"{other['job_id']}:1", f"{other['job_id']}:1@1", other["model"], f"{other['model']}:ckpt-step-1")
    keep_rows(site, tmp_path)
    places = {path: body for path, body in PLACES.items() if path in known}
    assert set(places) == set(PLACES)
    wrong = []
    with site.operator as client:
        # With a model that is offered, both do something.
        for path in TUNING:
            answer = client.post(path, json=PLACES[path](BASE))
            assert answer.status_code == 200, answer.text
    with site.operator as client, watching(monkeypatch) as seen:
        for name in names:
            for path, body in places.items():
                answer = client.post(path, json=body(name))
                blamed = path not in TUNING or answer.json()["error"]["param"] == "model"
                if answer.status_code not in (400, 404) or not blamed:
                    wrong.append(f"{path} {name!r}: {answer.status_code} {answer.text[:200]}")
            for path in PATHS:
                answer = client.get(path.format(quote(name, safe=""))) if name else None
                if answer is not None and answer.status_code not in (400, 404):
                    wrong.append(f"{path} {name!r}: {answer.status_code} {answer.text[:200]}")
    assert not wrong, "\n".join(wrong)
    assert [one for one in seen if MARK in one or one.startswith(("connect", "socket"))] == []
    site.context.database.close()


def test_the_watch_sees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watching(monkeypatch) as seen:
        (tmp_path / MARK).write_text("x")
        with pytest.raises(OSError, match="no network"), socket.socket() as one:
            one.connect(("127.0.0.1", 9))
    assert any(MARK in one for one in seen)
    assert any(one.startswith("connect") for one in seen)
