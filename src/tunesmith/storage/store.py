"""What every place of storage does.

All keep three promises: a file is there whole or not at all, :meth:`Store.create` succeeds for one of several that try
at once, and what was written is seen by whoever reads after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol


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
