"""Pages on the way to a tuned model: the catalog, data, and jobs."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

from tunesmith.service.web.asking import OWN, RefusedError, asking
from tunesmith.service.web.choosing import files_to_choose, tuned_to_choose
from tunesmith.service.web.pages_route import PageRoute
from tunesmith.service.web.rendering import page

_PAGE = 20
_RUNNING = frozenset({"validating_files", "queued", "running", "paused"})
_CHECKPOINTS = 100
After = Annotated[str | None, Query(max_length=64)]
Name = Annotated[str, Query(max_length=255)]


def training_pages() -> APIRouter:
    """The pages."""
    router = APIRouter(route_class=PageRoute)

    @router.get("/ui/catalog")
    async def catalog(request: Request, search: Annotated[str, Query(max_length=100)] = "") -> Response:
        async with asking(request) as api:
            found = await api.get(f"{OWN}/catalog", search=search or None)
        return page(request, api, "catalog.html", models=found["data"], search=search)

    @router.get("/ui/files")
    async def files(request: Request, after: After = None) -> Response:
        async with asking(request) as api:
            found = await api.get("/v1/files", after=after, limit=_PAGE)
        return page(request, api, "files.html", files=found, is_first=after is None)

    @router.get("/ui/jobs")
    async def jobs(request: Request, after: After = None) -> Response:
        async with asking(request) as api:
            found = await api.get("/v1/fine_tuning/jobs", after=after, limit=_PAGE)
        return page(request, api, "jobs.html", jobs=found, is_first=after is None, running=_RUNNING)

    @router.get("/ui/jobs/new")
    async def new_job(request: Request, model: Name = "", file: Name = "") -> Response:
        async with asking(request) as api:
            if not api.may_change:
                raise RefusedError(403, "Making a job needs the scope member; your key may only ask models.")
            files = await files_to_choose(api, file, purpose="fine-tune")
            models = await api.get(f"{OWN}/catalog")
            tuned = await tuned_to_choose(api, model, {one["id"] for one in models["data"]})
        bases = [one for one in models["data"] if one["allowed"]]
        return page(
            request,
            api,
            "new_job.html",
            files=files,
            bases=bases,
            tuned=tuned,
            techniques=models["data"][0]["techniques"] if models["data"] else [],
            model=model,
            file=file,
        )

    @router.get("/ui/jobs/{job_id}")
    async def job(request: Request, job_id: str) -> Response:
        async with asking(request) as api:
            found = await api.get(f"/v1/fine_tuning/jobs/{job_id}")
        return page(request, api, "job.html", job=found, is_running=found["status"] in _RUNNING)

    @router.get("/ui/jobs/{job_id}/results")
    async def results(request: Request, job_id: str, after: After = None) -> Response:
        """Checkpoints and the report, for the job's page, which asks again when there is more."""
        async with asking(request) as api:
            job = await api.get(f"/v1/fine_tuning/jobs/{job_id}")
            found = await api.get(f"/v1/fine_tuning/jobs/{job_id}/checkpoints", after=after, limit=_CHECKPOINTS)
            report = await api.find(f"{OWN}/jobs/{job_id}/report")
        is_first = after is None
        return page(request, api, "job_results.html", job=job, checkpoints=found, report=report, is_first=is_first)

    return router
