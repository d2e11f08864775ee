"""Data sets by hub id, against a loopback server that answers as the hub does."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import DataError, NetworkError
from tunesmith.formats.hub import fetch_dataset
from tunesmith.formats.hub_names import HubName, choose_files, parse_hub_name
from tunesmith.formats.inspect import inspect_source

ROW = b'{"text": "a", "label": "x"}\n'
CARD = (
    b"---\nconfigs:\n- config_name: main\n  default: true\n  data_files:\n  - split: train\n    path: main/t*.jsonl\n"
)
CARD += (
    b"  - split: validation\n    path: main/v.jsonl\n- config_name: other\n  data_files: other.csv\n---\nAbout it.\n"
)
REPOSITORIES: dict[str, dict[str, bytes]] = {
    "org/plain": {"train.jsonl": ROW * 3, "test.jsonl": ROW, "README.md": b"# About"},
    "org/card": {"README.md": CARD, "main/t1.jsonl": ROW, "main/t2.jsonl": ROW, "main/v.jsonl": ROW,
                 "other.csv": b"text,label\na,x\n"},
    "org/pictures": {"a.png": b"png"},
}  # fmt: skip
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """The three answers of the hub that reading a data set needs: the listing, a file's head, a file."""

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[:2] == ["api", "datasets"]:
            name = "/".join(parts[2:4])
            if name == "org/broken":
                return self.answer(500, b"{}")
            if name == "org/gated":
                return self.answer(403, b"{}", {"X-Error-Code": "GatedRepo"})
            if name not in REPOSITORIES:
                return self.answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
            if parts[4:] == ["refs"]:
                return self.answer(200, json.dumps({"branches": [], "converts": [], "tags": []}).encode())
            files = [{"rfilename": file} for file in REPOSITORIES[name]]
            return self.answer(200, json.dumps({"id": name, "sha": COMMIT, "siblings": files}).encode())
        # /datasets/org/name/resolve/COMMIT/path/of/file
        data = REPOSITORIES.get("/".join(parts[1:3]), {}).get("/".join(parts[5:]))
        if data is None:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self.answer(200, data, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": COMMIT})

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    hub = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{hub.server_port}"
    hub.shutdown()
    thread.join()
    hub.server_close()


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Inspect a source in a process of its own, because the hub's client reads its settings when it is imported."""
    code = (
        "import json, sys\nfrom tunesmith.errors import TunesmithError\n"
        "from tunesmith.formats.inspect import inspect_source\n"
        "try: print(json.dumps(inspect_source(sys.argv[1]).to_json()))\n"
        "except TunesmithError as error: print(json.dumps(error.to_json()))"
    )

    def run_code(source: str, endpoint: str, **settings: str) -> dict[str, Any]:
        environment = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "hub"), **settings}
        environment.setdefault("HF_HUB_OFFLINE", "0")
        done = subprocess.run(
            [sys.executable, "-c", code, source],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run_code


def test_a_split_is_fetched_and_stays_in_the_cache(server: str, run: Callable[..., dict[str, Any]]) -> None:
    first = run("org/plain", server)
    assert [file["name"] for file in first["files"]] == ["train.jsonl"]
    assert (first["shape"], first["rows"]) == ("text_label", 3)
    assert run("org/plain", "http://127.0.0.1:1", HF_HUB_OFFLINE="1") == first


def test_offline_without_the_cache_is_a_named_error(server: str, run: Callable[..., dict[str, Any]]) -> None:
    error = run("org/plain", server, HF_HUB_OFFLINE="1")
    assert (error["class"], error["code"], error["place"]) == ("NetworkError", "network.hub", "org/plain")
    assert error["message"] == "offline, and the data set is not in the cache"


def test_a_download_that_broke_off_is_not_a_smaller_data_set(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch_dataset("org/card", "validation")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert [name for name, _ in fetch_dataset("org/card", "validation")] == ["main/v.jsonl"]
    with pytest.raises(NetworkError, match="not in the cache"):
        fetch_dataset("org/card", "train")


@pytest.fixture
def here(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_ENDPOINT", server)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "split", "files"),
    [
        ("org/plain", "test", ["test.jsonl"]),
        ("org/card", "train", ["main/t1.jsonl", "main/t2.jsonl"]),
        ("org/card:main", "validation", ["main/v.jsonl"]),
        ("org/card:other", "train", ["other.csv"]),
    ],
)
def test_files_of_a_split(here: Path, name: str, split: str, files: list[str]) -> None:
    fetched = fetch_dataset(name, split)
    assert [file for file, _ in fetched] == files
    repository = REPOSITORIES[name.split(":", maxsplit=1)[0]]
    assert [path.read_bytes() for _, path in fetched] == [repository[file] for file in files]


def test_the_split_may_stand_in_the_name(here: Path) -> None:
    assert inspect_source("org/plain@test").rows == 1


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("org/nothing", "data.hub_not_found", "no such file, folder or data set on the hub"),
        ("org/gated", "data.hub_no_access", "behind an agreement"),
        ("org/plain:x", "data.hub_config", "no such configuration: x"),
        ("org/card:othr", "data.hub_config", "did you mean `other`?"),
        ("org/plain@valid", "data.hub_split", "no such split: valid"),
        ("org/pictures", "data.hub_no_files", "no files that can be read"),
    ],
)
def test_what_the_hub_does_not_have(here: Path, name: str, code: str, text: str) -> None:
    with pytest.raises(DataError) as caught:
        inspect_source(name)
    assert caught.value.code == code
    assert text in str(caught.value)


def test_a_hub_that_fails_or_is_not_there(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="the hub did not answer"):
        inspect_source("org/broken")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(NetworkError) as caught:
            inspect_source("org/plain")
    assert (caught.value.code, caught.value.retryable) == ("network.hub", True)
    assert "a path of this name does not exist here" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("names", "wanted", "split", "files"),
    [
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/test-0.parquet"],
         "a/b", "train", ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]),
        (["en/train/0000.parquet", "en/validation/0000.parquet", "de/train/0000.parquet"],
         "a/b:en", "validation", ["en/validation/0000.parquet"]),
        (["rows.csv", ".gitattributes", "dataset_infos.json"], "a/b", "train", ["rows.csv"]),
        (["my_dev.tsv", "my_train.tsv.gz"], "a/b", "validation", ["my_dev.tsv"]),
    ],
)  # fmt: skip
def test_splits_told_from_names(names: list[str], wanted: str, split: str, files: list[str]) -> None:
    name = parse_hub_name(wanted)
    assert name is not None
    assert choose_files(names, None, name, split) == files


def test_several_configurations_must_be_named() -> None:
    with pytest.raises(DataError) as caught:
        choose_files(["en/train.csv", "de/train.csv"], None, HubName("a/b"), "train")
    assert caught.value.hint == "name one, for example a/b:de"


def test_names() -> None:
    assert parse_hub_name("org/name:config@test") == HubName("org/name", "config", "test")
    assert parse_hub_name("org/name") == HubName("org/name")
    for text in ("name", "a/b/c", "../up", "/root/name", "org/name:"):
        assert parse_hub_name(text) is None
