"""Sessions: begun with a key or a person, worth what those are worth at each request, and ended."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.gate import find_session
from tunesmith.service.auth.keys import hash_of
from tunesmith.service.auth.signing import sign
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import MEMBERS, PROJECTS, SESSIONS, SIGN_INS
from tunesmith.service.ids import new_id

_BYTES = 32
_HOUR_SECONDS = 3600
_MOST_PROJECTS = 1000


@dataclass(frozen=True)
class NewSession:
    """A session that was just begun; ``cookie`` is nowhere else."""

    cookie: str
    csrf: str
    expires_at: float


def begin_session(
    context: Context, connection: Connection, *, key_id: str | None = None, user_id: str | None = None
) -> NewSession:
    """Begin a session of a key, or of a person."""
    secret, csrf, now = secrets.token_urlsafe(_BYTES), secrets.token_urlsafe(_BYTES), context.now()
    expires_at = now + context.settings.session_hours * _HOUR_SECONDS
    connection.execute(
        insert(SESSIONS).values(
            id=new_id("sess_"),
            hash=hash_of(secret),
            user_id=user_id,
            key_id=key_id,
            csrf=csrf,
            created_at=now,
            expires_at=expires_at,
        )
    )
    return NewSession(sign(connection, secret), csrf, expires_at)


def session_of(context: Context, connection: Connection, cookie: str | None) -> Row[Any] | None:
    """The session of a browser's cookie, if it has one that is good."""
    return None if cookie is None else find_session(connection, cookie, context.now())


def end_session(context: Context, cookie: str) -> None:
    """End a session; nothing happens where it has ended."""
    with context.database.write() as connection:
        row = find_session(connection, cookie, context.now())
        if row is not None:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.id == row.id))


def projects_to_choose(connection: Connection, caller: Caller) -> list[Row[Any]]:
    """Projects that somebody may name in ``OpenAI-Project``."""
    query = select(PROJECTS.c.id, PROJECTS.c.name).where(PROJECTS.c.archived_at.is_(None))
    if not caller.is_operator and caller.key_id is None:
        mine = select(MEMBERS.c.project_id).where(MEMBERS.c.user_id == caller.user_id)
        query = query.where(PROJECTS.c.id.in_(mine))
    elif not caller.is_operator:
        query = query.where(PROJECTS.c.id == caller.project_id)
    return list(connection.execute(query.order_by(PROJECTS.c.name).limit(_MOST_PROJECTS)))


def forget_ended(context: Context) -> None:
    """Remove sessions that have ended, and ways to the provider that nobody came back from."""
    now = context.now()
    with context.database.write() as connection:
        connection.execute(delete(SESSIONS).where(SESSIONS.c.expires_at <= now))
        connection.execute(delete(SIGN_INS).where(SIGN_INS.c.expires_at <= now))
