"""Versions of a project: the rows say which are its own, the registry says what they are."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Row, select

from tunesmith.errors import ModelError
from tunesmith.jobs.registry import lineage
from tunesmith.registry.card import model_card
from tunesmith.registry.names import Address, check_labels, parse_address
from tunesmith.registry.references import read_references, remove_label, set_label
from tunesmith.registry.versions import Version, find_version, read_labels
from tunesmith.service.auth.caller import Caller
from tunesmith.service.context import Context
from tunesmith.service.db.tables.models import TUNED_MODELS
from tunesmith.service.errors import ApiError
from tunesmith.service.registry.schema import shown, shown_whole
from tunesmith.service.shared.naming import no_model
from tunesmith.service.shared.telling import note_action
from tunesmith.storage.address import open_store
from tunesmith.storage.store import Store


def list_versions(context: Context, caller: Caller, after: str | None, limit: int) -> tuple[list[dict[str, Any]], bool]:
    """Versions of the project, the newest first, and whether there are more."""
    query = _own(caller).order_by(TUNED_MODELS.c.created_at.desc(), TUNED_MODELS.c.id.desc())
    with context.database.read() as connection:
        rows = connection.execute(query).all()
    at = next((at + 1 for at, row in enumerate(rows) if row.id == after), 0)
    store = _store(context)
    shown_rows = [_listed(store, row) for row in rows[at : at + limit]]
    return [one for one in shown_rows if one is not None], len(rows) > at + limit


def show(context: Context, caller: Caller, model: str) -> dict[str, Any]:
    """A version with lineage, measures and labels.

    Raises:
        ApiError: 404.
    """
    row = _require(context, caller, model)
    store = _store(context)
    version, address = _version(store, row)
    chain = [_name_of(context, caller, one) for one in lineage(store, version)[1:]]
    listed = shown(row, version, _labels(store, address))
    references = read_references(store, address.name, version.number)
    return shown_whole(listed, version, [*filter(None, chain), row.base], references)


def card(context: Context, caller: Caller, model: str) -> str:
    """The model's card, as Markdown.

    Raises:
        ApiError: 404; 409 ``version_not_whole``: it has no result yet.
    """
    version, _ = _version(_store(context), _require(context, caller, model))
    if version.record is None:
        raise ApiError(409, f"The model {model} has no result yet", code="version_not_whole", retry=False)
    return model_card(version.record)


def give_label(context: Context, caller: Caller, model: str, label: str, kind: str) -> dict[str, Any]:
    """Let a stage or an alias stand for a version of the project.

    Raises:
        ApiError: 404; 400 ``checkpoint_label``: the model is a checkpoint.
        UsageError: The label cannot be used.
    """
    check_labels([label], kind)
    version, address = _version(_store(context), _require(context, caller, model))
    if address.step is not None:
        message = f"{model} is a checkpoint; stages and aliases stand for whole versions"
        raise ApiError(400, message, code="checkpoint_label", param="model")
    set_label(_store(context), address.name, version.number, label)
    with context.database.write() as connection:
        note_action(context, connection, caller, "registry.label", target=model, detail={"label": label})
    return show(context, caller, model)


def take_label(context: Context, caller: Caller, model: str, label: str) -> dict[str, Any]:
    """Take a stage or an alias away from a version.

    Raises:
        ApiError: 404: the model, or the label on it.
    """
    store = _store(context)
    version, address = _version(store, _require(context, caller, model))
    if _labels(store, address).get(label) != version.number:
        raise ApiError(404, f"The model {model} has no label {label}", code="not_found", param="label")
    remove_label(store, address.name, label)
    with context.database.write() as connection:
        note_action(context, connection, caller, "registry.unlabel", target=model, detail={"label": label})
    return show(context, caller, model)


def _own(caller: Caller) -> Any:
    return select(TUNED_MODELS).where(
        TUNED_MODELS.c.project_id == caller.project_id, TUNED_MODELS.c.deleted_at.is_(None)
    )


def _require(context: Context, caller: Caller, model: str) -> Row[Any]:
    with context.database.read() as connection:
        row: Row[Any] | None = connection.execute(_own(caller).where(TUNED_MODELS.c.id == model)).first()
    if row is None:
        raise no_model(model)
    return row


def _store(context: Context) -> Store:
    return open_store(context.settings.registry)


def _version(store: Store, row: Row[Any]) -> tuple[Version, Address]:
    address = parse_address(row.address)
    try:
        return find_version(store, address), address
    except ModelError as error:
        raise no_model(row.id) from error


def _listed(store: Store, row: Row[Any]) -> dict[str, Any] | None:
    """A row with its version; None where the registry has lost that."""
    try:
        version, address = _version(store, row)
    except ApiError:
        return None
    return shown(row, version, _labels(store, address))


def _labels(store: Store, address: Address) -> dict[str, int]:
    """The labels that may stand for an address; they stand for whole versions, and for no checkpoint of one."""
    return {} if address.step is not None else dict(read_labels(store, address.name))


def _name_of(context: Context, caller: Caller, version: Version) -> str | None:
    """What the project calls a version; another project's is not named."""
    with context.database.read() as connection:
        row = connection.execute(_own(caller).where(TUNED_MODELS.c.address == version.address)).first()
    return None if row is None else str(row.id)
