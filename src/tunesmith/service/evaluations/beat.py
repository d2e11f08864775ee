"""While a model is measured: the lock is renewed, progress is written, and a cancellation is heard of."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

from sqlalchemy import Row

from tunesmith.errors import ResourceError
from tunesmith.runs.events import Event
from tunesmith.service.context import Context
from tunesmith.service.evaluations.states import renew
from tunesmith.service.shared.working import LostError, Renewal

# Whatever takes longer has the place of all others.
MOST_SECONDS = 12 * 3600.0


class StoppedError(Exception):
    """This process ends; the evaluation goes on with another one."""


class Beat:
    """Holds an evaluation while the ``with`` block lasts, and knows whether it goes on.

    Args:
        context: The service.
        row: The evaluation, whose lock is held.
        stop: Set when the process shall end.
    """

    def __init__(self, context: Context, row: Row[Any], stop: threading.Event) -> None:
        self._context = context
        self._row = row
        self._stop = stop
        self._renewal = Renewal(f"evaluation {row.id}", self._renew)
        self._begun = time.monotonic()
        self._progress: dict[str, Any] = {"stage": "preparing", "done": None, "total": None, "unit": None}

    def __enter__(self) -> Beat:
        self._renewal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.__exit__(kind, error, trace)

    def note(self, event: Event) -> None:
        """What the worker has told: where it is."""
        if event.type == "status":
            stage = str(event.data.get("state"))
            self._progress = {"stage": stage, "done": None, "total": None, "unit": None}
        elif event.type == "progress":
            self._progress = {**self._progress, **{name: event.data.get(name) for name in ("done", "total", "unit")}}
        self.require_going_on()

    def require_going_on(self) -> None:
        """Raise where the evaluation does not go on here.

        Raises:
            LostError: It was cancelled, or somebody else has it.
            StoppedError: The process ends.
            ResourceError: ``evaluation.too_long``.
        """
        if self._stop.is_set():
            raise StoppedError
        if self._renewal.is_lost():
            raise LostError(self._row.id)
        if time.monotonic() - self._begun > MOST_SECONDS:
            raise ResourceError(
                f"the evaluation took longer than {MOST_SECONDS / 3600:.0f} hours",
                code="evaluation.too_long",
                hint="measure on fewer rows",
            )

    def _renew(self) -> None:
        renew(self._context, self._row, self._progress)
