"""What a request's ``model`` means to a project, and whether the project may use it.

Only three kinds of names mean anything: a base that the service offers, a tuned model of the project, and one that
was shared with it. A path, a hub id or an address of the registry never comes from a request.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from tunesmith.catalog.entries import CatalogEntry, find_entry
from tunesmith.catalog.template import has_chat_template
from tunesmith.errors import TunesmithError, UsageError
from tunesmith.planner.shape import shape_of_config
from tunesmith.runs.atomic import read_json
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import LICENCES, PROJECTS
from tunesmith.service.db.tables.jobs import CHECKPOINT_PERMISSIONS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.errors import ApiError

Use = Literal["infer", "tune"]
_DOING = {"infer": "asked", "tune": "tuned"}
# Whoever uses these models need not agree to anything first.
OPEN_LICENCES = frozenset({"apache-2.0", "mit"})
_PARAM = "model"


@dataclass(frozen=True)
class Offer:
    """A base model that a service offers.

    Attributes:
        name: What requests call it.
        folder: Where it lies, if the operator gave a folder; else the catalog says where it is had.
        entry: What the catalog knows of it; None for a folder.
    """

    name: str
    folder: Path | None
    entry: CatalogEntry | None

    @property
    def licence(self) -> str | None:
        """The licence that a project has to accept before it uses the model; None where it has not."""
        if self.entry is None or self.entry.licence in OPEN_LICENCES:
            return None
        return self.entry.licence

    @property
    def kind(self) -> str | None:
        """``causal`` for a model that writes, ``encoder`` for one that only reads; None where that is not known."""
        if self.entry is not None or self.folder is None:
            return None if self.entry is None else self.entry.kind
        try:
            return shape_of_config(read_json(self.folder / "config.json"), self.name).kind
        except (TunesmithError, OSError, ValueError):
            return None

    @property
    def chat_template(self) -> bool | None:
        """Whether conversations can be learned and asked; None where that is known only once the model is here."""
        if self.entry is not None:
            return self.entry.chat_template
        return None if self.folder is None else has_chat_template(self.folder)


@dataclass(frozen=True)
class Named:
    """A model that a project may use.

    Attributes:
        kind: Whether the service offers it or it was tuned here.
        name: As requests call it.
        base: The name of the base, itself for a base.
        address: The version in the registry; None for a base.
        project_id: Whose it is; None for a base.
    """

    kind: Literal["base", "tuned"]
    name: str
    base: str
    address: str | None = None
    project_id: str | None = None


def offered(context: Context) -> Mapping[str, Offer]:
    """The bases of a service by name, as its settings name them: catalog ids, or ``NAME=FOLDER``.

    Raises:
        UsageError: ``service.model``: a name that is neither.
    """
    found = {}
    for given in context.settings.models:
        name, separator, folder = given.partition("=")
        if separator:
            found[name] = Offer(name, Path(folder).expanduser().absolute(), None)
            continue
        entry = find_entry(given)
        if entry is None:
            raise UsageError(
                "the service cannot offer this model",
                code="service.model",
                value=given,
                hint="name an id of the catalog (`tunesmith models list`), or NAME=FOLDER",
            )
        found[entry.id] = Offer(entry.id, None, entry)
    return found


def require_model(context: Context, connection: Connection, caller: Caller, name: str, *, use: Use = "infer") -> Named:
    """The model of a name, if the caller's project may use it.

    Args:
        context: The service.
        connection: To the database.
        caller: Who asks.
        name: As the request has it.
        use: What for; models that were shared can be asked and not tuned.

    Raises:
        ApiError: 404 ``model_not_found``; 403 ``model_not_allowed``: the project's list of models has not its base;
            403 ``licence_not_accepted``.
    """
    offers = offered(context)
    if name in offers:
        named = Named("base", name, name)
    else:
        row = find_tuned(connection, caller.project_id, name)
        if row is None or row.base not in offers or (use == "tune" and row.project_id != caller.project_id):
            raise no_model(name, use)
        named = Named("tuned", row.id, row.base, row.address, row.project_id)
    _require_allowed(connection, caller.project_id, offers[named.base], name)
    return named


def find_tuned(connection: Connection, project_id: str, name: str) -> Row[Any] | None:
    """A tuned model that is a project's own, or that was shared with it, and was not deleted."""
    found = select(TUNED_MODELS).where(TUNED_MODELS.c.id == name, TUNED_MODELS.c.deleted_at.is_(None))
    row: Row[Any] | None = connection.execute(found).first()
    if row is None or row.project_id == project_id:
        return row
    permission = select(CHECKPOINT_PERMISSIONS.c.id).where(
        CHECKPOINT_PERMISSIONS.c.checkpoint == name, CHECKPOINT_PERMISSIONS.c.project_id == project_id
    )
    return row if connection.execute(permission).first() is not None else None


def allowed_bases(context: Context, connection: Connection, project_id: str) -> Mapping[str, Offer]:
    """The bases that a project may use, as far as its list of models says; licences are not looked at."""
    listed = _allowed(connection, project_id)
    return {name: offer for name, offer in offered(context).items() if listed is None or name in listed}


def no_model(name: str, use: Use = "infer") -> ApiError:
    """What is told of a model that is not there, or is another project's."""
    return ApiError(
        404,
        f"The model `{name}` does not exist or you do not have access to it; it cannot be {_DOING[use]}",
        code="model_not_found",
        param=_PARAM,
    )


def _require_allowed(connection: Connection, project_id: str, offer: Offer, name: str) -> None:
    listed = _allowed(connection, project_id)
    if listed is not None and offer.name not in listed:
        raise ApiError(
            403,
            f"The project may not use the model `{name}`: an administrator allows it {', '.join(listed) or 'none'}",
            code="model_not_allowed",
            param=_PARAM,
        )
    if offer.licence is None or offer.entry is None:
        return
    accepted = select(LICENCES.c.id).where(LICENCES.c.project_id == project_id, LICENCES.c.model == offer.name)
    if connection.execute(accepted).first() is None:
        raise ApiError(
            403,
            f"The licence of {offer.name} ({offer.licence}, {offer.entry.licence_url}) is not accepted for this "
            "project yet: subscribe to the model in the catalog first",
            code="licence_not_accepted",
            param=_PARAM,
        )


def _allowed(connection: Connection, project_id: str) -> list[str] | None:
    query = select(PROJECTS.c.allowed_models).where(PROJECTS.c.id == project_id)
    found: list[str] | None = connection.execute(query).scalar_one_or_none()
    return found
