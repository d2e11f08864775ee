"""The path of numbers, and what is put around an application to make them."""

from __future__ import annotations

import ipaddress

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tunesmith.service.auth.gate import client_of, needs_operator
from tunesmith.service.context import Context
from tunesmith.service.observing.gauges import Gauges
from tunesmith.service.observing.requests import Measured, RequestNumbers
from tunesmith.service.shared.traces import trace_requests

# With one of these the request has come through a proxy of this machine, and from anywhere.
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


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
    def metrics(request: Request) -> Response:
        if not _is_of_this_machine(request):
            needs_operator(request)
        return Response(generate_latest(numbers.told), media_type=CONTENT_TYPE_LATEST)

    return router


def _is_of_this_machine(request: Request) -> bool:
    if any(name in request.headers for name in _FORWARDED):
        return False
    try:
        return ipaddress.ip_address(client_of(request) or "").is_loopback
    except ValueError:
        return False
