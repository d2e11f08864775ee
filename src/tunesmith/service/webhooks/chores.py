"""What is sent and swept up beside requests."""

from __future__ import annotations

from tunesmith.service.context import Context
from tunesmith.service.shared.chores import Chore
from tunesmith.service.webhooks.delivery import deliver_due
from tunesmith.service.webhooks.webhooks import forget_delivered


def _deliver(context: Context) -> None:
    deliver_due(context)


CHORES: tuple[Chore, ...] = (
    Chore("webhooks", 2.0, _deliver),
    Chore("old deliveries", 3600.0, forget_delivered),
)
