"""A service's first moments: the default project, and the first administrator's key, which is shown once."""

from __future__ import annotations

from sqlalchemy import insert, select

from tunesmith.service.auth.gate import DEFAULT_PROJECT
from tunesmith.service.auth.keys import make_key
from tunesmith.service.auth.signing import make_signing_secret
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import API_KEYS, PROJECTS
from tunesmith.service.ids import new_id


def prepare(context: Context) -> str | None:
    """Make what a new service needs.

    Returns:
        The first administrator's key, once: when the service is started for the first time. None later.
    """
    now = context.now()
    with context.database.write() as connection:
        make_signing_secret(context.database, connection)
        project = {
            "id": new_id("proj_"),
            "name": DEFAULT_PROJECT,
            "created_at": now,
            "priority": 0,
            "budget_action": "stop",
        }
        context.database.upsert(connection, PROJECTS, project, ["name"])
        if connection.execute(select(API_KEYS.c.id).where(API_KEYS.c.project_id.is_(None)).limit(1)).first():
            return None
        key = make_key()
        connection.execute(
            insert(API_KEYS).values(
                id=new_id("key_"),
                name="first administrator",
                hash=key.hash,
                shown=key.shown,
                scope="admin",
                created_at=now,
            )
        )
    return key.secret
