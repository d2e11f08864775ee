"""Who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scope = Literal["inference", "member", "admin"]
# Each may what those before it may.
SCOPES: tuple[Scope, ...] = ("inference", "member", "admin")


@dataclass(frozen=True)
class Caller:
    """Somebody whose key or session was found good, and the project for which they ask.

    Attributes:
        scope: What they may in the project: ask its models; also train and deploy; also manage people and keys.
        is_operator: Whether they run the service: all projects are theirs.
        project_id: Every row that the request reads or writes is this project's.
        name: Who it is, for the audit log.
        key_id: The key; None for a browser.
        user_id: The person, where one is known.
        request_id: The request, as its answer names it.
        client: The address it came from.
    """

    scope: Scope
    is_operator: bool
    project_id: str
    name: str
    key_id: str | None
    user_id: str | None
    request_id: str
    client: str | None

    def may(self, scope: Scope) -> bool:
        """Whether this scope is enough."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)
