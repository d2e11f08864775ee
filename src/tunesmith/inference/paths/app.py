"""The HTTP side of the inference process: OpenAI's paths over the served models, probes and metrics."""

from __future__ import annotations

import threading
import time

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import ASGIApp

from tunesmith.inference.catalog import ModelCatalog
from tunesmith.inference.classifier import Classifier
from tunesmith.inference.embedder import Embedder
from tunesmith.inference.failures import handle_errors
from tunesmith.inference.metrics import Metrics
from tunesmith.inference.paths.access import guarded
from tunesmith.inference.paths.asking import Desk, tenant_of
from tunesmith.inference.paths.chat import chat_router
from tunesmith.inference.paths.completion import completion_router
from tunesmith.inference.paths.labels import label_router
from tunesmith.inference.requests import Engine
from tunesmith.inference.shelf import Shelf
from tunesmith.wire.chat import ModelList, ModelObject
from tunesmith.wire.serving import STOP_PATH


def make_app(
    catalog: ModelCatalog,
    engine: Engine,
    shelf: Shelf[Classifier | Embedder],
    metrics: Metrics,
    *,
    keys: dict[str, str],
    ready: threading.Event,
) -> ASGIApp:
    """The application.

    Args:
        catalog: The models that can be named.
        engine: Answers for those that write.
        shelf: Opens the others.
        metrics: What ``/metrics`` shows.
        keys: As :func:`tunesmith.inference.paths.access.guarded` takes them.
        ready: Set once a first answer was given.
    """
    app = FastAPI(title="Tunesmith inference", docs_url=None, redoc_url=None, openapi_url=None)
    started = int(time.time())
    handle_errors(app)
    desk = Desk(engine, metrics)
    app.include_router(chat_router(catalog, desk))
    app.include_router(completion_router(catalog, desk))
    app.include_router(label_router(catalog, shelf))

    @app.delete(f"{STOP_PATH}/{{name}}", status_code=204, response_model=None)
    async def stop(name: str, http: Request) -> Response:
        return Response(status_code=204 if desk.stop(tenant_of(http), name) else 404)

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", response_model=None)
    async def readiness() -> Response:
        status = "ready" if ready.is_set() else "loading"
        return JSONResponse({"status": status}, status_code=200 if ready.is_set() else 503)

    @app.get("/metrics")
    async def metrics_text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/v1/models")
    async def models() -> ModelList:
        return ModelList(data=[ModelObject(id=name, created=started) for name in list(catalog.entries)])

    # Names may have slashes.
    @app.get("/v1/models/{name:path}")
    def model(name: str) -> ModelObject:
        catalog.find(name)
        return ModelObject(id=name, created=started)

    return guarded(app, keys)
