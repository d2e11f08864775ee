"""Versions through the room's door: numbers, crashes, full disks, tampering, references, garbage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from registry_cases import add_small, small_content

from tunesmith.errors import ModelError, OutputError, RunError, UsageError
from tunesmith.registry.blobs import COLLECTION, blob_path, intending
from tunesmith.registry.card import model_card
from tunesmith.registry.collect import collect, find_garbage
from tunesmith.registry.names import Address, parse_address
from tunesmith.registry.reading import bring_out
from tunesmith.registry.record import Blob
from tunesmith.registry.references import (
    add_reference,
    drop_reference,
    read_references,
    release,
    remove_label,
    remove_version,
    set_label,
)
from tunesmith.registry.versions import find_version, read_version, read_versions
from tunesmith.registry.writing import add_version
from tunesmith.storage.folder import LocalStore

TESTS = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path) -> LocalStore:
    return LocalStore(tmp_path / "registry")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def found(store, text):
    return find_version(store, parse_address(text))


def test_registrations_at_once_get_numbers_of_their_own(store, tmp_path):
    contents = [small_content(tmp_path, {"adapter/w.bin": str(number).encode()}) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        records = list(pool.map(lambda content: add_version(store, "router", content, model_card), contents))
    assert sorted(record.version for record in records) == list(range(1, 9))
    for record, content in zip(records, contents, strict=True):
        folder = bring_out(store, found(store, record.address), tmp_path / "cache")
        assert (folder / "adapter/w.bin").read_bytes() == content.files["adapter/w.bin"].read_bytes()


def test_the_same_thing_twice_is_one_version(store, tmp_path):
    content = small_content(tmp_path, {"adapter/w.bin": b"1"})
    first = add_version(store, "router", content, model_card)
    assert add_version(store, "router", content, model_card) == first
    assert len(read_versions(store, "router")) == 1


def test_a_registration_that_is_killed_leaves_no_version_and_no_lost_space(store, tmp_path, cache):
    """Killed between the blobs and the record, in a process of its own."""
    program = f"""
import os, signal, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
import tunesmith.registry.writing as writing
from registry_cases import add_small
from tunesmith.storage.folder import LocalStore
writing.write_record = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
add_small(LocalStore(Path({str(store.folder)!r})), Path({str(tmp_path)!r}), "router", {{"adapter/w.bin": b"lost"}})
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    version = read_version(store, "router", 1)
    assert version is not None
    assert version.state == "unfinished"
    with pytest.raises(ModelError) as caught:
        found(store, "router:1")
    assert caught.value.code == "registry.unfinished"
    assert add_small(store, tmp_path, "router", {"adapter/w.bin": b"next"}).version == 2
    # Who wrote it might still be at work, so for a day nothing of it goes.
    assert find_garbage(store, cache).files == ()
    age(store)
    garbage = collect(store, cache)
    assert garbage.numbers == ("router:1",)
    assert len([file for file in garbage.files if file.path.startswith("blobs/")]) == 2
    assert [one.number for one in read_versions(store, "router")] == [2]
    assert list(store.walk("intents")) == []
    bring_out(store, found(store, "router:2"), cache)


def age(store: LocalStore) -> None:
    """Make what writers left behind two days old."""
    then = (datetime.now(UTC) - timedelta(days=2)).isoformat(timespec="seconds")
    for path in [*store.folder.rglob("claim.json"), *(store.folder / "intents").glob("*.json")]:
        path.write_bytes(orjson.dumps({**orjson.loads(path.read_bytes()), "since": then}))


def test_a_full_disk_is_told_and_leaves_no_version(store, tmp_path):
    content = small_content(tmp_path, {"adapter/big.bin": os.urandom(2_000_000)})
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from tunesmith.errors import OutputError
from tunesmith.registry.card import model_card
from tunesmith.registry.record import Base, Origin
from tunesmith.storage.folder import LocalStore
from tunesmith.registry.writing import Content, add_version
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000,) * 2)
facts = {{"kind": "adapter", "origin": Origin(kind="folder", name="x")}}
content = Content({{"adapter/big.bin": Path({str(content.files["adapter/big.bin"])!r})}}, facts)
try:
    add_version(LocalStore(Path({str(store.folder)!r})), "router", content, model_card)
