"""Paths of the catalog."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from sqlalchemy import select

from tunesmith.service.auth.gate import Inference, Member
from tunesmith.service.catalog.schema import Acceptance, Standing, acceptance_answer, model_answer
from tunesmith.service.catalog.subscriptions import accept, find_offer, prices_of, standings, withdraw
from tunesmith.service.context import Context, InContext
from tunesmith.service.db.tables.accounts import LICENCES
from tunesmith.service.lists import listed as as_list
from tunesmith.service.shared.naming import Offer, offered


def catalog_router() -> APIRouter:
    """The models that may be tuned and asked, and the licences that a project has accepted."""
    router = APIRouter(prefix="/catalog", tags=["catalog"])

    @router.get("")
    def models(
        context: InContext,
        caller: Inference,
        *,
        family: str | None = None,
        kind: str | None = None,
        search: str | None = None,
        most_parameters: int | None = None,
    ) -> dict[str, Any]:
        def is_wanted(offer: Offer) -> bool:
            entry = offer.entry
            return (
                (family is None or (entry is not None and entry.family == family))
                and (kind is None or offer.kind == kind)
                and (search is None or search.lower() in f"{offer.name} {entry.name if entry else ''}".lower())
                and (most_parameters is None or (entry is not None and entry.parameters <= most_parameters))
            )

        with context.database.read() as connection:
            known = standings(context, connection, caller)
        wanted = [offer for offer in offered(context).values() if is_wanted(offer)]
        return as_list([_shown(context, offer, known[offer.name]) for offer in wanted])

    # Before the models, of which none has this name.
    @router.get("/acceptances")
    def acceptances(context: InContext, caller: Member) -> dict[str, Any]:
        mine = select(LICENCES).where(LICENCES.c.project_id == caller.project_id).order_by(LICENCES.c.id)
        with context.database.read() as connection:
            return as_list([acceptance_answer(row) for row in connection.execute(mine)])

    # A folder of the operator's may be called by a name with slashes.
    @router.get("/{model:path}")
    def model(model: str, context: InContext, caller: Inference) -> dict[str, Any]:
        offer = find_offer(context, model)
        with context.database.read() as connection:
            return _shown(context, offer, standings(context, connection, caller)[offer.name])

    @router.post("/{model:path}/accept")
    def subscribe(model: str, context: InContext, caller: Member, body: Acceptance | None = None) -> dict[str, Any]:
        return acceptance_answer(accept(context, caller, model, None if body is None else body.licence))

    @router.delete("/{model:path}/accept")
    def unsubscribe(model: str, context: InContext, caller: Member) -> dict[str, Any]:
        withdraw(context, caller, model)
        return {"id": model, "object": "catalog.acceptance.deleted", "deleted": True}

    return router


def _shown(context: Context, offer: Offer, standing: Standing) -> dict[str, Any]:
    return model_answer(offer, standing, prices_of(context, offer.name), context.settings.currency)
