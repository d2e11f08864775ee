"""Signing in through a provider: the way there, the way back, and whose account it is."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import Connection, delete, insert, select, update

from tunesmith.service.auth.caller import Caller
from tunesmith.service.auth.keys import hash_of
from tunesmith.service.auth.worth import is_named_administrator
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import SIGN_INS, USERS
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.sessions.provider import Person, person_of, way_to_provider
from tunesmith.service.sessions.sessions import NewSession, begin_session
from tunesmith.service.settings import OpenIdSettings, Settings
from tunesmith.service.shared.telling import note_action

_BYTES = 32
SIGN_IN_SECONDS = 600
CALLBACK = "/tunesmith/v1/openid/callback"


@dataclass(frozen=True)
class WayOut:
    """Where a browser is sent, and what it keeps until it comes back."""

    address: str
    state: str


def begin_sign_in(context: Context) -> WayOut:
    """Begin a sign-in.

    Raises:
        ApiError: 404: the service has no provider; 502: it does not answer.
    """
    settings = _settings(context)
    state, nonce, verifier = (secrets.token_urlsafe(_BYTES) for _ in range(3))
    address = way_to_provider(settings, _redirect_uri(context), state=state, nonce=nonce, verifier=verifier)
    row = {"id": hash_of(state), "nonce": nonce, "verifier": verifier}
    with context.database.write() as connection:
        connection.execute(insert(SIGN_INS).values(**row, expires_at=context.now() + SIGN_IN_SECONDS))
    return WayOut(address, state)


def end_sign_in(
    context: Context, *, code: str, state: str, kept: str | None, request_id: str, client: str | None
) -> NewSession:
    """Turn what a browser brought back from the provider into a session.

    Args:
        context: The service.
        code: What the provider gave.
        state: What it was told at the beginning.
        kept: What the browser kept; another browser has not begun this.
        request_id: The request's name.
        client: The address it came from.

    Raises:
        ApiError: 401: this is not the end of a sign-in that began here; 403: they may not come in.
    """
    settings = _settings(context)
    if kept is None or not hmac.compare_digest(kept.encode(), state.encode()):
        raise _not_begun()
    with context.database.write() as connection:
        row = connection.execute(select(SIGN_INS).where(SIGN_INS.c.id == hash_of(state))).first()
        # Once, whatever comes of it.
        connection.execute(delete(SIGN_INS).where(SIGN_INS.c.id == hash_of(state)))
    if row is None or row.expires_at <= context.now():
        raise _not_begun()
    person = person_of(
        settings,
        _redirect_uri(context),
        code=code,
        nonce=row.nonce,
        verifier=row.verifier,
        now=context.now(),
    )
    _require_welcome(context.settings, settings, person)
    with context.database.write() as connection:
        user_id = _account(context, connection, settings, person)
        who = Caller("inference", False, "", person.email, None, user_id, request_id, client)
        note_action(context, connection, who, "session.create", target=user_id)
        return begin_session(context, connection, user_id=user_id)


def _require_welcome(service: Settings, settings: OpenIdSettings, person: Person) -> None:
    believed = person.is_verified is True or (person.is_verified is None and not settings.require_verified_email)
    if not person.email or not believed:
        raise ApiError(403, "The provider does not say that your address is verified", code="email_not_verified")
    domain = person.email.rpartition("@")[2]
    allowed = {one.lower() for one in settings.allowed_domains}
    if allowed and domain not in allowed and not is_named_administrator(service, person.email):
        raise ApiError(403, f"People of {domain} do not sign in here", code="domain_not_allowed")


def _account(context: Context, connection: Connection, settings: OpenIdSettings, person: Person) -> str:
    """The row of a person: theirs, one that waits for their address, or a new one."""
    subject = hash_of(f"{settings.issuer} {person.subject}")
    row = connection.execute(select(USERS).where(USERS.c.subject == subject)).first()
    if row is None:
        row = connection.execute(select(USERS).where(USERS.c.email == person.email)).first()
        if row is not None and row.subject is not None:
            raise ApiError(403, "This address belongs to another account", code="email_taken")
    if row is not None and row.disabled_at is not None:
        raise ApiError(403, "Your account is closed", code="account_closed")
    if row is None:
        name = new_id("user_")
        values = {"email": person.email, "name": person.name[:255], "subject": subject, "is_admin": False}
        connection.execute(insert(USERS).values(id=name, created_at=context.now(), **values))
        return name
    connection.execute(update(USERS).where(USERS.c.id == row.id).values(subject=subject))
    return str(row.id)


def _settings(context: Context) -> OpenIdSettings:
    if context.settings.openid is None:
        raise not_found("way to sign in", "openid")
    return context.settings.openid


def _redirect_uri(context: Context) -> str:
    """From the settings and never from the request, which may name any host."""
    settings = context.settings
    return f"{(settings.public_url or f'http://{settings.host}:{settings.port}').rstrip('/')}{CALLBACK}"


def _not_begun() -> ApiError:
    return ApiError(401, "This sign-in did not begin in this browser, or it took too long", code="openid_state")
