"""Addresses of the pages, and of the files that they are made of."""

from __future__ import annotations

import mimetypes

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from tunesmith.service.auth.gate import COOKIE
from tunesmith.service.errors import not_found
from tunesmith.service.web.asking import OWN, RefusedError, asking
from tunesmith.service.web.evaluation_router import evaluation_pages
from tunesmith.service.web.pages_route import PageRoute, sign_in_page
from tunesmith.service.web.project_router import project_pages
from tunesmith.service.web.rendering import STATIC, page
from tunesmith.service.web.training_router import training_pages
from tunesmith.service.web.using_router import using_pages

# The address has a hash of the content in it.
_CACHED = "public, max-age=31536000, immutable"


def web_router() -> APIRouter:
    """All pages."""
    router = APIRouter(route_class=PageRoute, include_in_schema=False)

    @router.get("/")
    def begin(request: Request) -> Response:
        return RedirectResponse("/ui" if COOKIE in request.cookies else "/ui/sign-in", status_code=303)

    @router.get("/ui/sign-in")
    def sign_in(request: Request) -> Response:
        return sign_in_page(request)

    @router.get("/ui/static/{asset:path}")
    def static(asset: str) -> Response:
        return _file(asset)

    @router.get("/ui")
    async def home(request: Request) -> Response:
        async with asking(request) as api:
            models = await api.get(f"{OWN}/catalog")
            deployments = await api.get(f"{OWN}/deployments")
            tuned = await api.get(f"{OWN}/registry", limit=5)
            jobs = await api.get("/v1/fine_tuning/jobs", limit=5) if api.may_change else None
            files = await api.get("/v1/files", purpose="fine-tune", limit=1) if api.may_change else None
            now = await api.get(f"{OWN}/usage/now") if api.may_change else None
        return page(
            request,
            api,
            "home.html",
            models=models["data"],
            deployments=deployments["data"],
            tuned=tuned["data"],
            jobs=None if jobs is None else jobs["data"],
            has_files=files is not None and bool(files["data"]),
            now=now,
        )

    router.include_router(training_pages())
    router.include_router(evaluation_pages())
    router.include_router(using_pages())
    router.include_router(project_pages())

    # The last of all: what no page has.
    @router.get("/ui/{rest:path}")
    async def nothing(request: Request, rest: str) -> Response:
        async with asking(request):
            raise RefusedError(404, f"No page has the address /ui/{rest}.")

    return router


def _file(name: str) -> Response:
    """A file of the pages; only the names that are there when asked, and no way out of their folder."""
    known = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.is_file()}
    if name not in known:
        raise not_found("file", name)
    kind = mimetypes.guess_type(name)[0] or "text/plain"
    return FileResponse(known[name], media_type=kind, headers={"Cache-Control": _CACHED})
