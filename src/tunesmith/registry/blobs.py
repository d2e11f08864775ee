"""Files by their hash, so that versions which share a base share its bytes.

Whoever writes says first which hashes it will need (an intent), and looks for a collection under way after that; a
collector says first that it collects, and reads intents after that. One of the two sees the other, so nothing that
somebody relies on is collected.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from tunesmith.errors import ModelError
from tunesmith.registry.record import Blob
from tunesmith.registry.versions import now
from tunesmith.storage.store import Store

OnProgress = Callable[[str, int, int | None, str], None]
COLLECTION = "collection.json"
# A collection says that it goes on at least so often; one that has not was killed.
COLLECTION_SECONDS = 300.0
# What a killed writer wanted is kept for so long.
INTENT_HOURS = 24.0
_POLL_SECONDS = 0.2


def no_progress(_what: str, _done: int, _total: int | None, _unit: str) -> None:
    """For callers that show none."""


def blob_path(blob: Blob) -> str:
    """Where a blob lies in the store."""
    return f"blobs/sha256/{blob.sha256[:2]}/{blob.sha256}"


def hash_file(path: Path) -> Blob:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return Blob(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size_bytes=path.stat().st_size)


def hash_files(files: Mapping[str, Path], on_progress: OnProgress = no_progress) -> dict[str, Blob]:
    """Each file's blob, in the order of paths."""
    total = sum(path.stat().st_size for path in files.values())
    found, done = {}, 0
    for name in sorted(files):
        found[name] = hash_file(files[name])
        done += found[name].size_bytes
        on_progress("hash", done, total, "bytes")
    return found


@contextmanager
def intending(store: Store, blobs: Iterable[Blob]) -> Iterator[None]:
    """Keep these blobs from being collected while the block writes them and the record that names them.

    Waits for a collection that is under way.

    Raises:
        OutputError: The storage cannot be written.
        NetworkError: It does not answer.
    """
    path = f"intents/{uuid.uuid4().hex}.json"
    content = {"since": now(), "blobs": sorted({blob.sha256 for blob in blobs})}
    store.write(path, orjson.dumps(content) + b"\n")
    try:
        while is_collecting(store):
            time.sleep(_POLL_SECONDS)
        yield
    finally:
        store.remove(path)


def is_collecting(store: Store) -> bool:
    """Whether a collection is under way that still lives."""
    try:
        since = datetime.fromisoformat(orjson.loads(store.read(COLLECTION))["since"])
    except FileNotFoundError:
        return False
    return datetime.now(UTC) - since < timedelta(seconds=COLLECTION_SECONDS)


def put_blobs(
    store: Store, files: Mapping[str, Path], blobs: Mapping[str, Blob], on_progress: OnProgress = no_progress
) -> None:
    """Bring files into the store that it has not yet; call it within :func:`intending`.

    Raises:
        OutputError: The disk is full or the folder cannot be written; what is there stays as it was.
        NetworkError: The storage does not answer.
        ModelError: ``registry.changed_meanwhile``: a file is not what it was when it was hashed.
    """
    total, done = sum(blob.size_bytes for blob in blobs.values()), 0
    for name, blob in blobs.items():
        if not store.exists(blob_path(blob)):
            _put(store, files[name], blob)
        done += blob.size_bytes
        on_progress("copy", done, total, "bytes")


def take_out(store: Store, blob: Blob, target: Path, name: str) -> None:
    """Bring one blob out to a new file, and see that it is what the record says.

    Raises:
        ModelError: ``registry.blob_missing``, ``registry.blob_changed``.
        OutputError: The target cannot be written.
        NetworkError: The storage does not answer.
    """
    try:
        store.get(blob_path(blob), target)
    except FileNotFoundError as error:
        raise ModelError(
            "a file of the version is missing in the registry",
            code="registry.blob_missing",
            place=name,
            value=blob_path(blob),
            hint="the storage was changed from outside; register or pull the model again",
        ) from error
    found = hash_file(target)
    if found != blob:
        target.unlink()
        raise ModelError(
            "a file of the version is not what was registered",
            code="registry.blob_changed",
            place=name,
            value=f"sha256 {found.sha256[:12]}, recorded {blob.sha256[:12]}",
            hint=f"the storage was changed from outside; remove {blob_path(blob)} there, then register again",
        )


def _put(store: Store, source: Path, blob: Blob) -> None:
    store.put(source, blob_path(blob))
    # The file may have changed between hashing and copying; a blob under a wrong name would serve others too.
    if hash_file(source) != blob:
        store.remove(blob_path(blob))
        raise ModelError(
            "a file changed while it was registered",
            code="registry.changed_meanwhile",
            place=str(source),
            hint="wait until whatever writes it is done, then register again",
        )
