"""What every storage of the registry does, whatever it is: a folder, memory, S3, Azure blob."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import storage_servers
from registry_cases import add_small

from tunesmith.errors import NetworkError, UsageError
from tunesmith.registry.collect import collect
from tunesmith.registry.names import parse_address
from tunesmith.registry.place import open_registry
from tunesmith.registry.reading import bring_out
from tunesmith.registry.references import add_reference, read_references, remove_version, set_label
from tunesmith.registry.versions import find_version, read_versions
from tunesmith.storage.store import Store

SLOW = {"s3", "az"}
KINDS = [
    pytest.param(kind, marks=[pytest.mark.slow] if kind in SLOW else []) for kind in ("local", "memory", "s3", "az")
]


@pytest.fixture
def store(request, tmp_path, monkeypatch) -> Iterator[Store]:
    kind = request.param
    if kind == "local":
        yield open_registry(str(tmp_path / "registry"))
    elif kind == "memory":
        yield open_registry(f"memory://{uuid.uuid4().hex}")
    else:
        with getattr(storage_servers, f"serve_{kind}")(tmp_path, monkeypatch) as url:
            yield open_registry(f"{url}/{uuid.uuid4().hex}/models")


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_files_are_written_read_listed_and_removed(store, tmp_path):
    store.write("a/b/c.json", b"one")
    store.write("a/b/c.json", b"two")
    store.write("a/d.json", b"three")
    assert store.read("a/b/c.json") == b"two"
    assert store.exists("a/b/c.json")
    assert not store.exists("a/b")
    assert not store.exists("a/x.json")
    assert store.names("a") == ["b", "d.json"]
    assert store.names("nothing") == []
    found = {file.path: file for file in store.walk("a")}
    assert {path: file.size_bytes for path, file in found.items()} == {"a/b/c.json": 3, "a/d.json": 5}
    store.remove("a/b/c.json")
    store.remove("a/b/c.json")
    assert not store.exists("a/b/c.json")
    with pytest.raises(FileNotFoundError):
        store.read("a/b/c.json")
    with pytest.raises(FileNotFoundError):
        store.get("a/b/c.json", tmp_path / "x")


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_of_several_that_create_a_file_at_once_one_does(store):
    won = []
    barrier = threading.Barrier(6)

    def create(number: int) -> None:
        barrier.wait()
        if store.create("race/claim.json", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.read("race/claim.json") == str(won[0]).encode()


@pytest.mark.parametrize("store", KINDS, indirect=True)
def test_a_version_goes_through_its_whole_life(store, tmp_path):
    big = os.urandom(300_000)
    first = add_small(store, tmp_path, "router", {"adapter/w.bin": big, "adapter/c.json": b"1"})
    second = add_small(store, tmp_path, "router", {"adapter/w.bin": big, "adapter/c.json": b"2"})
    assert (first.version, second.version) == (1, 2)
    blobs = [file.path for file in store.walk("blobs")]
    # The weights are one blob; configs and cards are two each.
    assert len(blobs) == 5
    set_label(store, "router", 2, "production")
    found = find_version(store, parse_address("router@production"))
    folder = bring_out(store, found, tmp_path / "cache")
    assert (folder / "adapter" / "w.bin").read_bytes() == big
    assert (folder / "adapter" / "c.json").read_bytes() == b"2"
    add_reference(store, "router", 1, "export", "an export")
    assert [one.who for one in read_references(store, "router", 1)] == ["an export"]
    store.remove(f"models/router/versions/00000001/references/{read_references(store, 'router', 1)[0].id}.json")
    remove_version(store, "router", 1)
    assert [version.number for version in read_versions(store, "router")] == [2]
    garbage = collect(store, tmp_path / "cache")
    assert len(garbage.files) == 2
    assert [file.path for file in store.walk("blobs")] == [path for path in blobs if store.exists(path)]
    assert add_small(store, tmp_path, "router", {"adapter/c.json": b"3"}).version == 3


def test_storage_that_does_not_answer_is_told_by_name(monkeypatch):
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    store = open_registry("s3://bucket/models")
    with pytest.raises(NetworkError) as caught:
        store.read("models/x")
    assert caught.value.place == "s3://bucket/models/models/x"
    assert "very-secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["s3://key:secret@bucket/x", "az://user@c/x", "s3://bucket/x?secret=1"])
def test_an_address_with_credentials_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError) as caught:
        open_registry(url)
    assert caught.value.code == "storage.url"
    assert "secret" not in str(caught.value)
    assert "user" not in str(caught.value)


def test_storage_of_an_unknown_kind_is_refused():
    with pytest.raises(UsageError, match="s3://"):
        open_registry("ftp://host/x")


def test_a_registry_lies_where_it_is_said(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert open_registry().local == Path(tmp_path / "registry")
    monkeypatch.setenv("TUNESMITH_HOME", str(tmp_path / "home"))
    assert open_registry().local == tmp_path / "home" / "registry"
    monkeypatch.setenv("TUNESMITH_REGISTRY", str(tmp_path / "elsewhere"))
    assert open_registry().local == tmp_path / "elsewhere"
    assert open_registry(str(tmp_path / "given")).local == tmp_path / "given"
