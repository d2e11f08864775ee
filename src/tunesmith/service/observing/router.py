"""The path of numbers, and what is put around an application to make them."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tunesmith.service.auth.gate import needs_operator
from tunesmith.service.context import Context, InContext
from tunesmith.service.observing.gauges import Gauges
from tunesmith.service.observing.requests import Measured, RequestNumbers
from tunesmith.service.shared.traces import trace_requests


def observe(app: FastAPI, context: Context) -> None:
    """Count an application's requests, tell of them under ``/metrics``, and trace them where the settings say so."""
    numbers = RequestNumbers()
    numbers.told.register(Gauges(context))
    app.include_router(_metrics_router(numbers))
    app.add_middleware(Measured, numbers=numbers)
    trace_requests(app, context.settings)


def _metrics_router(numbers: RequestNumbers) -> APIRouter:
    router = APIRouter(include_in_schema=False)

    @router.get("/metrics")
    def metrics(request: Request, context: InContext) -> Response:
        # An address says nothing of who asks: behind a proxy of this machine everybody has this machine's.
        if not context.settings.metrics_without_key:
            needs_operator(request)
        return Response(generate_latest(numbers.told), media_type=CONTENT_TYPE_LATEST)

    return router
