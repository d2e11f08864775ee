"""Pages of what is done with models: versions, the playground, deployments, batches."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tunesmith.recipe.objectives import HEADS
from tunesmith.service.context import context_of
from tunesmith.service.web.asking import OWN, Api, asking
from tunesmith.service.web.choosing import files_to_choose
from tunesmith.service.web.pages_route import PageRoute
from tunesmith.service.web.rendering import page
from tunesmith.service.web.snippets import Does, snippets

_PAGE = 20
_BATCH_ENDED = frozenset({"failed", "completed", "expired", "cancelled"})
Name = Annotated[str, Query(max_length=255)]


def using_pages() -> APIRouter:
    """The pages."""
    router = APIRouter(route_class=PageRoute)

    @router.get("/ui/models")
    async def models(request: Request, after: Annotated[str | None, Query(max_length=255)] = None) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/registry", after=after, limit=_PAGE)
        return page(request, api, "models.html", versions=found, is_first=after is None)

    @router.get("/ui/models/{model:path}")
    async def model(request: Request, model: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/registry/{quote(model, safe='')}")
        return page(request, api, "model.html", version=found)

    @router.get("/ui/playground")
    async def playground(request: Request, left: Name = "", right: Name = "") -> Response:
        async with asking(request) as api:
            names = await _askable(api)
            if left and not right:
                right, left = left, await _base_of(api, left) or _another(names, left)
        return page(request, api, "playground.html", names=names, left=left, right=right)

    @router.get("/ui/deployments")
    async def deployments(request: Request, model: Name = "") -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/deployments")
            names = await api.get("/v1/models")
        choices = _tuned_first(names["data"])
        return page(request, api, "deployments.html", deployments=found["data"], choices=choices, model=model)

    @router.get("/ui/deployments/{name}")
    async def deployment(request: Request, name: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/deployments/{name}")
            models = await api.get("/v1/models")
            does = await _what_it_does(api, found["models"][0]["model"])
        root = context_of(request).settings.public_url or str(request.base_url)
        base_url = f"{root.rstrip('/')}/v1"
        return page(
            request,
            api,
            "deployment.html",
            deployment=found,
            writes=does == "writes",
            choices=_tuned_first(models["data"]),
            base_url=base_url,
            snippets=snippets(base_url, found["name"], does),
        )

    router.include_router(_batch_pages())
    return router


def _batch_pages() -> APIRouter:
    router = APIRouter(route_class=PageRoute)

    @router.get("/ui/batches")
    async def batches(
        request: Request, after: Annotated[str | None, Query(max_length=64)] = None, file: Name = ""
    ) -> Response:
        async with asking(request) as api:
            files = await files_to_choose(api, file, purpose="batch")
            found = await api.get("/v1/batches", after=after, limit=_PAGE)
        has_live = any(one["status"] not in _BATCH_ENDED for one in found["data"])
        return page(
            request,
            api,
            "batches.html",
            batches=found,
            files=files,
            file=file,
            has_live=has_live,
            is_first=after is None,
        )

    @router.get("/ui/batches/{batch_id}")
    async def batch(request: Request, batch_id: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"/v1/batches/{batch_id}")
            file = await api.find(f"/v1/files/{found['input_file_id']}")
        is_live = found["status"] not in _BATCH_ENDED
        answer = page(request, api, "batch.html", batch=found, file=file, is_live=is_live)
        if not is_live and "hx-request" in request.headers:
            # It has ended while somebody watched: what may be done with it now is another part of the page.
            answer.headers["HX-Refresh"] = "true"
        return answer

    return router


def _tuned_first(models: list[dict[str, Any]]) -> list[str]:
    """Names of models; those that were tuned here are what one deploys."""
    return sorted((str(one["id"]) for one in models), key=lambda name: (not name.startswith("ft:"), name))


async def _askable(api: Api) -> list[tuple[str, list[str]]]:
    """Names that may be asked for an answer in words, by what they are."""
    deployments = [one["name"] for one in (await api.get(f"{OWN}/deployments"))["data"] if one["kind"] == "real-time"]
    encoders = {one["id"] for one in (await api.get(f"{OWN}/catalog", kind="encoder"))["data"]}
    names = [one["id"] for one in (await api.get("/v1/models"))["data"] if one["id"] not in encoders]
    return [
        ("Deployments", deployments),
        ("Tuned models", [name for name in names if name.startswith("ft:")]),
        ("Base models", [name for name in names if not name.startswith("ft:")]),
    ]


async def _base_of(api: Api, model: str) -> str:
    """What a tuned model, or that of a deployment, was tuned from; an empty text for any other name."""
    if not model.startswith("ft:"):
        deployment = await api.find(f"{OWN}/deployments/{quote(model, safe='')}")
        if deployment is None:
            return ""
        model = str(deployment["models"][0]["model"])
    found = await api.find(f"{OWN}/registry/{quote(model, safe='')}") if model.startswith("ft:") else None
    return "" if found is None else str(found["base"])


def _another(names: list[tuple[str, list[str]]], model: str) -> str:
    """A base model to hold a name against."""
    return next((name for name in names[-1][1] if name != model), "")


async def _what_it_does(api: Api, model: str) -> Does:
    """What a model gives to those who ask it."""
    if model.startswith("ft:"):
        version = await api.find(f"{OWN}/registry/{quote(model, safe='')}")
        objective = None if version is None else version.get("objective")
        return "answers" if objective == "question_answering" else "labels" if objective in HEADS else "writes"
    offer = await api.find(f"{OWN}/catalog/{quote(model, safe='')}")
    return "embeds" if offer is not None and offer["kind"] == "encoder" else "writes"
