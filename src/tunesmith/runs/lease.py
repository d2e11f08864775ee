"""lease.json: two workers never write one run.

On one machine a lock of the operating system on the file decides, and it ends with the process that holds it, however
that process ended. The file's content says who holds it; a worker on another machine that shares the folder goes by
the expiry time, which the holder renews from a thread.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO

import orjson

from tunesmith.errors import RunError
from tunesmith.runs.atomic import telling_output_errors

LEASE_SECONDS = 60.0


class Lease:
    """Holds a run for this process while the ``with`` block lasts."""

    def __init__(self, path: Path, lease_seconds: float = LEASE_SECONDS) -> None:
        self._path = path
        self._lease_seconds = lease_seconds
        self._file: IO[bytes] | None = None
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        with telling_output_errors(self._path):
            file = self._path.open("a+b")
        holder = _read(file)
        if not lock(file) or _held_elsewhere(holder):
            file.close()
            raise RunError(
                "another worker owns this run",
                code="run.leased",
                place=str(self._path.parent),
                value=f"process {holder.get('pid')} on {holder.get('host')}",
                hint="wait until it ends, or stop it first",
            )
        self._file = file
        self._write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._file is not None:
            self._file.truncate(0)
            self._file.close()

    def _renew(self) -> None:
        while not self._done.wait(self._lease_seconds / 3):
            self._write()

    def _write(self) -> None:
        assert self._file is not None
        content = {"host": socket.gethostname(), "pid": os.getpid(), "until": time.time() + self._lease_seconds}
        self._file.truncate(0)
        self._file.write(orjson.dumps(content))
        self._file.flush()


def is_held(path: Path) -> bool:
    """True while a living worker owns the run."""
    if not path.exists():
        return False
    with path.open("r+b") as file:
        return _held_elsewhere(_read(file)) or not lock(file)


def _read(file: IO[bytes]) -> dict[str, object]:
    file.seek(0)
    try:
        content = orjson.loads(file.read())
    except orjson.JSONDecodeError:
        return {}
    return content if isinstance(content, dict) else {}


def _held_elsewhere(holder: dict[str, object]) -> bool:
    """A worker of another machine holds the lease; on this machine the lock alone decides."""
    until = holder.get("until")
    return holder.get("host") != socket.gethostname() and isinstance(until, float) and until > time.time()


def lock(file: IO[bytes]) -> bool:
    """Lock an open file for this process until the file is closed; False where another process has done so."""
    if os.name != "posix":
        return _lock_windows(file)
    import fcntl

    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_windows(file: IO[bytes]) -> bool:
    import msvcrt

    # The byte far behind the content is locked, so that others can still read who holds the lease.
    file.seek(1 << 30)
    try:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
    except OSError:
        return False
    return True
