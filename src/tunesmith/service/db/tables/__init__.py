"""All tables of a service, one module a subject. Times are seconds since 1970, UTC; money is in its currency."""

from __future__ import annotations

from tunesmith.service.db.tables import accounts, evaluations, files, inference, jobs, keeping, models, usage
from tunesmith.service.db.tables.columns import METADATA

__all__ = ["METADATA", "accounts", "evaluations", "files", "inference", "jobs", "keeping", "models", "usage"]
