"""An object store that fsspec knows: s3, Azure blob, memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import NetworkError, TunesmithError
from tunesmith.storage.store import Found


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
            raise no_answer(self._full(path), error) from error


def _below(path: str, prefix: str) -> str:
    return path.strip("/").removeprefix(prefix).strip("/")


def no_answer(place: str, error: Exception) -> NetworkError:
    """What is told when a store failed, whatever its library said."""
    return NetworkError(
        "the storage did not do what was asked",
        code="network.storage",
        place=place,
        value=f"{type(error).__name__}: {str(error).strip()[:200]}",
        hint="check the address, the credentials in the environment and the network, then try again",
    )
