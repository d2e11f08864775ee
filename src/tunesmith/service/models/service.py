"""Models of a project: the bases that it may use, and those that it tuned."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select, update

from tunesmith.registry.names import parse_address
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import PROJECTS
from tunesmith.service.db.tables.inference import DEPLOYMENTS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.errors import ApiError
from tunesmith.service.models.schema import shown
from tunesmith.service.shared.naming import allowed_bases, find_tuned, no_model, offered
from tunesmith.service.shared.telling import note_action
from tunesmith.service.shared.versions import let_go

_CHECKPOINT = ":ckpt-"


def list_models(context: Context, connection: Connection, caller: Caller) -> list[dict[str, Any]]:
    """The bases that the project may use, and the models that it tuned; checkpoints are found by their names."""
    since = float(
        connection.execute(select(PROJECTS.c.created_at).where(PROJECTS.c.id == caller.project_id)).scalar_one()
    )
    bases = [shown(name, since) for name in allowed_bases(context, connection, caller.project_id)]
    own = (
        select(TUNED_MODELS)
        .where(TUNED_MODELS.c.project_id == caller.project_id, TUNED_MODELS.c.deleted_at.is_(None))
        .order_by(TUNED_MODELS.c.created_at, TUNED_MODELS.c.id)
    )
    rows = connection.execute(own).all()
    owner = context.settings.organization
    return bases + [shown(row.id, row.created_at, owner) for row in rows if _CHECKPOINT not in row.id]


def find_model(context: Context, connection: Connection, caller: Caller, name: str) -> dict[str, Any]:
    """A model that the project may use.

    Raises:
        ApiError: 404 ``model_not_found``.
    """
    if name in allowed_bases(context, connection, caller.project_id):
        return shown(name, _since(connection, caller))
    row = find_tuned(connection, caller.project_id, name)
    if row is None:
        raise no_model(name)
    return shown(row.id, row.created_at, context.settings.organization)


def delete_model(context: Context, caller: Caller, name: str) -> None:
    """Delete a tuned model of the project; the registry's version goes with the last name that means it.

    Raises:
        ApiError: 404; 403: a base is not the project's; 409 ``model_in_use``: a deployment has it.
    """
    with context.database.write() as connection:
        # Whoever deploys it at this moment waits for the end of this, or has been waited for.
        connection.execute(select(TUNED_MODELS.c.id).where(TUNED_MODELS.c.id == name).with_for_update()).all()
        row = find_tuned(connection, caller.project_id, name)
        if name in offered(context) or (row is not None and row.project_id != caller.project_id):
            raise ApiError(
                403, f"The model `{name}` is not this project's: it cannot be deleted", code="model_not_owned"
            )
        if row is None:
            raise no_model(name)
        _require_unused(connection, caller, name)
        gone = update(TUNED_MODELS).where(TUNED_MODELS.c.id == name)
        connection.execute(gone.values(deleted_at=context.now()))
        note_action(context, connection, caller, "model.delete", target=name, detail={"address": row.address})
        is_last = not _is_named(connection, row)
    if is_last:
        address = parse_address(row.address)
        assert address.version is not None
        let_go(context, address.name, address.version)


def _since(connection: Connection, caller: Caller) -> float:
    """When a project has got its bases, which have no moment of their own: at its beginning."""
    query = select(PROJECTS.c.created_at).where(PROJECTS.c.id == caller.project_id)
    return float(connection.execute(query).scalar_one())


def _require_unused(connection: Connection, caller: Caller, name: str) -> None:
    used = select(DEPLOYMENTS.c.name, DEPLOYMENTS.c.traffic)
    # Its checkpoints may have been shared with other projects, whose deployments are nobody else's business.
    for row in connection.execute(used.where(DEPLOYMENTS.c.project_id == caller.project_id)):
        if name in row.traffic:
            raise ApiError(
                409,
                f"The deployment {row.name} uses the model `{name}`: delete that first, or take the model out of it",
                code="model_in_use",
                retry=False,
            )


def _is_named(connection: Connection, gone: Row[Any]) -> bool:
    """Whether another name means the same version, or a checkpoint of it."""
    version = gone.address.partition("@")[0]
    same = (TUNED_MODELS.c.address == version) | TUNED_MODELS.c.address.startswith(f"{version}@", autoescape=True)
    query = select(TUNED_MODELS.c.id).where(same, TUNED_MODELS.c.deleted_at.is_(None)).limit(1)
    return connection.execute(query).first() is not None
