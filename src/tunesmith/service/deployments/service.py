"""Deployments of a project: made, changed, deleted, and how they are."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from tunesmith.errors import TunesmithError
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import DEPLOYMENTS, ENGINES
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.deployments.references import hold, settle
from tunesmith.service.deployments.schema import ChangeDeployment, CreateDeployment, checked, shown
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.choosing import find_deployment
from tunesmith.service.shared.engines import look, place_of
from tunesmith.service.shared.naming import Named, offered, require_model
from tunesmith.service.shared.telling import note_action

_OF_ENGINE = {"wanted": "starting", "starting": "starting", "ready": "ready", "failed": "failed", "stopped": "asleep"}
# What the whole is, by the worst of its parts.
_WORST_FIRST = ("failed", "starting", "asleep", "ready")


def create(context: Context, caller: Caller, asked: CreateDeployment) -> dict[str, Any]:
    """Make a deployment.

    Raises:
        ApiError: 400; 404: no such model; 409 ``deployment_exists``.
    """
    parts = asked.parts()
    if asked.name in offered(context):
        raise ApiError(400, f"{asked.name} is the name of a model; choose another", code="invalid_value", param="name")
    deployment_id = new_id("deploy_")
    row = {
        "id": deployment_id,
        "project_id": caller.project_id,
        "name": asked.name,
        "kind": asked.kind,
        "traffic": parts,
        "least_replicas": asked.min_replicas,
        "idle_seconds": asked.idle_seconds,
        "created_at": context.now(),
    }
    try:
        _hold(context, caller, deployment_id, parts)
        with context.database.write() as connection:
            named = _require_models(context, connection, caller, parts)
            if find_deployment(connection, caller.project_id, asked.name) is not None:
                raise ApiError(
                    409, f"The project has a deployment {asked.name} already", code="deployment_exists", retry=False
                )
            connection.execute(insert(DEPLOYMENTS).values(**row))
            note_action(context, connection, caller, "deployment.create", target=asked.name, detail={"traffic": parts})
    finally:
        settle(context, deployment_id, parts)
    _wake(context, named, asked.min_replicas)
    return view(context, caller, asked.name)


def change(context: Context, caller: Caller, name: str, asked: ChangeDeployment) -> dict[str, Any]:
    """Change who answers, or what stays awake; requests that are under way end as they began.

    Raises:
        ApiError: 400; 404: no such deployment or model.
    """
    given = asked.model_dump(exclude_unset=True)
    values: dict[str, Any] = {}
    if asked.traffic is not None:
        values["traffic"] = checked(asked.traffic)
    if asked.min_replicas is not None:
        values["least_replicas"] = asked.min_replicas
    if "idle_seconds" in given:
        values["idle_seconds"] = asked.idle_seconds
    with context.database.read() as connection:
        before = _require(connection, caller, name)
    parts = values.get("traffic", {})
    try:
        _hold(context, caller, before.id, parts)
        with context.database.write() as connection:
            row = _require(connection, caller, name)
            if row.id != before.id:
                raise ApiError(
                    409, f"The deployment {name} was made anew meanwhile; try again", code="conflict", retry=True
                )
            if row.kind == "batch" and asked.min_replicas:
                raise ApiError(
                    400, "a deployment for batches is started by them", code="invalid_value", param="min_replicas"
                )
            named = _require_models(context, connection, caller, parts or row.traffic)
            if values:
                connection.execute(update(DEPLOYMENTS).where(DEPLOYMENTS.c.id == row.id).values(**values))
                note_action(context, connection, caller, "deployment.change", target=name, detail=values)
    finally:
        settle(context, before.id, [*before.traffic, *parts])
    _wake(context, named, int(values.get("least_replicas", row.least_replicas)))
    return view(context, caller, name)


def remove(context: Context, caller: Caller, name: str) -> str:
    """Delete a deployment; its engines sleep when nobody else uses them. Its id.

    Raises:
        ApiError: 404.
    """
    with context.database.write() as connection:
        row = _require(connection, caller, name)
        connection.execute(delete(DEPLOYMENTS).where(DEPLOYMENTS.c.id == row.id))
        note_action(context, connection, caller, "deployment.delete", target=name)
    settle(context, row.id, row.traffic)
    return str(row.id)


def view(context: Context, caller: Caller, name: str) -> dict[str, Any]:
    """A deployment as it is now.

    Raises:
        ApiError: 404.
    """
    with context.database.read() as connection:
        row = _require(connection, caller, name)
        named = _named(context, connection, caller, row.traffic)
        engines = _engines(connection)
    return _view(context, row, named, engines)


def view_all(context: Context, caller: Caller) -> list[dict[str, Any]]:
    """All deployments of the project, oldest first."""
    query = select(DEPLOYMENTS).where(DEPLOYMENTS.c.project_id == caller.project_id).order_by(DEPLOYMENTS.c.id)
    with context.database.read() as connection:
        rows = connection.execute(query).all()
        named = [_named(context, connection, caller, row.traffic) for row in rows]
        engines = _engines(connection)
    return [_view(context, row, models, engines) for row, models in zip(rows, named, strict=True)]


def _hold(context: Context, caller: Caller, deployment_id: str, parts: Mapping[str, int]) -> None:
    """Keep the versions of models from being taken out of use, before they are deployed."""
    with context.database.read() as connection:
        named = [require_model(context, connection, caller, name) for name in parts]
    hold(context, deployment_id, named)


def _require_models(context: Context, connection: Connection, caller: Caller, names: Collection[str]) -> list[Named]:
    """The models of names; whoever deletes one of them waits for the transaction, and so does this for them."""
    locked = select(TUNED_MODELS.c.id).where(TUNED_MODELS.c.id.in_(list(names))).order_by(TUNED_MODELS.c.id)
    connection.execute(locked.with_for_update()).all()
    return [require_model(context, connection, caller, name) for name in names]


def _require(connection: Connection, caller: Caller, name: str) -> Row[Any]:
    row = find_deployment(connection, caller.project_id, name)
    if row is None:
        raise not_found("Deployment", name)
    return row


def _named(
    context: Context, connection: Connection, caller: Caller, traffic: Mapping[str, int]
) -> dict[str, Named | None]:
    """Its models; None for one that the project may not use any more."""
    found: dict[str, Named | None] = {}
    for name in traffic:
        try:
            found[name] = require_model(context, connection, caller, name)
        except ApiError:
            found[name] = None
    return found


def _engines(connection: Connection) -> dict[str, str]:
    return {row.base: row.state for row in connection.execute(select(ENGINES.c.base, ENGINES.c.state))}


def _view(
    context: Context, row: Row[Any], named: Mapping[str, Named | None], engines: Mapping[str, str]
) -> dict[str, Any]:
    states = {name: _state(context, one, engines) for name, one in named.items()}
    worst = next(state for state in _WORST_FIRST if state in states.values())
    return shown(row, worst, states)


def _state(context: Context, named: Named | None, engines: Mapping[str, str]) -> str:
    if named is None:
        return "failed"
    try:
        base = place_of(context, named).base
    except (ApiError, TunesmithError):
        return "failed"
    return _OF_ENGINE[engines.get(base, "stopped")]


def _wake(context: Context, named: list[Named], least_replicas: int) -> None:
    """Begin to start what shall always be there; what cannot is seen in the deployment's state."""
    for one in named if least_replicas else []:
        try:
            look(context, place_of(context, one).base)
        except (ApiError, TunesmithError):
            continue
