"""The gate: from a request's key or session to its caller, or a refusal.

Every route that is not open to everybody depends on ``Inference``, ``Member``, ``Admin`` or ``Operator``.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy import ColumnElement, Connection, Row, select, update

from tunesmith.service.auth.caller import Caller, Scope
from tunesmith.service.auth.keys import hash_of
from tunesmith.service.auth.pace import count_failure, pace_requests, require_few_failures
from tunesmith.service.auth.signing import signed
from tunesmith.service.auth.worth import SCOPE_OF_ROLE, has_good_maker, is_administrator
from tunesmith.service.context import Context, context_of
from tunesmith.service.db.tables.accounts import API_KEYS, MEMBERS, PROJECTS, SESSIONS, USERS
from tunesmith.service.errors import ApiError

COOKIE = "tunesmith_session"
CSRF_HEADER = "x-csrf-token"
DEFAULT_PROJECT = "default"
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# That a key was used is written down so often at most.
_USED_SECONDS = 60.0


def find_caller(request: Request) -> Caller:
    """The caller of a request.

    Raises:
        ApiError: 401: no key, or none that is good; 403: the project is not theirs; 429: too many requests.
    """
    known: Caller | None = getattr(request.state, "caller", None)
    if known is not None:
        return known
    context = context_of(request)
    secret = _secret(request)
    if secret is not None:
        caller = _by_key(context, request, secret)
    elif COOKIE in request.cookies:
        caller = _by_session(context, request, request.cookies[COOKIE])
    else:
        raise _unknown("You didn't provide an API key: send it as `Authorization: Bearer ts-...`")
    pace_requests(context, request, caller)
    request.state.caller = caller
    return caller


def needs(scope: Scope) -> Callable[[Request], Caller]:
    """A dependency that lets in whoever has this scope."""

    def gate(request: Request) -> Caller:
        caller = find_caller(request)
        if not caller.may(scope):
            raise ApiError(
                403,
                f"This needs the scope {scope}; this key has {caller.scope}",
                code="insufficient_permissions",
            )
        return caller

    return gate


def needs_operator(request: Request) -> Caller:
    """A dependency that lets in who runs the service."""
    caller = find_caller(request)
    if not caller.is_operator:
        raise ApiError(403, "This needs an administrator of the service", code="insufficient_permissions")
    return caller


Inference = Annotated[Caller, Depends(needs("inference"))]
Member = Annotated[Caller, Depends(needs("member"))]
Admin = Annotated[Caller, Depends(needs("admin"))]
Operator = Annotated[Caller, Depends(needs_operator)]


def _secret(request: Request) -> str | None:
    kind, _, secret = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and secret:
        return secret.strip()
    # As Azure's clients send it.
    return request.headers.get("api-key") or None


def _by_key(context: Context, request: Request, secret: str) -> Caller:
    now = context.now()
    row = find_key(context, secret, client_of(request))
    with context.database.read() as connection:
        operator = row.project_id is None
        project_id = _project(connection, request, None if operator else row.project_id)
    if row.used_at is None or now - row.used_at > _USED_SECONDS:
        with context.database.write() as connection:
            connection.execute(update(API_KEYS).where(API_KEYS.c.id == row.id).values(used_at=now))
    return Caller(
        row.scope, operator, project_id, f"key {row.id}", row.id, row.user_id, request_id(request), client_of(request)
    )


def find_key(context: Context, secret: str, client: str | None) -> Row[Any]:
    """The row of a key that is good now.

    Whoever sends too many that are not is refused before anybody looks; a key that was good a moment ago still is let
    in from there, since many may share an address.

    Raises:
        ApiError: 401: it is not good; 429: too many from this address were not.
    """
    now, hashed = context.now(), hash_of(secret)
    if not context.rates.was_good(hashed, now):
        require_few_failures(context, client)
    with context.database.read() as connection:
        row = _good_key(connection, context, API_KEYS.c.hash == hashed)
    if row is None:
        count_failure(context, client)
        raise _unknown("Incorrect API key provided")
    context.rates.note_good(hashed, now)
    return row


def find_session(connection: Connection, cookie: str, now: float) -> Row[Any] | None:
    """The session of a cookie; None where it has ended or was never begun here."""
    secret = signed(connection, cookie)
    if secret is None:
        return None
    found = select(SESSIONS).where(SESSIONS.c.hash == hash_of(secret), SESSIONS.c.expires_at > now)
    return connection.execute(found).first()


def _good_key(connection: Connection, context: Context, which: ColumnElement[bool]) -> Row[Any] | None:
    row = connection.execute(select(API_KEYS).where(which)).first()
    if row is None or row.revoked_at is not None or (row.expires_at is not None and row.expires_at <= context.now()):
        return None
    return row if has_good_maker(context.settings, connection, row) else None


def _by_session(context: Context, request: Request, cookie: str) -> Caller:
    with context.database.read() as connection:
        row = find_session(connection, cookie, context.now())
        if row is None:
            raise _unknown("Your session has ended; sign in again")
        given = request.headers.get(CSRF_HEADER, "")
        if request.method not in _SAFE_METHODS and not hmac.compare_digest(given.encode(), row.csrf.encode()):
            raise ApiError(403, "The request does not come from this service's own pages", code="csrf")
        if row.key_id is not None:
            return _of_key_session(connection, context, request, row.key_id)
        return _of_user(connection, context, request, row.user_id)


def _of_key_session(connection: Connection, context: Context, request: Request, key_id: str) -> Caller:
    """Somebody who signed in with a key; the session is worth as much as the key is now."""
    row = _good_key(connection, context, API_KEYS.c.id == key_id)
    if row is None:
        raise _unknown("The key of this session is no longer good")
    operator = row.project_id is None
    project_id = _project(connection, request, None if operator else row.project_id)
    where = (request_id(request), client_of(request))
    return Caller(row.scope, operator, project_id, f"key {row.id}", row.id, row.user_id, *where)


def _of_user(connection: Connection, context: Context, request: Request, user_id: str) -> Caller:
    user = connection.execute(select(USERS).where(USERS.c.id == user_id)).first()
    if user is None or user.disabled_at is not None:
        raise _unknown("Your account is closed")
    where = (request_id(request), client_of(request))
    if is_administrator(context.settings, user):
        project_id = _project(connection, request, None)
        return Caller("admin", True, project_id, user.email, None, user.id, *where)
    roles = _roles(connection, user_id)
    if not roles:
        raise ApiError(403, "You are in no project yet; an administrator can add you", code="no_project")
    wanted = _named_project(request)
    project_id = _project(connection, request, next(iter(roles)) if wanted is None else None)
    if project_id not in roles:
        raise ApiError(403, "You are not in this project", code="not_in_project")
    return Caller(SCOPE_OF_ROLE[roles[project_id]], False, project_id, user.email, None, user.id, *where)


def _roles(connection: Connection, user_id: str) -> dict[str, str]:
    found = (
        select(MEMBERS.c.project_id, MEMBERS.c.role)
        .join(PROJECTS, PROJECTS.c.id == MEMBERS.c.project_id)
        .where(MEMBERS.c.user_id == user_id, PROJECTS.c.archived_at.is_(None))
        .order_by(MEMBERS.c.created_at)
    )
    return {row.project_id: row.role for row in connection.execute(found)}


def _project(connection: Connection, request: Request, own: str | None) -> str:
    """The project that is meant: the key's own, the one that a header names, or the first one."""
    wanted = _named_project(request)
    if own is not None:
        if wanted not in (None, own) and _find_project(connection, str(wanted)) != own:
            raise ApiError(403, "This key belongs to another project", code="not_in_project")
        name = own
    else:
        name = wanted or DEFAULT_PROJECT
    found = _find_project(connection, name)
    if found is None:
        raise ApiError(403, f"There is no project {name}", code="no_project")
    return found


def _named_project(request: Request) -> str | None:
    return request.headers.get("openai-project") or request.query_params.get("project") or None


def _find_project(connection: Connection, name: str) -> str | None:
    """A project by its id or its name."""
    query = select(PROJECTS.c.id, PROJECTS.c.archived_at).where((PROJECTS.c.id == name) | (PROJECTS.c.name == name))
    row = connection.execute(query).first()
    return None if row is None or row.archived_at is not None else str(row.id)


def request_id(request: Request) -> str:
    """The name of a request, as its answer's ``x-request-id`` says it."""
    return str(getattr(request.state, "request_id", ""))


def client_of(request: Request) -> str | None:
    """The address that a request came from."""
    return None if request.client is None else request.client.host


def _unknown(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
