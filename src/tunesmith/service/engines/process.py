"""One engine: its folder, its process, and what has become of it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import TunesmithError
from tunesmith.executors.environment import compute_environment
from tunesmith.jobs.inference_process import READY_FILE, serving_command, write_service
from tunesmith.runs.atomic import read_json
from tunesmith.service.context import Context
from tunesmith.service.engines.loading import service_of

_PREFIX = "engine-"
_LOG = "stderr.txt"
_TAIL_LINES = 20
# Loading took longer than anything that is worth waiting for.
_LOADING_SECONDS = 1800.0
# Answers that are under way are finished; what takes longer is cut off.
_LEAVING_SECONDS = 75.0


class EngineProcess:
    """An engine of this host.

    Args:
        context: The service.
        row_id: Its row.
        base: What it is to load.
        fetching: Threads in which models are fetched.
    """

    def __init__(self, context: Context, row_id: str, base: str, fetching: Executor) -> None:
        self.row_id = row_id
        self.base = base
        self.token = secrets.token_urlsafe(32)
        self._ready_at: float | None = None
        self._context = context
        self._began = time.monotonic()
        self._leaves_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=context.scratch))
        self._fetched: Future[None] = fetching.submit(self._fetch)

    @property
    def is_ready(self) -> bool:
        """Whether others know where it listens."""
        return self._ready_at is not None

    def note_ready(self) -> None:
        """Others know from now on."""
        self._ready_at = time.monotonic()

    def ready_seconds(self) -> float:
        """For how long they do."""
        return 0.0 if self._ready_at is None else time.monotonic() - self._ready_at

    def _fetch(self) -> None:
        write_service(self._folder, service_of(self._context, self.base, self.token))

    def address(self) -> str | None:
        """Where it listens, once it has given its first answer; starts the process when the model is here.

        Raises:
            TunesmithError: The model cannot be fetched.
        """
        if self._process is None:
            if not self._fetched.done():
                return None
            self._fetched.result()
            self._process = self._start()
        ready: dict[str, Any] | None = _read(self._folder / READY_FILE)
        if ready is None:
            return None
        host = self._context.settings.engine_address
        return f"http://[{host}]:{ready['port']}" if ":" in host else f"http://{host}:{ready['port']}"

    def why_ended(self) -> str | None:
        """Why there is no engine and will not be one; None while there may be."""
        if self._fetched.done() and (error := self._fetched.exception()) is not None:
            return "\n".join(error.lines()) if isinstance(error, TunesmithError) else f"{type(error).__name__}: {error}"
        if self._process is not None and (code := self._process.poll()) is not None:
            return f"the process ended with code {code}: {self._tail()}"
        if not self.is_ready and time.monotonic() - self._began > _LOADING_SECONDS:
            return f"it was not loaded after {_LOADING_SECONDS:g} s"
        return None

    def leave(self) -> None:
        """Take no more requests, finish what is under way, end."""
        self._leaves_at = time.monotonic() + _LEAVING_SECONDS
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def has_left(self) -> bool:
        """Whether it is gone; one that takes too long is ended, and its files are removed."""
        if self._process is None:
            if not self._fetched.done() and not self._fetched.cancel():
                return False
        elif self._process.poll() is None:
            if self._leaves_at is None or time.monotonic() < self._leaves_at:
                return False
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)
        return True

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [*serving_command(self._folder), "--host", self._context.settings.engine_address]
        with (self._folder / _LOG).open("wb") as errors:
            return subprocess.Popen(
                [*command, "--parent-pid", str(os.getpid())],
                env=compute_environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # What interrupts the host lets it end its engines in order.
                start_new_session=True,
            )

    def _tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
            return "\n".join(lines[-_TAIL_LINES:]) or "it printed nothing"
        return "its log cannot be read"


def remove_leftovers(context: Context) -> None:
    """Remove folders of engines whose host was killed; the engines have ended by themselves."""
    for folder in context.scratch.glob(f"{_PREFIX}*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if not owner.isdigit() or not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _read(path: Path) -> dict[str, Any] | None:
    """The ready file; it appears by renaming, so that it is there whole or not at all."""
    try:
        found: dict[str, Any] = read_json(path)
    except FileNotFoundError:
        return None
    return found
