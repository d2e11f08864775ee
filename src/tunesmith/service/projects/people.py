"""People who sign in, and what they are in which project."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from tunesmith.service.auth.caller import SCOPES, Caller
from tunesmith.service.auth.worth import SCOPE_OF_ROLE, is_named_administrator
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import API_KEYS, MEMBERS, SESSIONS, USERS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.projects.projects import find_project
from tunesmith.service.shared.telling import note_action


def create_user(context: Context, caller: Caller, values: Mapping[str, Any]) -> Row[Any]:
    """Make a person who may sign in, by the address that the provider will say.

    Raises:
        ApiError: 409: there is one of that address.
    """
    name = new_id("user_")
    given = {**values, "email": values["email"].lower()}
    with context.database.write() as connection:
        if connection.execute(select(USERS.c.id).where(USERS.c.email == given["email"])).first() is not None:
            raise ApiError(409, f"There is a user {given['email']} already", code="email_taken", param="email")
        connection.execute(insert(USERS).values(id=name, created_at=context.now(), **given))
        note_action(context, connection, caller, "user.create", target=name, detail=given)
        return _find_user(connection, name)


def change_user(context: Context, caller: Caller, user_id: str, values: Mapping[str, Any]) -> Row[Any]:
    """Change a person; one who is disabled is signed out everywhere, and their keys are good for nothing.

    The keys of somebody who is an administrator no more are good for nothing either, but for those of projects in
    which they are worth as much as the key.

    Raises:
        ApiError: 404; 409: nobody closes their own account, and whom the settings name stays an administrator.
    """
    changed = {name: value for name, value in values.items() if name != "disabled" and value is not None}
    disabled = values.get("disabled")
    if disabled is not None:
        changed["disabled_at"] = context.now() if disabled else None
    with context.database.write() as connection:
        found = _find_user(connection, user_id)
        if values.get("is_admin") is False and is_named_administrator(context.settings, found.email):
            raise ApiError(
                409,
                f"{found.email} is in openid.admin_emails of the settings; take them out there",
                code="named_by_settings",
                param="is_admin",
            )
        if disabled and user_id == caller.user_id:
            raise ApiError(409, "You cannot close your own account", code="own_account")
        if changed:
            connection.execute(update(USERS).where(USERS.c.id == user_id).values(**changed))
        if disabled:
            connection.execute(delete(SESSIONS).where(SESSIONS.c.user_id == user_id))
        note_action(context, connection, caller, "user.update", target=user_id, detail=dict(values))
        return _find_user(connection, user_id)


def members_of(connection: Connection, caller: Caller, project_id: str) -> list[Row[Any]]:
    """Everybody in a project.

    Raises:
        ApiError: 404: there is no such project, or it is not the caller's.
    """
    find_project(connection, caller, project_id)
    return list(connection.execute(_members(project_id).order_by(MEMBERS.c.created_at, MEMBERS.c.user_id)))


def add_member(context: Context, caller: Caller, project_id: str, who: Mapping[str, str], role: str) -> Row[Any]:
    """Put somebody into a project.

    Args:
        context: The service.
        caller: Who asks.
        project_id: The project.
        who: ``user_id`` or ``email``.
        role: What they are to be.

    Raises:
        ApiError: 404: there is no such person or project; 409: they are in it.
    """
    with context.database.write() as connection:
        find_project(connection, caller, project_id)
        user_id = _named_user(connection, who)
        found = _members(project_id).where(MEMBERS.c.user_id == user_id)
        if connection.execute(found).first() is not None:
            raise ApiError(409, "They are in the project already", code="member_exists")
        row = {"project_id": project_id, "user_id": user_id, "role": role, "created_at": context.now()}
        connection.execute(insert(MEMBERS).values(**row))
        _note(context, connection, caller, "member.add", row)
        return connection.execute(found).one()


def change_member(context: Context, caller: Caller, project_id: str, user_id: str, role: str) -> Row[Any]:
    """Make somebody another thing in a project; their keys that may more than that are revoked.

    Raises:
        ApiError: 404: they are not in it.
    """
    with context.database.write() as connection:
        find_project(connection, caller, project_id)
        which = (MEMBERS.c.project_id == project_id) & (MEMBERS.c.user_id == user_id)
        if connection.execute(update(MEMBERS).where(which).values(role=role)).rowcount == 0:
            raise not_found("member", user_id, "user_id")
        beyond = SCOPES[SCOPES.index(SCOPE_OF_ROLE[role]) + 1 :]
        _revoke(context, connection, project_id, user_id, beyond)
        _note(
            context, connection, caller, "member.update", {"user_id": user_id, "role": role, "project_id": project_id}
        )
        return connection.execute(_members(project_id).where(MEMBERS.c.user_id == user_id)).one()


def remove_member(context: Context, caller: Caller, project_id: str, user_id: str) -> None:
    """Take somebody out of a project; their keys of it are revoked.

    Raises:
        ApiError: 404: they are not in it.
    """
    with context.database.write() as connection:
        find_project(connection, caller, project_id)
        which = (MEMBERS.c.project_id == project_id) & (MEMBERS.c.user_id == user_id)
        if connection.execute(delete(MEMBERS).where(which)).rowcount == 0:
            raise not_found("member", user_id, "user_id")
        _revoke(context, connection, project_id, user_id, SCOPES)
        _note(context, connection, caller, "member.remove", {"user_id": user_id, "project_id": project_id})


def _members(project_id: str) -> Any:
    return (
        select(MEMBERS, USERS.c.email, USERS.c.name)
        .join(USERS, USERS.c.id == MEMBERS.c.user_id)
        .where(MEMBERS.c.project_id == project_id)
    )


def _find_user(connection: Connection, user_id: str) -> Row[Any]:
    row = connection.execute(select(USERS).where(USERS.c.id == user_id)).first()
    if row is None:
        raise not_found("user", user_id, "user_id")
    return row


def _named_user(connection: Connection, who: Mapping[str, str]) -> str:
    if len(who) != 1:
        raise ApiError(400, "Name one person, by user_id or by email", code="invalid_value", param="user_id")
    ((param, value),) = who.items()
    column = USERS.c.id if param == "user_id" else USERS.c.email
    found = select(USERS.c.id).where(column == (value if param == "user_id" else value.lower()))
    user_id: str | None = connection.execute(found.where(USERS.c.disabled_at.is_(None))).scalar_one_or_none()
    if user_id is None:
        raise not_found("user", value, param)
    return user_id


def _revoke(context: Context, connection: Connection, project_id: str, user_id: str, scopes: tuple[str, ...]) -> None:
    theirs = update(API_KEYS).where(
        API_KEYS.c.project_id == project_id,
        API_KEYS.c.user_id == user_id,
        API_KEYS.c.scope.in_(scopes),
        API_KEYS.c.revoked_at.is_(None),
    )
    connection.execute(theirs.values(revoked_at=context.now()))


def _note(context: Context, connection: Connection, caller: Caller, action: str, detail: Mapping[str, Any]) -> None:
    note_action(
        context,
        connection,
        caller,
        action,
        target=detail["user_id"],
        detail=detail,
        project_id=detail["project_id"],
    )
