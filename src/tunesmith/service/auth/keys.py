"""API keys: a secret that is shown once, and what is kept of it.

A key has 256 bits of chance, so that its plain SHA-256 says nothing of it; slow hashes are for passwords.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass

PREFIX = "ts-"
_BYTES = 32
_SHOWN_LETTERS = 4


@dataclass(frozen=True)
class NewKey:
    """A key that was just made; ``secret`` is nowhere else."""

    secret: str
    hash: str
    shown: str


def make_key() -> NewKey:
    """A new key."""
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    return NewKey(secret, hash_of(secret), f"{PREFIX}...{secret[-_SHOWN_LETTERS:]}")


def hash_of(secret: str) -> str:
    """What is kept of a key, or of a session's cookie."""
    return hashlib.sha256(secret.encode()).hexdigest()
