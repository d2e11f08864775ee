"""Pages of a project and of the whole service: use, keys, people, limits, webhooks, the audit log."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BeforeValidator

from tunesmith.service.shared.telling import EVENTS
from tunesmith.service.web.asking import OWN, RefusedError, asking
from tunesmith.service.web.pages_route import PageRoute
from tunesmith.service.web.rendering import page

_PAGE = 50
After = Annotated[str | None, Query(max_length=64)]
# A form sends a field that is left empty as an empty text.
Day = Annotated[date | None, BeforeValidator(lambda text: text or None)]


def project_pages() -> APIRouter:
    """The pages."""
    router = APIRouter(route_class=PageRoute)
    _add_webhooks(router)

    @router.get("/ui/usage")
    async def usage(request: Request, start: Day = None, end: Day = None) -> Response:
        days = {"start": None if start is None else start.isoformat(), "end": None if end is None else end.isoformat()}
        async with asking(request) as api:
            now = await api.get(f"{OWN}/usage/now")
            by_model = await api.get(f"{OWN}/usage", group_by=["model", "kind"], **days)
            by_day = await api.get(f"{OWN}/usage", group_by=["day"], **days)
            prices = await api.get(f"{OWN}/prices")
        return page(
            request, api, "usage.html", now=now, by_model=by_model, by_day=by_day["data"], prices=prices, days=days
        )

    @router.get("/ui/project")
    async def project(request: Request, after: After = None) -> Response:
        async with asking(request) as api:
            project_id = api.session["project_id"]
            whole = await api.get(f"{OWN}/projects/{project_id}")
            quotas = await api.get(f"{OWN}/projects/{project_id}/quotas")
            keys = await api.get(f"{OWN}/keys", after=after, limit=_PAGE)
            members = await api.get(f"{OWN}/projects/{project_id}/members")
            models = await api.get(f"{OWN}/catalog")
        return page(
            request,
            api,
            "project.html",
            project=whole,
            use=quotas["use"],
            keys=keys,
            members=members["data"],
            models=models["data"],
            is_first=after is None,
        )

    @router.get("/ui/audit")
    async def audit(
        request: Request, after: After = None, action: Annotated[str, Query(max_length=100)] = ""
    ) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/audit", after=after, action=action or None, limit=_PAGE)
        return page(request, api, "audit.html", lines=found, action=action, is_first=after is None)

    @router.get("/ui/admin")
    async def admin(request: Request, after: After = None, users_after: After = None) -> Response:
        async with asking(request) as api:
            if not api.session["is_operator"]:
                raise RefusedError(403, "This page is for whoever runs the service.")
            users = await api.get(f"{OWN}/users", after=users_after, limit=_PAGE)
            engines = await api.get(f"{OWN}/engines")
            currency = (await api.get(f"{OWN}/prices"))["currency"]
            projects: dict[str, Any] = await api.get(f"{OWN}/projects", after=after, limit=_PAGE)
        return page(
            request,
            api,
            "admin.html",
            users=users,
            engines=engines["data"],
            currency=currency,
            projects=projects,
            is_first=after is None,
            is_first_of_users=users_after is None,
        )

    return router


def _add_webhooks(router: APIRouter) -> None:
    @router.get("/ui/webhooks")
    async def webhooks(request: Request) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/webhooks")
        return page(request, api, "webhooks.html", webhooks=found["data"], events=EVENTS)

    @router.get("/ui/webhooks/{webhook_id}")
    async def webhook(request: Request, webhook_id: str, after: After = None) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/webhooks/{webhook_id}")
            deliveries = await api.get(f"{OWN}/webhooks/{webhook_id}/deliveries", after=after, limit=_PAGE)
        return page(
            request, api, "webhook.html", webhook=found, deliveries=deliveries, events=EVENTS, is_first=after is None
        )
