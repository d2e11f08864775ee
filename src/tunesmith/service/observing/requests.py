"""Counting requests by route and status: those of all processes where they share a folder, else of this one.

prometheus_client counts into files of the folder that PROMETHEUS_MULTIPROC_DIR names, one for each process.
"""

from __future__ import annotations

import os
import re
import time
from functools import cache

from fastapi.routing import iter_route_contexts
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.multiprocess import MultiProcessCollector
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tunesmith.service.settings import COUNTS_VARIABLE

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestNumbers:
    """Numbers of requests; names of things in their paths are not among the labels.

    ``told`` is what is asked for them: it has the sums over the processes that share a folder.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self.told = registry
        if COUNTS_VARIABLE in os.environ:
            self.told = CollectorRegistry()
            MultiProcessCollector(self.told)  # type: ignore[no-untyped-call]
        labels = ("method", "route", "status")
        self.count = Counter("tunesmith_requests", "Requests answered", labels, registry=registry)
        self.seconds = Histogram(
            "tunesmith_request_seconds",
            "Seconds from a request to the last byte of its answer",
            ("method", "route"),
            buckets=_SECONDS,
            registry=registry,
        )
        self._paths: list[str] = []

    def route_of(self, scope: Scope) -> str:
        """The template of a request's route: there are as many labels as routes, whatever is asked for."""
        chosen = getattr(scope.get("route"), "path", None)
        if chosen is None:
            return "none"
        if not self._paths:
            self._paths = [one.path for one in iter_route_contexts(scope["app"].routes) if one.path]
        # The route knows its path without the prefix under which it was put.
        found = (path for path in self._paths if path.endswith(chosen) and _pattern(path).match(scope["path"]))
        return next(found, "none")


class Measured:
    """Counts what goes through.

    Args:
        app: What answers.
        numbers: Where to count.
    """

    def __init__(self, app: ASGIApp, numbers: RequestNumbers) -> None:
        self._app = app
        self._numbers = numbers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer and count."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, answer)
        finally:
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = self._numbers.route_of(scope)
            self._numbers.count.labels(method, route, str(status)).inc()
            self._numbers.seconds.labels(method, route).observe(time.perf_counter() - started)


@cache
def _pattern(path: str) -> re.Pattern[str]:
    return compile_path(path)[0]
