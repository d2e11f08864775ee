"""What a person is worth now, and with them the keys that are theirs.

Administrators come about in two ways, and each is taken back where it was given: the settings name addresses
(``openid.admin_emails``), and administrators make others by the API. Neither is copied into the other, so whoever is
named no more is none any more.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, and_, select

from tunesmith.service.auth.caller import SCOPES, Scope
from tunesmith.service.db.tables.accounts import MEMBERS, USERS
from tunesmith.service.settings import Settings

SCOPE_OF_ROLE: dict[str, Scope] = {"owner": "admin", "member": "member", "inference": "inference"}


def is_named_administrator(settings: Settings, email: str) -> bool:
    """Whether the settings make an address an administrator's."""
    named = () if settings.openid is None else settings.openid.admin_emails
    return email.lower() in {one.lower() for one in named}


def is_administrator(settings: Settings, user: Row[Any]) -> bool:
    """Whether somebody runs the service, by the settings or by the API; ``user`` is a row of people."""
    return bool(user.is_admin) or is_named_administrator(settings, user.email)


def has_good_maker(settings: Settings, connection: Connection, key: Row[Any]) -> bool:
    """Whether a key's person is still worth as much as the key; what was made for nobody has no person."""
    if key.user_id is None:
        return True
    in_project = and_(MEMBERS.c.user_id == USERS.c.id, MEMBERS.c.project_id == key.project_id)
    theirs = select(USERS, MEMBERS.c.role).join(MEMBERS, in_project, isouter=True).where(USERS.c.id == key.user_id)
    user = connection.execute(theirs).first()
    if user is None or user.disabled_at is not None:
        return False
    if is_administrator(settings, user):
        return True
    if key.project_id is None or user.role is None:
        return False
    return SCOPES.index(key.scope) <= SCOPES.index(SCOPE_OF_ROLE[user.role])
