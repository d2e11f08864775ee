"""What a project may do with the models of the service: its list of models, and the licences it has accepted."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select

from tunesmith.service.auth.caller import Caller
from tunesmith.service.catalog.schema import Standing
from tunesmith.service.context import Context
from tunesmith.service.db.tables.accounts import LICENCES
from tunesmith.service.errors import ApiError, not_found
from tunesmith.service.ids import new_id
from tunesmith.service.shared.metering import KINDS, price
from tunesmith.service.shared.naming import Offer, allowed_bases, offered
from tunesmith.service.shared.telling import note_action


def find_offer(context: Context, name: str) -> Offer:
    """A model that the service offers.

    Raises:
        ApiError: 404: it offers none of that name; nothing is looked for anywhere else.
    """
    offer = offered(context).get(name)
    if offer is None:
        raise ApiError(404, f"The service does not offer the model `{name}`", code="model_not_found", param="model")
    return offer


def standings(context: Context, connection: Connection, caller: Caller) -> dict[str, Standing]:
    """What every offered model is to the caller's project."""
    allowed = allowed_bases(context, connection, caller.project_id)
    rows = connection.execute(select(LICENCES).where(LICENCES.c.project_id == caller.project_id))
    accepted = {row.model: row for row in rows}
    return {name: Standing(name in allowed, accepted.get(name)) for name in offered(context)}


def prices_of(context: Context, name: str) -> dict[str, float]:
    """Prices of a million of each kind."""
    return {kind: price(context, name, kind) for kind in KINDS}


def accept(context: Context, caller: Caller, name: str, licence: str | None) -> Row[Any]:
    """Accept a model's licence for the caller's project; a second time changes nothing.

    Raises:
        ApiError: 403: the project's list of models has it not; 404; 409: it has another licence than the one that was
            read, or none that anybody has to accept.
    """
    offer = find_offer(context, name)
    if offer.licence is None:
        raise ApiError(409, f"Nobody has to accept a licence to use {name}", code="nothing_to_accept")
    if licence not in (None, offer.licence):
        raise ApiError(409, f"{name} has the licence {offer.licence}", code="other_licence", param="licence")
    with context.database.write() as connection:
        if name not in allowed_bases(context, connection, caller.project_id):
            raise ApiError(403, f"The project may not use the model `{name}`", code="model_not_allowed", param="model")
        found = select(LICENCES).where(LICENCES.c.project_id == caller.project_id, LICENCES.c.model == name)
        row = connection.execute(found).first()
        if row is not None:
            return row
        values = {"id": new_id("lic_"), "project_id": caller.project_id, "model": name, "licence": offer.licence}
        connection.execute(insert(LICENCES).values(**values, accepted_by=caller.name, accepted_at=context.now()))
        note_action(context, connection, caller, "licence.accept", target=name, detail={"licence": offer.licence})
        return connection.execute(found).one()


def withdraw(context: Context, caller: Caller, name: str) -> None:
    """Take an acceptance back; models that were tuned before stay, and answer nobody.

    Raises:
        ApiError: 404: the project has not accepted it.
    """
    mine = (LICENCES.c.project_id == caller.project_id) & (LICENCES.c.model == name)
    with context.database.write() as connection:
        if connection.execute(delete(LICENCES).where(mine)).rowcount == 0:
            raise not_found("accepted licence of model", name, "model")
        note_action(context, connection, caller, "licence.withdraw", target=name)
