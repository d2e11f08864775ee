"""The keeper: starts the processes of a service, starts again what dies, and ends all when it is to end.

Programs are ended in the order in which they are listed: first what takes requests, then what works them off. What
they have started in sessions of their own, such as trainings, goes on.
"""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 0.2
_FIRST_WAIT_SECONDS = 0.5
_MOST_WAIT_SECONDS = 30.0
# Who has lived so long is well; the next fault is a new one.
_WELL_SECONDS = 60.0
_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Program:
    """What is kept alive.

    Attributes:
        name: What it is called; its last words are in ``NAME.stderr`` of the logs.
        command: The command line, without secrets.
        end_seconds: How long it may take to end by itself.
        descriptors: Open files that it gets.
    """

    name: str
    command: tuple[str, ...]
    end_seconds: float
    descriptors: tuple[int, ...] = ()


class Keeper:
    """Keeps programs alive until it is told to stop.

    Args:
        programs: In the order in which they are ended.
        logs: The folder for what they say on stderr; None lets it through.
    """

    def __init__(self, programs: Sequence[Program], logs: Path | None) -> None:
        self._kept = [_Kept(program, logs) for program in programs]

    def start(self) -> None:
        """Start all of them."""
        for kept in self._kept:
            kept.start()

    def run(self, stop: threading.Event, now: threading.Event) -> None:
        """Start again what ends, until ``stop``; then end all. ``now`` does not wait for answers under way."""
        while not stop.wait(_LOOK_SECONDS):
            self.look()
        self.end(now)

    def look(self) -> None:
        """Start again what has ended and has waited long enough."""
        for kept in self._kept:
            kept.look()

    def end(self, now: threading.Event) -> None:
        """End all, one after another."""
        for kept in self._kept:
            kept.end(now)

    def pids(self) -> dict[str, int]:
        """The processes that live, by name."""
        return {kept.program.name: kept.pid for kept in self._kept if kept.pid is not None}

    def faults(self) -> dict[str, str]:
        """The last words of those that have ended by themselves and do not live now."""
        return {kept.program.name: kept.last_words() for kept in self._kept if kept.pid is None}


class _Kept:
    def __init__(self, program: Program, logs: Path | None) -> None:
        self.program = program
        self._logs = logs
        self._process: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._wait_seconds = _FIRST_WAIT_SECONDS
        self._again_at: float | None = None

    @property
    def pid(self) -> int | None:
        if self._process is None or self._process.poll() is not None:
            return None
        return self._process.pid

    def start(self) -> None:
        errors: IO[bytes] | None = None
        if self._logs is not None:
            errors = self._words.open("ab")
        try:
            self._process = subprocess.Popen(
                self.program.command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=self.program.descriptors,
                # Ctrl-C reaches it through the keeper, in its turn.
                start_new_session=True,
            )
        finally:
            if errors is not None:
                errors.close()
        self._started, self._again_at = time.monotonic(), None

    def look(self) -> None:
        if self.pid is not None:
            return
        now = time.monotonic()
        if self._again_at is None:
            assert self._process is not None
            if now - self._started > _WELL_SECONDS:
                self._wait_seconds = _FIRST_WAIT_SECONDS
            self._again_at = now + self._wait_seconds
            told = (self.program.name, self._process.returncode, self._wait_seconds)
            _log.error("%s ended with code %s; it is started again in %g s", *told)
            self._wait_seconds = min(2 * self._wait_seconds, _MOST_WAIT_SECONDS)
        elif now >= self._again_at:
            self.start()

    def end(self, now: threading.Event) -> None:
        if self._process is None or self.pid is None:
            return
        self._process.terminate()
        deadline = time.monotonic() + self.program.end_seconds
        while self._process.poll() is None:
            if now.is_set() or time.monotonic() > deadline:
                _log.warning("%s did not end by itself and is killed", self.program.name)
                self._process.kill()
                self._process.wait()
                return
            time.sleep(_LOOK_SECONDS / 4)

    def last_words(self) -> str:
        if self._logs is None or not self._words.exists():
            return ""
        with self._words.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            return file.read().decode("utf-8", "replace").strip()

    @property
    def _words(self) -> Path:
        assert self._logs is not None
        return self._logs / f"{self.program.name}.stderr"
