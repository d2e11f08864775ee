"""Pages of what is done with models: versions, the playground, deployments."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tunesmith.service.context import context_of
from tunesmith.service.web.asking import OWN, Api, asking
from tunesmith.service.web.pages_route import PageRoute
from tunesmith.service.web.rendering import page
from tunesmith.service.web.snippets import snippets

_PAGE = 20
Name = Annotated[str, Query(max_length=255)]


def using_pages() -> APIRouter:
    """The pages."""
    router = APIRouter(route_class=PageRoute)

    @router.get("/ui/models")
    async def models(request: Request, after: Annotated[str | None, Query(max_length=255)] = None) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/registry", after=after, limit=_PAGE)
        return page(request, api, "models.html", versions=found, is_first=after is None)

    @router.get("/ui/playground")
    async def playground(request: Request, left: Name = "", right: Name = "") -> Response:
        async with asking(request) as api:
            names = await _askable(api)
            if left and not right:
                right, left = left, await _base_of(api, left)
        return page(request, api, "playground.html", names=names, left=left, right=right)

    @router.get("/ui/deployments")
    async def deployments(request: Request, model: Name = "") -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/deployments")
            names = await api.get("/v1/models")
        choices = sorted(one["id"] for one in names["data"])
        return page(request, api, "deployments.html", deployments=found["data"], choices=choices, model=model)

    @router.get("/ui/deployments/{name}")
    async def deployment(request: Request, name: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/deployments/{name}")
            models = await api.get("/v1/models")
        root = context_of(request).settings.public_url or str(request.base_url)
        base_url = f"{root.rstrip('/')}/v1"
        return page(
            request,
            api,
            "deployment.html",
            deployment=found,
            choices=sorted(one["id"] for one in models["data"]),
            base_url=base_url,
            snippets=snippets(base_url, found["name"]),
        )

    return router


async def _askable(api: Api) -> list[tuple[str, list[str]]]:
    """Names that may be asked, by what they are."""
    deployments = [one["name"] for one in (await api.get(f"{OWN}/deployments"))["data"] if one["kind"] == "real-time"]
    names = [one["id"] for one in (await api.get("/v1/models"))["data"]]
    return [
        ("Deployments", deployments),
        ("Tuned models", [name for name in names if name.startswith("ft:")]),
        ("Base models", [name for name in names if not name.startswith("ft:")]),
    ]


async def _base_of(api: Api, model: str) -> str:
    """What a tuned model was tuned from; an empty text for any other name."""
    if not model.startswith("ft:"):
        return ""
    found = await api.find(f"{OWN}/registry/{model}")
    return "" if found is None else str(found["base"])