except OutputError as error:
    print(error.code)
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout == "output.disk_full\n"
    assert read_versions(store, "router") == []
    assert [path for path in store.folder.rglob("*") if "scratch" in path.name] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_registry_that_cannot_be_written_is_told(store, tmp_path):
    store.folder.mkdir(mode=0o500)
    with pytest.raises(OutputError):
        add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"})


@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_blob_that_was_tampered_with_is_never_used(damage, store, tmp_path, cache):
    record = add_small(store, tmp_path, "router", {"adapter/w.bin": b"right"})
    path = store.folder / blob_path(record.files["adapter/w.bin"])
    path.chmod(0o644)
    if damage == "change":
        path.write_bytes(b"wrong")
    else:
        path.unlink()
    with pytest.raises(ModelError) as caught:
        bring_out(store, found(store, "router:1"), cache)
    assert caught.value.code == {"change": "registry.blob_changed", "remove": "registry.blob_missing"}[damage]
    assert caught.value.place == "adapter/w.bin"
    assert list(cache.iterdir()) == []


def test_a_record_under_another_versions_name_is_refused(store, tmp_path):
    add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"})
    add_small(store, tmp_path, "router", {"adapter/w.bin": b"2"})
    folder = store.folder / "models/router/versions"
    (folder / "00000001/record.json").write_bytes((folder / "00000002/record.json").read_bytes())
    with pytest.raises(ModelError) as caught:
        found(store, "router:1")
    assert caught.value.code == "registry.record"


def test_what_is_not_there_says_what_is(store, tmp_path):
    add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"})
    set_label(store, "router", 1, "staging")
    for text, code, hint in [
        ("router:7", "registry.no_version", "there is router:1; router@staging is 1"),
        ("router@production", "registry.no_label", "there is router:1; router@staging is 1"),
        ("routr:1", "registry.unknown", "registered are router"),
        ("x@latest", "registry.unknown", "registered are router"),
    ]:
        with pytest.raises(ModelError) as caught:
            found(store, text)
        assert (caught.value.code, caught.value.hint) == (code, hint)


def test_stages_move_and_latest_is_the_newest_that_is_whole(store, tmp_path):
    for number in (b"1", b"2"):
        add_small(store, tmp_path, "router", {"adapter/w.bin": number})
    assert set_label(store, "router", 1, "production") is None
    assert found(store, "router@production").number == 1
    assert set_label(store, "router", 2, "production") == 1
    assert found(store, "router@production").number == 2
    assert found(store, "router@latest").number == 2
    remove_label(store, "router", "production")
    with pytest.raises(UsageError):
        remove_label(store, "router", "production")


def test_what_is_used_is_not_removed_and_a_number_is_not_given_again(store, tmp_path, cache):
    add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"})
    add_reference(store, "router", 1, "deployment", "https://somewhere")
    add_reference(store, "router", 1, "export", "/exports/one")
    set_label(store, "router", 1, "production")
    with pytest.raises(ModelError) as caught:
        remove_version(store, "router", 1)
    users = {"https://somewhere", "/exports/one", "router@production"}
    assert {problem.value for problem in caught.value.problems} == users
    with pytest.raises(ModelError):
        remove_version(store, "router", 1, with_labels=True)
    bring_out(store, found(store, "router:1"), cache)
    drop_reference(store, "router", 1, "deployment", "https://somewhere")
    (left,) = read_references(store, "router", 1)
    with pytest.raises(UsageError):
        release(store, "router", 1, "../../x")
    release(store, "router", 1, left.id)
    remove_version(store, "router", 1, with_labels=True)
    with pytest.raises(ModelError) as gone:
        found(store, "router:1")
    assert gone.value.code == "registry.removed"
    with pytest.raises(ModelError):
        found(store, "router@production")
    with pytest.raises(ModelError):
        add_reference(store, "router", 1, "export", "too late")
    assert read_references(store, "router", 1) == []
    assert add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"}).version == 2
    # The folder of the cache goes with the version.
    assert len(collect(store, cache).folders) == 1
    assert [path for path in cache.iterdir() if path.name.startswith("router-1")] == []


