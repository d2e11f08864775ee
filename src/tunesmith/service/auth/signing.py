"""Signatures of what a browser keeps for the service: nobody else makes such a thing, whatever they guess.

The secret is made at the first start and is in the database, so that every process of a service has the same.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets

from sqlalchemy import Connection, select

from tunesmith.service.db.database import Database
from tunesmith.service.db.tables.accounts import SECRETS

_NAME = "cookies"
_BYTES = 32


def make_signing_secret(database: Database, connection: Connection) -> None:
    """Make the secret, where there is none yet."""
    database.upsert(connection, SECRETS, {"name": _NAME, "value": secrets.token_hex(_BYTES)}, ["name"])


def sign(connection: Connection, value: str) -> str:
    """A value with its signature."""
    return f"{value}.{_signature(connection, value)}"


def signed(connection: Connection, given: str) -> str | None:
    """The value of what :func:`sign` made; None where somebody else made it."""
    value, _, signature = given.rpartition(".")
    return value if hmac.compare_digest(signature.encode(), _signature(connection, value).encode()) else None


def _signature(connection: Connection, value: str) -> str:
    secret = connection.execute(select(SECRETS.c.value).where(SECRETS.c.name == _NAME)).scalar_one()
    return hmac.new(bytes.fromhex(secret), value.encode(), hashlib.sha256).hexdigest()
