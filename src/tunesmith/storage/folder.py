"""A folder of this machine, or one that several machines mount."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tunesmith.runs.atomic import SCRATCH_MARK, sync_folder, telling_output_errors, write_bytes
from tunesmith.storage.store import Found

_PIECE_BYTES = 2**20


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
            raise FileNotFoundError(errno.ENOENT, "no such file in the store", str(source))
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


def _scratch(target: Path) -> Path:
    return target.with_name(f".{target.name}{SCRATCH_MARK}{uuid.uuid4().hex[:8]}")
