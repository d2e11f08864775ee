"""What is done again and again beside jobs, of all rooms."""

from __future__ import annotations

from tunesmith.service.deployments.chores import CHORES as OF_DEPLOYMENTS
from tunesmith.service.dispatcher.budgets import CHORES as OF_BUDGETS
from tunesmith.service.evaluations.chores import CHORES as OF_EVALUATIONS
from tunesmith.service.files.chores import CHORES as OF_FILES
from tunesmith.service.fine_tuning.chores import CHORES as OF_JOBS
from tunesmith.service.registry.chores import CHORES as OF_REGISTRY
from tunesmith.service.sessions.chores import CHORES as OF_SESSIONS
from tunesmith.service.shared.chores import Chore
from tunesmith.service.uploads.chores import CHORES as OF_UPLOADS
from tunesmith.service.usage.chores import CHORES as OF_USAGE
from tunesmith.service.webhooks.chores import CHORES as OF_WEBHOOKS

CHORES: tuple[Chore, ...] = (
    *OF_JOBS,
    *OF_EVALUATIONS,
    *OF_BUDGETS,
    *OF_FILES,
    *OF_UPLOADS,
    *OF_USAGE,
    *OF_WEBHOOKS,
    *OF_SESSIONS,
    *OF_DEPLOYMENTS,
    *OF_REGISTRY,
)
