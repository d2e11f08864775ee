"""What the client says when the other side is not what it should be."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tunesmith.errors import NetworkError, WorkerError
from tunesmith.wire.client import InferenceClient

QUESTION = [{"role": "user", "content": "hi"}]
CHUNK = (
    '{"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    '"choices":[{"index":0,"delta":{"content":"hal"},"finish_reason":null}]}'
)


@pytest.fixture
def serve():
    """Start a server that gives one fixed answer to every POST; returns its address."""
    servers = []

    def start(status: int, body: str) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format, *args):  # noqa: A002
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with InferenceClient(f"http://127.0.0.1:{port}", "t") as client, pytest.raises(NetworkError) as caught:
        client.chat(QUESTION, "m")
    assert str(port) in str(caught.value)


def test_a_stream_that_breaks_off_is_an_error_after_its_pieces(serve):
    with InferenceClient(serve(200, f"data: {CHUNK}\n\n"), "t") as client:
        pieces = client.stream(QUESTION, "m")
        assert next(pieces) == "hal"
        with pytest.raises(WorkerError) as caught:
            next(pieces)
    assert caught.value.code == "inference.broken_stream"


def test_an_error_inside_a_stream_is_raised(serve):
    failed = '{"error":{"message":"out of memory","type":"server_error","param":null,"code":null}}'
    address = serve(200, f"data: {CHUNK}\n\ndata: {failed}\n\n")
    with InferenceClient(address, "t") as client, pytest.raises(WorkerError, match="out of memory"):
        list(client.stream(QUESTION, "m"))


@pytest.mark.parametrize(("status", "body"), [(502, "<html>"), (200, "{}")])
def test_answers_in_another_form(serve, status, body):
    with InferenceClient(serve(status, body), "t") as client, pytest.raises(WorkerError):
        client.chat(QUESTION, "m")
