"""Keys: shown once, worth at most what whoever made them is worth, and revoked for good."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, Select, insert, or_, select, update

from tunesmith.service.auth.caller import Caller, Scope
from tunesmith.service.auth.keys import make_key
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import API_KEYS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.telling import note_action


def keys_of(caller: Caller, *, of_operators: bool = False) -> Select[Any]:
    """The keys that a caller may see and revoke: an administrator all of the project, others their own.

    Args:
        caller: Who asks.
        of_operators: Those that belong to no project, which only operators see.
    """
    query = select(API_KEYS)
    if of_operators:
        _require_operator(caller)
        return query.where(API_KEYS.c.project_id.is_(None))
    query = query.where(API_KEYS.c.project_id == caller.project_id)
    if caller.may("admin"):
        return query
    own = [API_KEYS.c.id == caller.key_id, API_KEYS.c.created_by == caller.name]
    if caller.user_id is not None:
        own.append(API_KEYS.c.user_id == caller.user_id)
    return query.where(or_(*own))


def create_key(
    context: Context, caller: Caller, name: str, scope: Scope, *, expires_seconds: int | None, operator: bool
) -> tuple[Row[Any], str]:
    """Make a key of the caller's project.

    Args:
        context: The service.
        caller: Who asks; the key is worth no more than they are, and does not outlive the key that they use.
        name: What it is for.
        scope: What it may.
        expires_seconds: How long it is good; None for as long as nobody revokes it.
        operator: It is for the whole service, and belongs to no project.

    Returns:
        The key's row, and its secret, which is nowhere else.

    Raises:
        ApiError: 403: the caller is not worth as much.
    """
    if operator:
        _require_operator(caller)
    if not caller.may(scope):
        raise ApiError(
            403, f"A key of at most your own scope, {caller.scope}", code="insufficient_permissions", param="scope"
        )
    now, key, row_id = context.now(), make_key(), new_id("key_")
    with context.database.write() as connection:
        end = _end_of(connection, caller)
        wanted = None if expires_seconds is None else now + expires_seconds
        row = {
            "id": row_id,
            "project_id": None if operator else caller.project_id,
            "user_id": caller.user_id,
            "name": name,
            "hash": key.hash,
            "shown": key.shown,
            # An operator's key has every scope.
            "scope": "admin" if operator else scope,
            "created_by": caller.name,
            "created_at": now,
            "expires_at": min((one for one in (wanted, end) if one is not None), default=None),
        }
        connection.execute(insert(API_KEYS).values(**row))
        detail = {"name": name, "scope": row["scope"], "operator": operator, "expires_at": row["expires_at"]}
        note_action(context, connection, caller, "api_key.create", target=row_id, detail=detail)
        return _find(connection, select(API_KEYS), row_id), key.secret


def revoke_key(context: Context, caller: Caller, key_id: str) -> Row[Any]:
    """Make a key good for nothing, and end the sessions that were begun with it.

    Raises:
        ApiError: 404: there is none that the caller may revoke.
    """
    with context.database.write() as connection:
        query = select(API_KEYS) if caller.is_operator else keys_of(caller)
        row = _find(connection, query, key_id)
        if row.revoked_at is None:
            connection.execute(update(API_KEYS).where(API_KEYS.c.id == key_id).values(revoked_at=context.now()))
            note_action(context, connection, caller, "api_key.revoke", target=key_id, project_id=row.project_id)
        return _find(connection, select(API_KEYS), key_id)


def _find(connection: Connection, query: Select[Any], key_id: str) -> Row[Any]:
    row = connection.execute(query.where(API_KEYS.c.id == key_id)).first()
    if row is None:
        raise not_found("API key", key_id, "key_id")
    return row


def _end_of(connection: Connection, caller: Caller) -> float | None:
    if caller.key_id is None:
        return None
    end: float | None = connection.execute(
        select(API_KEYS.c.expires_at).where(API_KEYS.c.id == caller.key_id)
    ).scalar_one()
    return end


def _require_operator(caller: Caller) -> None:
    if not caller.is_operator:
        raise ApiError(403, "This needs an administrator of the service", code="insufficient_permissions")
