"""References in the registry to the versions that deployments name, so that nobody takes these out of use.

A version is referred to before a deployment names it, and let go of once none does. What a killed process left
undone, the chore does.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.exc import DBAPIError

from tunesmith.errors import ModelError, TunesmithError
from tunesmith.registry.names import parse_address
from tunesmith.registry.references import add_reference, drop_reference, read_references
from tunesmith.service.context import Context
from tunesmith.service.db.tables.inference import DEPLOYMENTS
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.shared.naming import Named, no_model
from tunesmith.service.shared.references import OF_DEPLOYMENTS
from tunesmith.storage.address import open_store

_log = logging.getLogger(__name__)
# A reference this young may be of a deployment that is being made at this moment.
_GRACE_SECONDS = 600.0


@dataclass(frozen=True, order=True)
class Version:
    """A version of the registry."""

    name: str
    number: int


def hold(context: Context, deployment_id: str, named: Iterable[Named]) -> None:
    """Refer to the versions of models, before a deployment names them; asks the storage.

    Raises:
        ApiError: 404 ``model_not_found``: the registry has one of them no more.
        NetworkError: The storage does not answer.
    """
    store = open_store(context.settings.registry)
    for one in named:
        if one.address is None:
            continue
        version = _version(one.address)
        try:
            add_reference(store, version.name, version.number, "deployment", _who(deployment_id))
        except ModelError as error:
            raise no_model(one.name) from error


def settle(context: Context, deployment_id: str, models: Iterable[str]) -> None:
    """Let go of the versions of those models that a deployment does not name; asks the storage.

    Never fails: what could not be done, the chore does.
    """
    query = select(DEPLOYMENTS.c.traffic).where(DEPLOYMENTS.c.id == deployment_id)
    try:
        with context.database.read() as connection:
            now_named = set(connection.execute(query).scalar_one_or_none() or {})
        versions = _versions(context, now_named | set(models))
        kept = {versions[name] for name in now_named & versions.keys()}
        store = open_store(context.settings.registry)
        for version in set(versions.values()) - kept:
            drop_reference(store, version.name, version.number, "deployment", _who(deployment_id))
    except (TunesmithError, DBAPIError) as error:
        _log.warning("deployment %s: its references are settled later: %s", deployment_id, type(error).__name__)


def reconcile(context: Context) -> None:
    """Make references what deployments say, whatever was cut off; a chore."""
    with context.database.read() as connection:
        deployments = connection.execute(select(DEPLOYMENTS.c.id, DEPLOYMENTS.c.traffic)).all()
        live = select(TUNED_MODELS.c.id, TUNED_MODELS.c.address).where(TUNED_MODELS.c.deleted_at.is_(None))
        versions = {row.id: _version(row.address) for row in connection.execute(live)}
    wanted = {(versions[name], _who(row.id)) for row in deployments for name in row.traffic if name in versions}
    for version in sorted(set(versions.values())):
        try:
            _reconcile_one(context, version, {who for of, who in wanted if of == version})
        except ModelError as error:
            # It was taken out of use before anybody referred to it; its deployment says so to who asks.
            _log.warning("a deployed version is gone: %s", error.message)
        except TunesmithError as error:
            _log.warning("references of %s:%d: %s", version.name, version.number, error.message)


def _reconcile_one(context: Context, version: Version, wanted: set[str]) -> None:
    store = open_store(context.settings.registry)
    known = [one for one in read_references(store, version.name, version.number) if one.kind == "deployment"]
    for one in known:
        is_young = context.now() - datetime.fromisoformat(one.since).timestamp() < _GRACE_SECONDS
        if one.who.startswith(OF_DEPLOYMENTS) and one.who not in wanted and not is_young:
            drop_reference(store, version.name, version.number, "deployment", one.who)
    for who in sorted(wanted - {one.who for one in known}):
        add_reference(store, version.name, version.number, "deployment", who)


def _versions(context: Context, models: Iterable[str]) -> dict[str, Version]:
    """The versions of those models that were tuned, also of deleted ones."""
    query = select(TUNED_MODELS.c.id, TUNED_MODELS.c.address).where(TUNED_MODELS.c.id.in_(list(models)))
    with context.database.read() as connection:
        rows: list[Row[Any]] = list(connection.execute(query))
    return {row.id: _version(row.address) for row in rows}


def _version(address: str) -> Version:
    parsed = parse_address(address)
    assert parsed.version is not None
    return Version(parsed.name, parsed.version)


def _who(deployment_id: str) -> str:
    return f"{OF_DEPLOYMENTS}{deployment_id}"
