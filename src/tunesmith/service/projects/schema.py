"""Projects, people and keys as requests and answers have them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import Row

from tunesmith.service.auth.caller import Scope
from tunesmith.service.auth.worth import is_administrator
from tunesmith.service.settings import Settings

Role = Literal["owner", "member", "inference"]


_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9._-])?")
_EMAIL = re.compile(r"[^@\s\x00-\x1f]{1,64}@[A-Za-z0-9.-]{1,190}")


def _project_name(name: str) -> str:
    if not _PROJECT.fullmatch(name):
        raise ValueError(
            "a name has 1 to 64 letters of a to z, digits, spaces, '.', '_' and '-'; it begins with a letter or digit "
            "and does not end with a space"
        )
    if name.startswith("proj_"):
        raise ValueError("a name does not begin like an id")
    return name


def _email(text: str) -> str:
    if not _EMAIL.fullmatch(text):
        raise ValueError("an address looks like somebody@example.com")
    return text


# A project is found by its id or its name.
ProjectName = Annotated[
    str, AfterValidator(_project_name), Field(json_schema_extra={"pattern": f"^{_PROJECT.pattern}$"})
]
Name = Annotated[str, Field(min_length=1, max_length=200)]
Email = Annotated[str, AfterValidator(_email), Field(json_schema_extra={"pattern": f"^{_EMAIL.pattern}$"})]
_MOST = 2**31 - 1
Count = Annotated[int, Field(ge=0, le=_MOST)]
Bytes = Annotated[int, Field(ge=0, le=2**62)]


class Quotas(BaseModel):
    """What a project may use; null is the service's own limit, or none.

    ``budget`` is money a month, ``allowed_models`` names of bases.
    """

    model_config = ConfigDict(extra="forbid")
    allowed_models: Annotated[list[str], Field(max_length=1000)] | None = None
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    jobs_at_once: Count | None = None
    storage_bytes: Bytes | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    budget: Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)] | None = None
    budget_action: Literal["stop", "pause"] = "stop"
    retention_days: Annotated[int, Field(ge=1, le=36_500)] | None = None


class NewProject(Quotas):
    """A project to make."""

    name: ProjectName


class ProjectChange(Quotas):
    """What is to change of a project; what is not named stays."""

    name: ProjectName | None = None


class NewMember(BaseModel):
    """Somebody who is to be in a project, by id or by address."""

    model_config = ConfigDict(extra="forbid")
    user_id: str | None = None
    email: Email | None = None
    role: Role = "member"


class MemberChange(BaseModel):
    """What somebody is to be in a project."""

    model_config = ConfigDict(extra="forbid")
    role: Role


class NewUser(BaseModel):
    """Somebody who may sign in."""

    model_config = ConfigDict(extra="forbid")
    email: Email
    name: Name
    is_admin: bool = False


class UserChange(BaseModel):
    """What is to change of somebody; what is not named stays."""

    model_config = ConfigDict(extra="forbid")
    name: Name | None = None
    is_admin: bool | None = None
    disabled: bool | None = None


class NewKey(BaseModel):
    """A key to make. ``operator``: for the whole service and no project."""

    model_config = ConfigDict(extra="forbid")
    name: Name
    scope: Scope = "member"
    expires_seconds: Annotated[int, Field(ge=1, le=10 * 366 * 86_400)] | None = None
    operator: bool = False


QUOTAS = tuple(Quotas.model_fields)


def project_answer(row: Row[Any]) -> dict[str, Any]:
    """A project."""
    return {
        "id": row.id,
        "object": "project",
        "name": row.name,
        "created_at": int(row.created_at),
        "archived_at": _moment(row.archived_at),
        "status": "active" if row.archived_at is None else "archived",
        **{name: getattr(row, name) for name in QUOTAS},
    }


def quotas_answer(row: Row[Any], use: Mapping[str, Any]) -> dict[str, Any]:
    """What a project may use, and what of it is used now."""
    limits = {name: getattr(row, name) for name in QUOTAS}
    return {"object": "project.quotas", "project_id": row.id, "limits": limits, "use": dict(use)}


def user_answer(settings: Settings, row: Row[Any]) -> dict[str, Any]:
    """Somebody who may sign in; ``is_admin`` also of whom the settings name."""
    return {
        "id": row.id,
        "object": "user",
        "email": row.email,
        "name": row.name,
        "is_admin": is_administrator(settings, row),
        "created_at": int(row.created_at),
        "disabled_at": _moment(row.disabled_at),
    }


def member_answer(row: Row[Any]) -> dict[str, Any]:
    """Somebody in a project."""
    return {
        "id": row.user_id,
        "object": "project.member",
        "project_id": row.project_id,
        "email": row.email,
        "name": row.name,
        "role": row.role,
        "added_at": int(row.created_at),
    }


def key_answer(row: Row[Any], secret: str | None = None) -> dict[str, Any]:
    """A key; its secret only when it has just been made."""
    shown = {
        "id": row.id,
        "object": "api_key",
        "project_id": row.project_id,
        "user_id": row.user_id,
        "name": row.name,
        "redacted_value": row.shown,
        "scope": row.scope,
        "created_by": row.created_by,
        "created_at": int(row.created_at),
        "expires_at": _moment(row.expires_at),
        "revoked_at": _moment(row.revoked_at),
        "last_used_at": _moment(row.used_at),
    }
    return shown if secret is None else {**shown, "value": secret}


def _moment(value: float | None) -> int | None:
    return None if value is None else int(value)
