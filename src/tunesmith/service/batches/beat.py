"""While a batch is worked for: its lock is renewed, its counts are written, and its cancellation is heard of."""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import Row
from sqlalchemy.exc import DBAPIError

from tunesmith.service.batches.states import LOCK_SECONDS, LostError, renew
from tunesmith.service.context import Context
from tunesmith.service.shared.engines import touch

_log = logging.getLogger(__name__)
_BEAT_SECONDS = 2.0
Why = Literal["lost", "cancelling", "expired", "ending"]


class Beat:
    """A thread that renews the lock of a batch while the ``with`` block lasts.

    Args:
        context: The service.
        row: The batch, whose lock is held.
        stop: Set when the process shall end.
    """

    def __init__(self, context: Context, row: Row[Any], stop: threading.Event) -> None:
        self._context = context
        self._row = row
        self._stop = stop
        self._over = threading.Event()
        self._why: Why | None = None
        self._renewed = time.monotonic()
        self._thread = threading.Thread(target=self._run, name=f"beat of {row.id}", daemon=True)
        self._counts: dict[str, int] = {}
        self._engine: str | None = None

    def __enter__(self) -> Beat:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def tell(self, completed: int, failed: int, engine: str) -> None:
        """How far the batch is, and by which engine: that is kept awake."""
        self._counts = {"completed": completed, "failed": failed}
        self._engine = engine

    def why_stop(self) -> Why | None:
        """Why the batch does not go on; None while it does."""
        if self._why is None and self._stop.is_set():
            return "ending"
        if self._why is None and self._context.now() > self._row.expires_at:
            return "expired"
        # The database was away for longer than the lock lasts: somebody else may have it by now.
        if self._why is None and time.monotonic() - self._renewed > LOCK_SECONDS - 2 * _BEAT_SECONDS:
            return "lost"
        return self._why

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the process."""
        self._stop.wait(seconds)

    def _run(self) -> None:
        while not self._over.wait(_BEAT_SECONDS):
            try:
                state = renew(self._context, self._row, **self._counts)
                self._renewed = time.monotonic()
                if self._engine is not None:
                    touch(self._context, self._engine)
            except LostError:
                self._why = "lost"
                return
            except DBAPIError as error:
                _log.warning("batch %s: %s", self._row.id, type(error.orig).__name__)
                continue
            if state == "cancelling":
                self._why = "cancelling"
