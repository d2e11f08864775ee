"""Rows that one process at a time works for: taken in turn by threads, and held by a lock that is renewed meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

LOCK_SECONDS = 60.0
_BEAT_SECONDS = 2.0
_LOOK_SECONDS = 1.0
_log = logging.getLogger(__name__)


class LostError(Exception):
    """Somebody else works for the row now, or it has ended."""


def work_in_turn(
    called: str,
    at_once: int,
    take: Callable[[], Row[Any] | None],
    work: Callable[[Row[Any]], None],
    stop: threading.Event,
) -> None:
    """Take rows and work for them until told to stop, with so many threads; without any, only wait for that.

    Args:
        called: What the rows are, for the log.
        at_once: How many are worked for at the same time.
        take: Takes the next row; None where there is none.
        work: Brings a row as far as it goes; whatever it raises, but for faults of the database, ends its thread.
        stop: Set when the process shall end.
    """

    def run() -> None:
        while not stop.is_set():
            try:
                row = take()
                if row is not None:
                    work(row)
                    continue
            except DBAPIError as error:
                _log.error("%s: the database failed: %s", called, type(error.orig).__name__)
            stop.wait(_LOOK_SECONDS)

    threads = [threading.Thread(target=run, name=f"{called} {at}") for at in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.wait()


class Renewal:
    """A thread that renews a lock while the ``with`` block lasts.

    Args:
        called: What the lock is of, for the log.
        renew: Keeps the lock for ``LOCK_SECONDS`` more; raises ``LostError`` where somebody else has it.
    """

    def __init__(self, called: str, renew: Callable[[], None]) -> None:
        self._called = called
        self._renew = renew
        self._over = threading.Event()
        self._renewed = time.monotonic()
        self._is_lost = False
        self._thread = threading.Thread(target=self._run, name=f"beat of {called}", daemon=True)

    def __enter__(self) -> Renewal:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def is_lost(self) -> bool:
        """Whether somebody else may have the row by now, as also when the database was away for long."""
        return self._is_lost or time.monotonic() - self._renewed > LOCK_SECONDS - 2 * _BEAT_SECONDS

    def _run(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            try:
                self._renew()
                self._renewed = time.monotonic()
            except LostError:
                self._is_lost = True
                return
            except DBAPIError as error:
                _log.warning("%s: %s", self._called, type(error.orig).__name__)
