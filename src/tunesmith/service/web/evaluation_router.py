"""Pages of evaluations: what was measured, and a model measured anew."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tunesmith.service.web.asking import OWN, asking
from tunesmith.service.web.choosing import files_to_choose
from tunesmith.service.web.pages_route import PageRoute
from tunesmith.service.web.rendering import page

_PAGE = 20
_ENDED = frozenset({"succeeded", "failed", "cancelled"})
# Those that a file of rows of some shape may have; the API takes every task of the command line.
_TASKS = ("chat", "classification", "ner", "translation", "qa", "preference", "function_calling", "text_to_sql", "math")
_NOT_ROWS = frozenset({"batch", "batch_output"})
Name = Annotated[str, Query(max_length=255)]


def evaluation_pages() -> APIRouter:
    """The pages."""
    router = APIRouter(route_class=PageRoute)

    @router.get("/ui/evaluations")
    async def evaluations(
        request: Request, after: Annotated[str | None, Query(max_length=64)] = None, model: Name = "", file: Name = ""
    ) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/evaluations", after=after, limit=_PAGE)
            files = await files_to_choose(api, file, without=_NOT_ROWS)
            models = await api.get("/v1/models")
        names = sorted((str(one["id"]) for one in models["data"]), key=lambda name: (not name.startswith("ft:"), name))
        return page(
            request,
            api,
            "evaluations.html",
            evaluations=found,
            files=files,
            file=file,
            models=names,
            model=model,
            tasks=_TASKS,
            has_live=any(one["status"] not in _ENDED for one in found["data"]),
            is_first=after is None,
        )

    @router.get("/ui/evaluations/{evaluation_id}")
    async def evaluation(request: Request, evaluation_id: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/evaluations/{evaluation_id}")
            file = await api.find(f"/v1/files/{found['file']}")
            is_done = found["status"] == "succeeded"
            report = await api.find(f"{OWN}/evaluations/{evaluation_id}/report") if is_done else None
        is_live = found["status"] not in _ENDED
        answer = page(request, api, "evaluation.html", evaluation=found, file=file, report=report, is_live=is_live)
        if not is_live and "hx-request" in request.headers:
            # It has ended while somebody watched: what may be done with it now is another part of the page.
            answer.headers["HX-Refresh"] = "true"
        return answer

    return router
