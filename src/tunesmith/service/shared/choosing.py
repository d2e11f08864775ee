"""From the name in a request to the model that answers it: a deployment's share of traffic, or the model itself."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import DEPLOYMENTS
from tunesmith.service.errors import ApiError
from tunesmith.service.shared.naming import Named, require_model


@dataclass(frozen=True)
class Chosen:
    """Who answers a request: what the request called it, and the model."""

    asked: str
    named: Named


def choose(context: Context, connection: Connection, caller: Caller, name: str, *, in_batch: bool = False) -> Chosen:
    """The model that answers for a name.

    Args:
        context: The service.
        connection: To the database.
        caller: Who asks.
        name: A deployment of the project, or a model.
        in_batch: Whether a file of requests is answered; deployments of the kind ``batch`` are for these alone.

    Raises:
        ApiError: As :func:`tunesmith.service.shared.naming.require_model`; 400 ``deployment_is_batch``.
    """
    deployment = find_deployment(connection, caller.project_id, name)
    if deployment is None:
        return Chosen(name, require_model(context, connection, caller, name))
    if deployment.kind == "batch" and not in_batch:
        raise ApiError(
            400,
            f"The deployment {name} answers files of requests: use it in a batch",
            code="deployment_is_batch",
            param="model",
        )
    return Chosen(name, require_model(context, connection, caller, drawn(deployment.traffic)))


def find_deployment(connection: Connection, project_id: str, name: str) -> Row[Any] | None:
    """A project's deployment by its name."""
    query = select(DEPLOYMENTS).where(DEPLOYMENTS.c.project_id == project_id, DEPLOYMENTS.c.name == name)
    row: Row[Any] | None = connection.execute(query).first()
    return row


def drawn(traffic: Mapping[str, int]) -> str:
    """One of the names by chance, each as often as its part says."""
    at = secrets.randbelow(sum(traffic.values()))
    for name, part in traffic.items():
        at -= part
        if at < 0:
            return name
    raise AssertionError("parts do not add up")
