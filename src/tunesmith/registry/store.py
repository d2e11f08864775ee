"""Where a registry lies: a folder, or an object store that fsspec knows (s3, az, memory).

Both forms keep three promises: a file is there whole or not at all, :meth:`Store.create` succeeds for one of several
that try at once, and what was written is seen by whoever reads after it.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from tunesmith.errors import NetworkError, TunesmithError, UsageError
from tunesmith.runs.atomic import SCRATCH_MARK, sync_folder, telling_output_errors, write_bytes

_SCHEMES = {"s3": "storage", "az": "storage", "abfs": "storage", "abfss": "storage", "memory": None, "file": None}
_PIECE_BYTES = 2**20


@dataclass(frozen=True)
class Found:
    """A file of a store: its path, and when it was last written (UTC), where the store says so."""

    path: str
    size_bytes: int
    written: datetime | None


class Store(Protocol):
    """Files by relative paths with slashes; missing ones are FileNotFoundError."""

    @property
    def url(self) -> str:
        """How the store is called."""

    @property
    def local(self) -> Path | None:
        """The folder of a store on this machine."""

    def read(self, path: str) -> bytes:
        """A small file."""

    def write(self, path: str, content: bytes) -> None:
        """Write a small file over whatever is there."""

    def create(self, path: str, content: bytes) -> bool:
        """Write a small file if there is none; False where there is one, whoever came first."""

    def exists(self, path: str) -> bool:
        """Whether the file is there."""

    def names(self, folder: str) -> list[str]:
        """Names of files and folders directly below; none where there is no such folder."""

    def walk(self, folder: str) -> Iterator[Found]:
        """All files below."""

    def put(self, source: Path, path: str) -> None:
        """Copy a file of any size into the store."""

    def get(self, path: str, target: Path) -> None:
        """Copy a file of any size out of the store."""

    def remove(self, path: str) -> None:
        """Remove a file, if it is there."""


def default_registry() -> str:
    """TUNESMITH_REGISTRY, or ``registry`` under TUNESMITH_HOME or in the current folder."""
    chosen, home = os.environ.get("TUNESMITH_REGISTRY"), os.environ.get("TUNESMITH_HOME")
    return chosen or (str(Path(home).expanduser() / "registry") if home else "registry")


def open_store(url: str | None = None) -> Store:
    """The store at an address, or the default one; nothing is looked at yet.

    Raises:
        UsageError: ``registry.url``: no store of that kind, or a secret in the address; ``usage.missing_extra``: its
            library is not installed.
    """
    url = url or default_registry()
    parts = urlsplit(url)
    if "://" not in url:
        return LocalStore(Path(url).expanduser().absolute())
    if parts.scheme not in _SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in _SCHEMES)
        raise UsageError("no such kind of storage", code="registry.url", value=f"{parts.scheme}://", hint=known)
    if parts.password or parts.username or parts.query:
        # It would reach logs and records.
        raise UsageError(
            "the address of a registry must not hold credentials",
            code="registry.url",
            place=f"{parts.scheme}://",
            hint="s3 reads AWS_ACCESS_KEY_ID and its siblings, az reads AZURE_STORAGE_CONNECTION_STRING",
        )
    if parts.scheme == "file":
        return LocalStore(Path(url.removeprefix("file://")).absolute())
    return ObjectStore(url.rstrip("/"), _file_system(parts.scheme))


def _file_system(scheme: str) -> Any:
    import fsspec

    try:
        # Listings must show what others have just written.
        return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=scheme != "memory")
    except ImportError as error:
        raise UsageError(
            f"{scheme}:// needs a library that is not installed",
            code="usage.missing_extra",
            value=str(error),
            hint=f"pip install 'tunesmith[{_SCHEMES[scheme]}]'",
        ) from error
    except Exception as error:
        raise _no_answer(f"{scheme}://", error) from error


@dataclass(frozen=True)
class LocalStore:
    """A folder of this machine, or one that several machines mount."""

    folder: Path

    @property
    def url(self) -> str:
        """The folder's path."""
        return str(self.folder)

    @property
    def local(self) -> Path | None:
        """The folder itself."""
        return self.folder

    def read(self, path: str) -> bytes:
        """See :class:`Store`."""
        return (self.folder / path).read_bytes()

    def write(self, path: str, content: bytes) -> None:
        """See :class:`Store`."""
        target = self._place(path)
        write_bytes(target, content)

    def create(self, path: str, content: bytes) -> bool:
        """See :class:`Store`; a hard link is made for one of several, with the content behind it already."""
        target = self._place(path)
        scratch = _scratch(target)
        with telling_output_errors(target):
            try:
                write_bytes(scratch, content)
                os.link(scratch, target)
            except FileExistsError:
                return False
            finally:
                scratch.unlink(missing_ok=True)
            sync_folder(target.parent)
        return True

    def exists(self, path: str) -> bool:
        """See :class:`Store`."""
        return (self.folder / path).is_file()

    def names(self, folder: str) -> list[str]:
        """See :class:`Store`."""
        place = self.folder / folder
        return sorted(one.name for one in place.iterdir() if not one.name.startswith(".")) if place.is_dir() else []

    def walk(self, folder: str) -> Iterator[Found]:
        """See :class:`Store`; leftovers of killed writers are among them."""
        for path in sorted((self.folder / folder).rglob("*")):
            try:
                state = path.stat()
            except FileNotFoundError:
                continue
            if path.is_file():
                written = datetime.fromtimestamp(state.st_mtime, UTC)
                yield Found(path.relative_to(self.folder).as_posix(), state.st_size, written)

    def put(self, source: Path, path: str) -> None:
        """See :class:`Store`."""
        target = self._place(path)
        scratch = _scratch(target)
        with telling_output_errors(target):
            try:
                with source.open("rb") as reader, scratch.open("wb") as writer:
                    shutil.copyfileobj(reader, writer, _PIECE_BYTES)
                    writer.flush()
                    os.fsync(writer.fileno())
                # Copies of it may be hard links.
                scratch.chmod(0o444)
                scratch.replace(target)
            finally:
                scratch.unlink(missing_ok=True)
            sync_folder(target.parent)

    def get(self, path: str, target: Path) -> None:
        """See :class:`Store`; a hard link where both lie on one disk."""
        source = self.folder / path
        if not source.is_file():
            raise FileNotFoundError(errno.ENOENT, "no such file in the registry", str(source))
        with telling_output_errors(target):
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)

    def remove(self, path: str) -> None:
        """See :class:`Store`; an empty folder stays, since somebody may be about to write there."""
        with telling_output_errors(self.folder / path):
            (self.folder / path).unlink(missing_ok=True)

    def _place(self, path: str) -> Path:
        target = self.folder / path
        with telling_output_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        return target


