"""A receiver of traces on this machine.

with receiver() as traces:
    ...                       # settings: traces=traces.address
assert "job.tend" in {one.name for one in traces.spans}
"""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Receiver(ThreadingHTTPServer):
    """Keeps the spans that it got, and the roles of the processes that sent them."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiving)
        self.spans: list[Any] = []
        self.roles: set[str] = set()
        self.came = threading.Condition()

    @property
    def address(self) -> str:
        """Where traces are sent."""
        return f"http://127.0.0.1:{self.server_port}/v1/traces"

    def take(self, body: bytes) -> None:
        """Keep what was sent."""
        with self.came:
            for group in ExportTraceServiceRequest.FromString(body).resource_spans:
                named = {one.key: one.value.string_value for one in group.resource.attributes}
                self.roles.add(named["service.instance.role"])
                self.spans += [one for part in group.scope_spans for one in part.spans]
            self.came.notify_all()

    def wait_for(self, name: str, timeout_seconds: float) -> bool:
        """Wait until a span of this name has come."""
        with self.came:
            return self.came.wait_for(lambda: name in {one.name for one in self.spans}, timeout_seconds)


class _Receiving(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.take(gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver that listens within the block."""
    made = Receiver()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.shutdown()
        thread.join()
        made.server_close()
