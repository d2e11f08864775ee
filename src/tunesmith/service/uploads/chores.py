"""What goes by itself: uploads whose hour is over, and their parts."""

from __future__ import annotations

from sqlalchemy import delete, select, update

from tunesmith.service.context import Context
from tunesmith.service.db.tables.files import UPLOADS
from tunesmith.service.shared.chores import Chore
from tunesmith.service.uploads.service import remove_places, take_parts

_FORGOTTEN_SECONDS = 30 * 86_400.0


def expire_uploads(context: Context) -> None:
    """Close uploads whose time is over and remove their parts; forget those that ended long ago."""
    now = context.now()
    with context.database.read() as connection:
        over = select(UPLOADS.c.id).where(UPLOADS.c.status == "pending", UPLOADS.c.expires_at <= now)
        names = list(connection.execute(over).scalars())
    for name in names:
        with context.database.write() as connection:
            pending = update(UPLOADS).where(UPLOADS.c.id == name, UPLOADS.c.status == "pending")
            # Another process may have completed it in its last moment.
            closed = connection.execute(pending.values(status="expired")).rowcount
            places = take_parts(connection, name) if closed else []
        remove_places(context, places)
    with context.database.write() as connection:
        old = UPLOADS.c.created_at <= now - _FORGOTTEN_SECONDS
        connection.execute(delete(UPLOADS).where(UPLOADS.c.status != "pending", old))


CHORES: tuple[Chore, ...] = (Chore("uploads.expire", 300.0, expire_uploads),)
