"""What deployments wish of engines: which always stay, and how long others stay unused."""

from __future__ import annotations

import logging
import time

from sqlalchemy import select

from tunesmith.errors import TunesmithError
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.inference import DEPLOYMENTS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.engines import place_of
from tunesmith.service.shared.naming import Named, offered

_log = logging.getLogger(__name__)
_LOOK_SECONDS = 2.0


class Wishes:
    """The wishes of all deployments, looked at now and then.

    Args:
        context: The service.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._looked: float | None = None
        self._wanted: tuple[str, ...] = ()
        self._idle: dict[str, float] = {}

    def wanted(self) -> tuple[str, ...]:
        """Bases that stay though nobody asks, those first whose deployments are oldest."""
        if self._looked is None or time.monotonic() - self._looked > _LOOK_SECONDS:
            self._look()
        return self._wanted

    def idle_seconds(self, base: str) -> float:
        """How long an engine stays unused."""
        return self._idle.get(base, self._context.settings.engine_idle_seconds)

    def _look(self) -> None:
        # Nobody can ask those of an archived project; they are wished for again once it is opened.
        query = (
            select(DEPLOYMENTS)
            .join(PROJECTS, PROJECTS.c.id == DEPLOYMENTS.c.project_id)
            .where(PROJECTS.c.archived_at.is_(None))
            .order_by(DEPLOYMENTS.c.id)
        )
        with self._context.database.read() as connection:
            deployments = connection.execute(query).all()
            names = {name for row in deployments for name in row.traffic}
            tuned = {
                row.id: Named("tuned", row.id, row.base, row.address, row.project_id)
                for row in connection.execute(select(TUNED_MODELS).where(TUNED_MODELS.c.id.in_(names)))
            }
        wanted: dict[str, None] = {}
        idle: dict[str, float] = {}
        usual = self._context.settings.engine_idle_seconds
        for row in deployments:
            for base in self._bases(row.traffic, tuned):
                seconds = usual if row.idle_seconds is None else row.idle_seconds
                idle[base] = max(idle.get(base, 0.0), seconds)
                if row.least_replicas:
                    wanted[base] = None
        self._wanted, self._idle = tuple(wanted), idle
        self._looked = time.monotonic()

    def _bases(self, traffic: dict[str, int], tuned: dict[str, Named]) -> list[str]:
        found = []
        offers = offered(self._context)
        for name in traffic:
            named = Named("base", name, name) if name in offers else tuned.get(name)
            if named is None or named.base not in offers:
                continue
            try:
                found.append(place_of(self._context, named).base)
            except (ApiError, TunesmithError) as error:
                # Its deployment says so to who asks; this is looked at every moment.
                _log.debug("deployed model %s: %s", name, error)
        return found
