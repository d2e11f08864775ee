"""What a server tells Prometheus of itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from tunesmith.inference.requests import Request

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.waiting = Gauge("tunesmith_requests_waiting", "Requests that wait for their turn", registry=self.registry)
        self.running = Gauge("tunesmith_requests_running", "Requests being answered", registry=self.registry)
        self.requests = Counter(
            "tunesmith_requests", "Requests by model and how they ended", ["model", "end"], registry=self.registry
        )
        self.prompt_tokens = Counter(
            "tunesmith_prompt_tokens", "Tokens of prompts by model", ["model"], registry=self.registry
        )
        self.written_tokens = Counter(
            "tunesmith_completion_tokens", "Tokens written by model", ["model"], registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "tunesmith_time_to_first_token_seconds",
            "Seconds from a request's arrival to its first token",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.request_seconds = Histogram(
            "tunesmith_request_seconds",
            "Seconds from a request's arrival to its end",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        loaded = Gauge("tunesmith_models_loaded", "Models and adapters in memory", registry=self.registry)
        self._shelves: list[Callable[[], Sequence[str]]] = []
        loaded.set_function(lambda: sum(len(names()) for names in self._shelves))
        self._arrived: dict[int, float] = {}
        self._lock = threading.Lock()

    def watch(self, names: Callable[[], Sequence[str]]) -> None:
        """Count what a shelf has loaded; ``names`` gives it, from any thread."""
        self._shelves.append(names)

    def arrived(self, request: Request) -> None:
        """A request was taken in; its clock starts."""
        with self._lock:
            self._arrived[id(request)] = time.perf_counter()

    def began(self, request: Request) -> None:
        """A request's turn has come."""
        self.prompt_tokens.labels(request.model).inc(len(request.prompt))

    def wrote(self, request: Request, tokens: int, *, first: bool) -> None:
        """Tokens were written, the first of the request among them or not."""
        self.written_tokens.labels(request.model).inc(tokens)
        started = self._arrived.get(id(request))
        if first and started is not None:
            self.first_token_seconds.labels(request.model).observe(time.perf_counter() - started)

    def ended(self, request: Request, how: str) -> None:
        """A request that began has ended: answered, cancelled or failed."""
        self.requests.labels(request.model, how).inc()
        with self._lock:
            started = self._arrived.pop(id(request), None)
        if started is not None:
            self.request_seconds.labels(request.model).observe(time.perf_counter() - started)

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
