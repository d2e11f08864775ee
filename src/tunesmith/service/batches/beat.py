"""While a batch is worked for: its lock is renewed, its counts are written, and its cancellation is heard of."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any, Literal

from sqlalchemy import Row

from tunesmith.service.batches.states import renew
from tunesmith.service.batches.turns import should_give_turn
from tunesmith.service.context import Context
from tunesmith.service.shared.engines import touch
from tunesmith.service.shared.working import Renewal

Why = Literal["lost", "cancelling", "expired", "ending"]
# A turn is so long where others wait, counted from its first answer: loading a model is nobody's turn.
TURN_SECONDS = 60.0


class Beat:
    """Holds a batch while the ``with`` block lasts, and knows whether it goes on.

    Args:
        context: The service.
        row: The batch, whose lock is held.
        stop: Set when the process shall end.
    """

    def __init__(self, context: Context, row: Row[Any], stop: threading.Event) -> None:
        self._context = context
        self._row = row
        self._stop = stop
        self._renewal = Renewal(f"batch {row.id}", self._renew)
        self._is_cancelling = False
        self._counts: dict[str, int] = {}
        self._engine: str | None = None
        self._turn_began: float | None = None
        self._is_turn_over = False

    def __enter__(self) -> Beat:
        self._renewal.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._renewal.__exit__(kind, error, trace)

    def tell(self, completed: int, failed: int, engine: str) -> None:
        """How far the batch is, and by which engine: that is kept awake."""
        self._counts = {"completed": completed, "failed": failed}
        self._engine = engine
        if self._turn_began is None:
            self._turn_began = time.monotonic()

    def is_turn_over(self) -> bool:
        """Whether the batch has had its turn and others wait: no more is asked, and what is under way is waited for."""
        return self._is_turn_over

    def why_stop(self) -> Why | None:
        """Why the batch does not go on; None while it does."""
        if self._is_cancelling:
            return "cancelling"
        if self._stop.is_set():
            return "ending"
        if self._context.now() > self._row.expires_at:
            return "expired"
        return "lost" if self._renewal.is_lost() else None

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond the end of the process."""
        self._stop.wait(seconds)

    def _renew(self) -> None:
        self._is_cancelling |= renew(self._context, self._row, **self._counts) == "cancelling"
        if self._engine is not None:
            touch(self._context, self._engine)
        if self._turn_began is not None and time.monotonic() - self._turn_began > TURN_SECONDS:
            self._is_turn_over = self._is_turn_over or should_give_turn(self._context, self._row)