@dataclass(frozen=True)
class ObjectStore:
    """A bucket or container below a prefix; single objects are written whole by the store itself."""

    url: str
    files: Any

    @property
    def local(self) -> Path | None:
        """None: it is elsewhere."""
        return None

    def read(self, path: str) -> bytes:
        """See :class:`Store`."""
        with self._telling(path):
            return bytes(self.files.cat_file(self._full(path)))

    def write(self, path: str, content: bytes) -> None:
        """See :class:`Store`."""
        with self._telling(path):
            self.files.pipe_file(self._full(path), content)

    def create(self, path: str, content: bytes) -> bool:
        """See :class:`Store`; by the store's own conditional write."""
        with self._telling(path):
            try:
                self.files.pipe_file(self._full(path), content, mode="create")
            except FileExistsError:
                return False
        return True

    def exists(self, path: str) -> bool:
        """See :class:`Store`."""
        with self._telling(path):
            return bool(self.files.isfile(self._full(path)))

    def names(self, folder: str) -> list[str]:
        """See :class:`Store`."""
        with self._telling(folder):
            try:
                entries = self.files.ls(self._full(folder), detail=False)
            except FileNotFoundError:
                return []
            prefix = self._bare(folder)
            return sorted({_below(one, prefix).split("/")[0] for one in entries} - {""})

    def walk(self, folder: str) -> Iterator[Found]:
        """See :class:`Store`."""
        with self._telling(folder):
            found = self.files.find(self._full(folder), detail=True)
        for path, entry in sorted(found.items()):
            written = next((entry[key] for key in ("LastModified", "last_modified", "created") if entry.get(key)), None)
            yield Found(_below(path, self._bare("")), int(entry.get("size") or 0), written)

    def put(self, source: Path, path: str) -> None:
        """See :class:`Store`."""
        with self._telling(path):
            self.files.put_file(str(source), self._full(path))

    def get(self, path: str, target: Path) -> None:
        """See :class:`Store`."""
        with self._telling(path):
            self.files.get_file(self._full(path), str(target))

    def remove(self, path: str) -> None:
        """See :class:`Store`."""
        with self._telling(path):
            try:
                self.files.rm_file(self._full(path))
            except FileNotFoundError:
                return

    def _full(self, path: str) -> str:
        return f"{self.url}/{path}" if path else self.url

    def _bare(self, path: str) -> str:
        return str(self.files._strip_protocol(self._full(path))).strip("/")

    @contextmanager
    def _telling(self, path: str) -> Iterator[None]:
        """Turn the errors of the store's library into ours."""
        try:
            yield
        except (TunesmithError, FileNotFoundError, FileExistsError):
            raise
        except Exception as error:
            raise _no_answer(self._full(path), error) from error


def _below(path: str, prefix: str) -> str:
    return path.strip("/").removeprefix(prefix).strip("/")


def _scratch(target: Path) -> Path:
    return target.with_name(f".{target.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")


def _no_answer(place: str, error: Exception) -> NetworkError:
    return NetworkError(
        "the registry's storage did not do what was asked",
        code="network.storage",
        place=place,
        value=f"{type(error).__name__}: {str(error).strip()[:200]}",
        hint="check the address, the credentials in the environment and the network, then try again",
    )
