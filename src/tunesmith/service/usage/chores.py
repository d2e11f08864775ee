"""What is counted and told beside requests."""

from __future__ import annotations

from tunesmith.service.shared.chores import Chore
from tunesmith.service.usage.usage import count_storage, tell_of_budgets

CHORES: tuple[Chore, ...] = (
    Chore("budgets", 15.0, tell_of_budgets),
    Chore("stored bytes", 600.0, count_storage),
)
