"""The application: every room's paths under every prefix that clients use."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text

from tunesmith.service.context import Context, InContext
from tunesmith.service.edge import edge
from tunesmith.service.errors import handle_errors

# OpenAI's clients, Azure's newer and older ones. The first is the one that is documented.
PREFIXES = ("/v1", "/openai/v1", "/openai")
OWN_PREFIX = "/tunesmith/v1"

Router = Callable[[], APIRouter]
# Of OpenAI's contract.
OPENAI: tuple[Router, ...] = ()
# Beyond it.
OWN: tuple[Router, ...] = ()


def make_app(context: Context) -> FastAPI:
    """The application over a context.

    Args:
        context: Settings, database and storage; the tables are there already.
    """
    app = FastAPI(title="Tunesmith", version="1", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = context
    handle_errors(app)
    for at, prefix in enumerate(PREFIXES):
        for router in OPENAI:
            app.include_router(router(), prefix=prefix, include_in_schema=at == 0)
    for router in OWN:
        app.include_router(router(), prefix=OWN_PREFIX)
    app.include_router(_probes())
    edge(app, context)
    return app


def _probes() -> APIRouter:
    """For load balancers: whether the process lives, and whether it can work."""
    router = APIRouter(include_in_schema=False)

    @router.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/ready", response_model=None)
    def ready(context: InContext) -> Response:
        with context.database.read() as connection:
            connection.execute(text("SELECT 1"))
        return JSONResponse({"status": "ready"})

    return router
