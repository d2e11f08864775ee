"""What is done again and again for deployments."""

from __future__ import annotations

from tunesmith.service.deployments.references import reconcile
from tunesmith.service.shared.chores import Chore

CHORES: tuple[Chore, ...] = (Chore("references of deployments", 600.0, reconcile),)