def test_a_version_and_what_came_of_it(store, tmp_path):
    add_small(store, tmp_path, "router", {"adapter/w.bin": b"1"})
    child = add_small(store, tmp_path, "better", {"adapter/w.bin": b"2"}, parent="router:1")
    with pytest.raises(ModelError) as caught:
        remove_version(store, "router", 1)
    assert caught.value.problems[0].hint == "remove better:1 first"
    remove_version(store, child.name, child.version)
    remove_version(store, "router", 1)


def test_garbage_of_one_version_is_not_what_another_needs(store, tmp_path, cache):
    shared = os.urandom(1000)
    add_small(store, tmp_path, "a", {"base/w.bin": shared, "adapter/w.bin": b"a"})
    add_small(store, tmp_path, "b", {"base/w.bin": shared, "adapter/w.bin": b"b"})
    remove_version(store, "a", 1)
    told = find_garbage(store, cache)
    assert len(told.files) == 2
    assert collect(store, cache).files == told.files
    assert (bring_out(store, found(store, "b:1"), cache) / "base/w.bin").read_bytes() == shared
    assert find_garbage(store, cache).files == ()


def test_a_writer_at_work_is_not_robbed(store, tmp_path, cache):
    """A collection that begins after a writer has said what it needs leaves that; a writer that comes later waits."""
    record = add_small(store, tmp_path, "a", {"adapter/w.bin": b"needed"})
    blob = record.files["adapter/w.bin"]
    remove_version(store, "a", 1)
    with intending(store, [blob]):
        collect(store, cache)
        assert store.exists(blob_path(blob))
    store.write(COLLECTION, orjson.dumps({"since": datetime.now(UTC).isoformat()}))
    entered = threading.Event()

    def write() -> None:
        with intending(store, [Blob(sha256="a" * 64, size_bytes=1)]):
            entered.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not entered.wait(0.3)
    with pytest.raises(RunError) as caught:
        collect(store, cache)
    assert caught.value.code == "registry.collecting"
    store.remove(COLLECTION)
    writer.join(timeout=10)
    assert entered.is_set()
    collect(store, cache)
    assert not store.exists(blob_path(blob))


def test_a_collection_that_was_killed_is_passed_over(store, tmp_path, cache):
    then = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    store.write(COLLECTION, orjson.dumps({"since": then}))
    add_small(store, tmp_path, "a", {"adapter/w.bin": b"1"})
    collect(store, cache)
    assert not store.exists(COLLECTION)


def test_two_that_bring_a_version_out_at_once_get_the_same_folder(store, tmp_path, cache):
    add_small(store, tmp_path, "a", {"adapter/w.bin": os.urandom(100_000)})
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: bring_out(store, found(store, "a:1"), cache), range(8)))
    assert len(folders) == 1
    assert list(cache.iterdir()) == list(folders)
    manifest = json.loads((folders.pop() / "manifest.json").read_text())
    assert manifest["model"]["name"] == "x/base"


def test_a_file_with_a_name_that_no_record_may_hold_is_refused(store, tmp_path):
    with pytest.raises(ModelError) as caught:
        add_small(store, tmp_path, "a", {"adapter/../x": b"1"})
    assert caught.value.code == "registry.file_name"
    assert read_versions(store, "a") == []


def test_addresses_with_a_checkpoint_that_is_not_there_name_those_that_are(store, tmp_path, cache):
    add_small(store, tmp_path, "a", {"adapter/w.bin": b"1"}, step=12)
    assert bring_out(store, found(store, "a:1"), cache, 12) == bring_out(store, found(store, "a:1"), cache)
    with pytest.raises(ModelError, match=r"12 \(the result\)"):
        bring_out(store, find_version(store, Address("a", 1)), cache, 7)
