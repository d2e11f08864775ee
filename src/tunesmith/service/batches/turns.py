"""Whose turn it is among batches: as of jobs, by priority, then by fairness over projects, then by age.

A batch that is long gives its turn to projects that have fewer under way, and comes back later. Its answers lie on the
machine that worked for it; the lock that it leaves behind names that machine, which may take it again at any time,
and keeps others away for a while, since those would have to begin it anew.
"""

from __future__ import annotations

import hashlib
import socket
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Subquery, and_, case, func, or_, select

from tunesmith.service.batches.schema import ENDED
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.inference import BATCHES

# For so long a batch that gave its turn away waits for the machine that has its answers.
AWAY_SECONDS = 600.0
_AWAY = "away-"
_MARK_DIGITS = 32


def mark_of(context: Context) -> str:
    """The lock of batches that gave their turn away on this machine."""
    place = f"{socket.gethostname()} {context.settings.data_folder.absolute()}"
    return _AWAY + hashlib.sha256(place.encode()).hexdigest()[:_MARK_DIGITS]


def is_free(context: Context, now: float) -> ColumnElement[bool]:
    """Whether this machine may take a batch."""
    ended = or_(BATCHES.c.lock_expires_at.is_(None), BATCHES.c.lock_expires_at < now)
    return or_(ended, BATCHES.c.lock_token == mark_of(context))


def find_next(context: Context, connection: Connection, now: float) -> str | None:
    """The batch whose turn it is; None where none waits.

    Those that are to end go first, then priority, then the project with the fewest under way, then the one that has
    waited longest since its last turn. Of one project what was begun goes first, then the oldest.
    """
    shares = _shares(now)
    query = (
        select(BATCHES.c.id)
        .join(PROJECTS, PROJECTS.c.id == BATCHES.c.project_id)
        .join(shares, shares.c.project_id == BATCHES.c.project_id)
        .where(BATCHES.c.state.not_in(ENDED), is_free(context, now))
        .order_by(
            case((BATCHES.c.state == "cancelling", 0), else_=1),
            PROJECTS.c.priority.desc(),
            shares.c.under_way,
            func.coalesce(shares.c.last_turn, 0),
            case((BATCHES.c.model.is_(None), 1), else_=0),
            BATCHES.c.id,
        )
        .limit(1)
    )
    found: str | None = connection.execute(query).scalar()
    return found


def should_give_turn(context: Context, row: Row[Any]) -> bool:
    """Whether another project's batch waits that would go before this one, which is under way."""
    now = context.now()
    shares, own = _shares(now), _shares(now)
    mine = (
        select(PROJECTS.c.priority, own.c.under_way)
        .join(own, own.c.project_id == PROJECTS.c.id)
        .where(PROJECTS.c.id == row.project_id)
        .subquery()
    )
    fewer = and_(PROJECTS.c.priority == mine.c.priority, shares.c.under_way < mine.c.under_way)
    query = (
        select(BATCHES.c.id)
        .join(PROJECTS, PROJECTS.c.id == BATCHES.c.project_id)
        .join(shares, shares.c.project_id == BATCHES.c.project_id)
        .join(mine, or_(PROJECTS.c.priority > mine.c.priority, fewer))
        .where(BATCHES.c.state.not_in(ENDED), is_free(context, now), BATCHES.c.project_id != row.project_id)
        .limit(1)
    )
    with context.database.read() as connection:
        return connection.execute(query).first() is not None


def _shares(now: float) -> Subquery:
    """Of each project with open batches: how many are under way, and the lock of the last one that is not."""
    token = BATCHES.c.lock_token
    is_held = and_(token.is_not(None), ~token.startswith(_AWAY), BATCHES.c.lock_expires_at >= now)
    return (
        select(
            BATCHES.c.project_id,
            func.sum(case((is_held, 1), else_=0)).label("under_way"),
            func.max(case((is_held, None), else_=BATCHES.c.lock_expires_at)).label("last_turn"),
        )
        .where(BATCHES.c.state.not_in(ENDED))
        .group_by(BATCHES.c.project_id)
        .subquery()
    )
