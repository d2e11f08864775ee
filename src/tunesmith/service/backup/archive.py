"""The one file of a backup: a tar of members, and at its end a list of them with their hashes.

Hashes find what was damaged or changed by hand. They are no signature: whoever may write the file may write any backup,
so that it belongs where the database belongs. It holds secrets of webhooks and is readable by its owner alone.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import orjson

from tunesmith.errors import UsageError
from tunesmith.runs.atomic import telling_output_errors
from tunesmith.service.ids import new_id

FORMAT = 1
MANIFEST = "manifest.json"
TABLES = "tables"
STORAGE = "storage"
RUNS = "runs"
_SEAL = "manifest.sha256"
_PIECE_BYTES = 2**20
_MOST_MANIFEST_BYTES = 2**30
_TABLE_NAME = re.compile(r"[a-z_]+\.jsonl")


class Writer:
    """Members go in one after the other; the list of them is written by :meth:`close`.

    Args:
        tar: The archive, open for writing.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, str] = {}

    def add(self, name: str, source: BinaryIO, size: int) -> None:
        """Add so many bytes of an open file."""
        reader = _Hashing(source)
        self._tar.addfile(_entry(name, size), reader)
        self._members[name] = reader.digest.hexdigest()

    def close(self, about: dict[str, Any]) -> None:
        """Write the list of members, and what the archive is about."""
        listed = orjson.dumps({"format": FORMAT, **about, "members": self._members})
        seal = hashlib.sha256(listed).hexdigest().encode()
        for name, content in ((MANIFEST, listed), (_SEAL, seal)):
            self._tar.addfile(_entry(name, len(content)), io.BytesIO(content))


@contextmanager
def new_archive(path: Path) -> Iterator[Writer]:
    """Write an archive; it is there whole after the block, or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{new_id('scratch-')}")
    with telling_output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            scratch.touch(mode=0o600, exist_ok=False)
            with tarfile.open(scratch, "w:") as tar:
                yield Writer(tar)
            scratch.replace(path)
        finally:
            scratch.unlink(missing_ok=True)


@dataclass(frozen=True)
class Archive:
    """A whole archive that was found good.

    Attributes:
        about: What its writer told of it.
    """

    about: dict[str, Any]
    _tar: tarfile.TarFile

    def members(self, folder: str) -> Iterator[tuple[PurePosixPath, BinaryIO]]:
        """Members below a folder, by their path in it, each open until the next one is asked for."""
        for entry in self._tar:
            path = PurePosixPath(entry.name)
            if path.parts[0] == folder:
                with _opened(self._tar, entry) as source:
                    yield path.relative_to(folder), source


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive after every byte of it was read and found as it was written.

    Raises:
        UsageError: ``backup.broken``: it is no backup, or not as it was written; ``backup.newer``: of another version.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            yield Archive(_verified(tar), tar)
    except FileNotFoundError as error:
        raise UsageError("there is no such backup", code="backup.missing", value=str(path)) from error
    except tarfile.TarError as error:
        raise _broken(str(error)) from error


def _verified(tar: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, str] = {}
    told = {MANIFEST: b"", _SEAL: b""}
    for entry in tar:
        _require_safe(entry)
        if entry.name in found:
            raise _broken(f"{entry.name} is in it twice")
        with _opened(tar, entry) as source:
            if entry.name in told:
                if entry.size > _MOST_MANIFEST_BYTES:
                    raise _broken("its list is too long")
                told[entry.name] = source.read()
            else:
                found[entry.name] = hashlib.file_digest(source, "sha256").hexdigest()
    if hashlib.sha256(told[MANIFEST]).hexdigest().encode() != told[_SEAL]:
        raise _broken("its list was changed")
    about: dict[str, Any] = orjson.loads(told[MANIFEST])
    if about.get("format") != FORMAT:
        raise UsageError(
            "a newer version of Tunesmith has written this backup",
            code="backup.newer",
            value=about.get("format"),
            hint="restore it with that version",
        )
    listed: dict[str, str] = about["members"]
    if found != listed:
        wrong = sorted(name for name in found.keys() | listed.keys() if found.get(name) != listed.get(name))
        raise _broken(f"{wrong[0]} is not as it was written")
    return about


def _require_safe(entry: tarfile.TarInfo) -> None:
    """Only plain files, only where backups have them: nothing is ever written outside of the folders restored to."""
    path = PurePosixPath(entry.name)
    is_known = entry.name in (MANIFEST, _SEAL) or (
        len(path.parts) > 1
        and path.parts[0] in (TABLES, STORAGE, RUNS)
        and (path.parts[0] != TABLES or _TABLE_NAME.fullmatch("/".join(path.parts[1:])) is not None)
    )
    is_plain = not path.is_absolute() and str(path) == entry.name and ".." not in path.parts
    if not (entry.isreg() and is_known and is_plain) or "\\" in entry.name or "\0" in entry.name:
        raise _broken(f"{entry.name!r} has no place in a backup")


@contextmanager
def _opened(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> Iterator[io.BufferedReader]:
    source = tar.extractfile(entry)
    assert isinstance(source, io.BufferedReader)
    with source:
        yield source


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o600
    return entry


def _broken(what: str) -> UsageError:
    return UsageError(
        "this is no whole backup", code="backup.broken", value=what, hint="use another one; nothing was restored"
    )


class _Hashing(io.RawIOBase):
    """Reads on, and hashes what goes by."""

    def __init__(self, source: BinaryIO) -> None:
        super().__init__()
        self._source = source
        self.digest = hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        """The next bytes."""
        piece = self._source.read(size)
        self.digest.update(piece)
        return piece
