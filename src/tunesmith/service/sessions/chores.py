"""What is swept up beside requests."""

from __future__ import annotations

from tunesmith.service.auth.rates import forget_old
from tunesmith.service.context import Context
from tunesmith.service.sessions.sessions import forget_ended
from tunesmith.service.shared.chores import Chore


def _forget_rates(context: Context) -> None:
    forget_old(context.database, context.now())


CHORES: tuple[Chore, ...] = (
    Chore("ended sessions", 600.0, forget_ended),
    Chore("old minutes", 60.0, _forget_rates),
)
