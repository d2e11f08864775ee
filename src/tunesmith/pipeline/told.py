"""What stages tell while they work: states, progress now and then, and each warning once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from tunesmith.runs.events import EventWriter

_EVERY_SECONDS = 0.5


class Teller:
    """Writes a stage's events; progress that comes too often is thinned out."""

    def __init__(self, events: EventWriter, now: Callable[[], float] = time.monotonic) -> None:
        self.events = events
        self.warnings: list[str] = []
        self._now = now
        self._last = float("-inf")

    def state(self, state: str, detail: str | None = None, **data: Any) -> None:
        """The run entered a state."""
        self._last = float("-inf")
        if detail is not None:
            data["detail"] = detail
        self.events.emit("status", None, state=state, **data)

    def progress(self, what: str, done: int, total: int | None, unit: str, detail: str = "") -> None:
        """So much of some work is done; the end is always told."""
        if done == total or self._now() - self._last >= _EVERY_SECONDS:
            self._last = self._now()
            self.events.emit("progress", what=what, done=done, total=total, unit=unit, detail=detail)

    def warn(self, messages: Iterable[str], code: str = "run.warning") -> None:
        """Warnings, each once."""
        for message in messages:
            if message not in self.warnings:
                self.warnings.append(message)
                self.events.emit("warning", code=code, message=message)
