"""What no version needs any more is removed: blobs, and what killed writers left behind."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson

from tunesmith.errors import RunError
from tunesmith.registry.blobs import COLLECTION, INTENT_HOURS, is_collecting
from tunesmith.registry.reading import brought_out_of
from tunesmith.registry.record import Files
from tunesmith.registry.versions import (
    Version,
    model_names,
    now,
    read_checkpoints,
    read_versions,
    version_folder,
)
from tunesmith.runs.atomic import SCRATCH_MARK
from tunesmith.storage.store import Found, Store

_RENEW_EVERY = 50


@dataclass(frozen=True)
class Garbage:
    """What can go: files of the store, numbers that were taken and never filled, and folders of the user's cache."""

    files: tuple[Found, ...]
    numbers: tuple[str, ...]
    folders: tuple[Path, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of the store that this gives back."""
        return sum(file.size_bytes for file in self.files)


def find_garbage(store: Store, cache: Path) -> Garbage:
    """What no version, no checkpoint and no writer at work needs; nothing is removed.

    Files of killed writers count after a day.

    Raises:
        NetworkError: The storage does not answer.
        ModelError: A record cannot be read; then nothing may be called garbage.
    """
    # Blobs come first: one that is written after this look is none of ours to judge.
    there = list(store.walk("blobs"))
    # Then what is about to be written, for a writer that is done between two looks has its record written.
    needed, leftovers = _intended(store)
    leftovers += [file for part in ("models", "intents") for file in store.walk(part) if _is_left_over(file)]
    versions = [version for name in model_names(store) for version in read_versions(store, name)]
    needed |= {blob for version in versions for blob in _blobs_of(store, version)}
    files = [file for file in there if _is_left_over(file) or _is_unneeded(file, needed)]
    numbers = [version.address for version in versions if version.state == "unfinished" and _is_old(version)]
    known = {(version.name, version.number) for version in versions}
    folders = [folder for folder, of in brought_out_of(store, cache).items() if (of.name, of.version) not in known]
    return Garbage((*files, *leftovers), tuple(numbers), tuple(sorted(folders)))


def collect(store: Store, cache: Path) -> Garbage:
    """Remove what :func:`find_garbage` finds. Writers that begin meanwhile wait.

    Raises:
        RunError: ``registry.collecting``: somebody else is at it.
        OutputError, NetworkError, ModelError: As :func:`find_garbage`.
    """
    _begin(store)
    try:
        garbage = find_garbage(store, cache)
        if not is_collecting(store):
            # It took so long that writers no longer wait for it.
            raise RunError("looking took too long", code="registry.slow", place=store.url, hint="try again")
        for number, file in enumerate(garbage.files, 1):
            store.remove(file.path)
            if number % _RENEW_EVERY == 0:
                store.write(COLLECTION, _mark())
        for address in garbage.numbers:
            name, _, version = address.partition(":")
            store.write(f"{version_folder(name, int(version))}/removed.json", _mark())
        for folder in garbage.folders:
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        store.remove(COLLECTION)
    return garbage


def _begin(store: Store) -> None:
    if is_collecting(store) or not _taken(store):
        raise RunError(
            "somebody else collects garbage of this registry",
            code="registry.collecting",
            place=store.url,
            hint="wait until that is over; one that was killed is passed over after five minutes",
        )


def _taken(store: Store) -> bool:
    if store.create(COLLECTION, _mark()):
        return True
    # Left behind by one that was killed.
    store.remove(COLLECTION)
    return store.create(COLLECTION, _mark())


def _mark() -> bytes:
    return orjson.dumps({"since": now()}) + b"\n"


def _blobs_of(store: Store, version: Version) -> set[str]:
    parts: list[Files] = [one.files for one in read_checkpoints(store, version.name, version.number).values()]
    if version.record is not None:
        parts.append(version.record.files)
    return {blob.sha256 for files in parts for blob in files.values()}


def _intended(store: Store) -> tuple[set[str], list[Found]]:
    """Blobs that writers at work need, and what is left of writers that were killed."""
    needed: set[str] = set()
    stale: list[Found] = []
    for file in store.names("intents"):
        path = f"intents/{file}"
        try:
            content = orjson.loads(store.read(path))
        except FileNotFoundError:
            continue
        if _age(content["since"]) < timedelta(hours=INTENT_HOURS):
            needed |= set(content["blobs"])
        else:
            stale.append(Found(path, 0, None))
    return needed, stale


def _is_unneeded(file: Found, needed: Collection[str]) -> bool:
    return SCRATCH_MARK not in file.path and file.path.rsplit("/", 1)[-1] not in needed


def _is_left_over(file: Found) -> bool:
    """A scratch file of a writer that was killed, once it is a day old."""
    if SCRATCH_MARK not in file.path:
        return False
    return file.written is not None and datetime.now(UTC) - file.written > timedelta(hours=INTENT_HOURS)


def _is_old(version: Version) -> bool:
    return _age(version.claim.since) > timedelta(hours=INTENT_HOURS)


def _age(since: str) -> timedelta:
    return datetime.now(UTC) - datetime.fromisoformat(since)
