"""The application: every room's paths under every prefix that clients use."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text

from tunesmith.service.audit.router import audit_router
from tunesmith.service.batches.router import batches_router
from tunesmith.service.catalog.router import catalog_router
from tunesmith.service.chat.router import azure_router, chat_router, classify_router
from tunesmith.service.context import Context, InContext
from tunesmith.service.deployments.router import deployments_router
from tunesmith.service.edge import edge
from tunesmith.service.engines.router import engines_router
from tunesmith.service.errors import handle_errors
from tunesmith.service.evaluations.router import evaluations_router
from tunesmith.service.files.router import file_checks_router, files_router
from tunesmith.service.fine_tuning.own_router import jobs_router
from tunesmith.service.fine_tuning.router import fine_tuning_router, permissions_router
from tunesmith.service.models.router import models_router
from tunesmith.service.observing.router import observe
from tunesmith.service.projects.people_router import members_router, users_router
from tunesmith.service.projects.router import keys_router, projects_router
from tunesmith.service.registry.router import registry_router
from tunesmith.service.sessions.router import openid_router, sessions_router
from tunesmith.service.texts import require_texts
from tunesmith.service.unsupported.router import unsupported_router
from tunesmith.service.uploads.router import uploads_router
from tunesmith.service.usage.router import usage_router
from tunesmith.service.web.router import web_router
from tunesmith.service.webhooks.router import webhooks_router

# OpenAI's clients, Azure's newer and older ones. The first is the one that is documented.
PREFIXES = ("/v1", "/openai/v1", "/openai")
OWN_PREFIX = "/tunesmith/v1"

Router = Callable[[], APIRouter]
# Of OpenAI's contract.
OPENAI: tuple[Router, ...] = (
    chat_router,
    fine_tuning_router,
    permissions_router,
    unsupported_router,
    files_router,
    uploads_router,
    batches_router,
    models_router,
)
# Beyond it.
OWN: tuple[Router, ...] = (
    projects_router,
    members_router,
    users_router,
    keys_router,
    sessions_router,
    openid_router,
    catalog_router,
    jobs_router,
    classify_router,
    engines_router,
    usage_router,
    audit_router,
    file_checks_router,
    deployments_router,
    registry_router,
    evaluations_router,
    webhooks_router,
)
# With prefixes of their own.
WHOLE: tuple[Router, ...] = (azure_router, web_router)


def make_app(context: Context) -> FastAPI:
    """The application over a context.

    Args:
        context: Settings, database and storage; the tables are there already.
    """
    app = FastAPI(
        title="Tunesmith",
        version="1",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        dependencies=[Depends(require_texts)],
    )
    app.state.context = context
    handle_errors(app)
    for at, prefix in enumerate(PREFIXES):
        for router in OPENAI:
            app.include_router(router(), prefix=prefix, include_in_schema=at == 0)
    for router in OWN:
        app.include_router(router(), prefix=OWN_PREFIX)
    for router in WHOLE:
        app.include_router(router())
    app.include_router(_probes())
    edge(app, context)
    observe(app, context)
    return app


def _probes() -> APIRouter:
    """For load balancers: whether the process lives, and whether it can work."""
    router = APIRouter(include_in_schema=False)

    @router.get("/health")
    async def health() -> dict[str, str]:
        # In the loop itself: it answers also while all threads are taken.
        return {"status": "ok"}

    @router.get("/ready", response_model=None)
    def ready(context: InContext) -> Response:
        with context.database.read() as connection:
            connection.execute(text("SELECT 1"))
        return JSONResponse({"status": "ready"})

    return router
