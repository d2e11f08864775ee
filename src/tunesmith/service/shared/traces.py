"""Traces by OpenTelemetry, sent where the settings say; without that nothing of it is loaded and nothing is traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tunesmith.service.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider

# A query or an answer there holds what signs somebody in.
_UNTRACED = "openid,metrics,health,ready"
_provider: TracerProvider | None = None


def start_traces(settings: Settings, role: str) -> None:
    """Begin to send traces of this process; once, and only if the settings name a place.

    Args:
        settings: The service's; ``traces`` is the address of an OTLP receiver, such as
            ``http://127.0.0.1:4318/v1/traces``.
        role: What the process is: ``api``, ``dispatcher``, ``engines``.
    """
    global _provider  # noqa: PLW0603
    if settings.traces is None or _provider is not None:
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    _provider = TracerProvider(resource=Resource.create({"service.name": "tunesmith", "service.instance.role": role}))
    _provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(settings.traces)))


def stop_traces() -> None:
    """Send what has not been sent, and end."""
    global _provider  # noqa: PLW0603
    if _provider is not None:
        _provider.shutdown()
        _provider = None


@contextmanager
def span(name: str, attributes: Mapping[str, str | int | float] | None = None) -> Iterator[None]:
    """Trace what happens in the block, if this process sends traces.

    Args:
        name: What it is, such as ``job.submit``; not of which thing.
        attributes: Of which thing; no secrets and no text of a user.
    """
    if _provider is None:
        yield
        return
    with _provider.get_tracer("tunesmith").start_as_current_span(name, attributes=dict(attributes or {})):
        yield


def trace_requests(app: FastAPI, settings: Settings) -> None:
    """Trace an application's requests by their routes, if the settings name a place for traces."""
    if settings.traces is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    start_traces(settings, "api")
    FastAPIInstrumentor.instrument_app(
        app, tracer_provider=_provider, excluded_urls=_UNTRACED, exclude_spans=["receive", "send"]
    )
