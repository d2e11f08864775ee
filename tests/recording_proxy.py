"""A proxy on the loopback address that passes requests on and keeps what was said, whatever client said it.

with recording(service.root) as proxy:
    ... a client with base_url=f"{proxy.url}/v1" ...
proxy.exchanges                    # method, path, query, request's JSON, status, answer's JSON or streamed chunks

``losing`` names requests, such as "POST /v1/files": the first answer to each never arrives, and its connection breaks.
"""

from __future__ import annotations

import base64
import json
import threading
from array import array
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from openapi import Contract

_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-length", "host", "date", "server"})
_PREFIXES = ("/openai/v1", "/openai", "/v1")
# What a stream is made of, by the last part of its path.
_CHUNKS = {"chat/completions": "CreateChatCompletionStreamResponse", "completions": "CreateCompletionResponse"}


@dataclass(frozen=True)
class Exchange:
    """A request and its answer."""

    method: str
    path: str
    query: str
    asked: Any
    status: int
    headers: dict[str, str]
    answer: Any
    chunks: tuple[Any, ...] = ()

    @property
    def plain_path(self) -> str:
        """The path as the contract names it: without prefix and deployment."""
        path = next((self.path.removeprefix(one) for one in _PREFIXES if self.path.startswith(one)), self.path)
        if path.startswith("/deployments/"):
            path = "/" + path.split("/", 3)[3]
        return path


@dataclass
class Proxy:
    """A running proxy."""

    url: str
    exchanges: list[Exchange] = field(default_factory=list)

    def problems(self, contract: Contract) -> list[str]:
        """All that does not fit the contract, in words."""
        return [f"{one.method} {one.path}: {words}" for one in self.exchanges for words in _problems(contract, one)]


@contextmanager
def recording(target: str, losing: Collection[str] = ()) -> Iterator[Proxy]:
    """A proxy before a server for the time of the block."""
    to_lose = set(losing)
    client = httpx.Client(base_url=target, timeout=120.0, trust_env=False)
    exchanges: list[Exchange] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = _body(self)
            given = [(key, value) for key, value in self.headers.items() if key.lower() not in _HOP]
            with client.stream(self.command, self.path, content=body, headers=given) as answer:
                asked = f"{self.command} {self.path}"
                pieces = self._lose(answer) if asked in to_lose else self._answer(answer)
                to_lose.discard(asked)
            exchanges.append(_exchange(self, body, answer, b"".join(pieces)))

        do_GET = do_POST = do_DELETE = _pass

        def _lose(self, answer: httpx.Response) -> list[bytes]:
            pieces = list(answer.iter_bytes())
            self.close_connection = True
            return pieces

        def _answer(self, answer: httpx.Response) -> list[bytes]:
            self.send_response(answer.status_code)
            for key, value in answer.headers.items():
                if key.lower() not in _HOP | {"content-encoding"}:
                    self.send_header(key, value)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            pieces = []
            for piece in answer.iter_bytes():
                if piece:
                    pieces.append(piece)
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            return pieces

        def log_message(self, *_: Any) -> None:
            """Nothing on stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    try:
        yield Proxy(f"http://127.0.0.1:{server.server_port}", exchanges)
    finally:
        server.shutdown()
        server.server_close()
        client.close()


def _body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("transfer-encoding", "").lower() != "chunked":
        return handler.rfile.read(int(handler.headers.get("content-length", 0)))
    whole = b""
    while size := int(handler.rfile.readline().split(b";")[0], 16):
        whole += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return whole


def _exchange(handler: BaseHTTPRequestHandler, body: bytes, answer: httpx.Response, said: bytes) -> Exchange:
    path, _, query = handler.path.partition("?")
    kind = answer.headers.get("content-type", "")
    chunks: tuple[Any, ...] = ()
    if kind.startswith("text/event-stream"):
        lines = [line.removeprefix("data: ") for line in said.decode().splitlines() if line.startswith("data: ")]
        chunks = tuple(json.loads(line) for line in lines if line != "[DONE]")
    return Exchange(
        handler.command,
        path,
        query,
        json.loads(body) if handler.headers.get("content-type", "").startswith("application/json") and body else None,
        answer.status_code,
        dict(answer.headers),
        json.loads(said) if kind.startswith("application/json") else None,
        chunks,
    )


def _problems(contract: Contract, exchange: Exchange) -> list[str]:
    found = [] if exchange.headers.get("x-request-id", "").startswith("req_") else ["the answer has no x-request-id"]
    if exchange.status >= 400:
        error = exchange.answer.get("error") if isinstance(exchange.answer, dict) else None
        whole = isinstance(error, dict) and {"message", "type", "param", "code"} <= set(error)
        return found if whole else [*found, f"not an error of the contract: {exchange.answer}"]
    path = exchange.plain_path
    if path.endswith("/content"):
        return found
    if exchange.chunks:
        name = _CHUNKS[path.removeprefix("/")]
        return found + [words for chunk in exchange.chunks for words in contract.problems_of_named(name, chunk)]
    operation = contract.find(exchange.method, path)
    if operation is None:
        return [*found, "the contract has no such operation"]
    problems = contract.problems_of_answer(operation.answer, _with_numbers(exchange.asked, exchange.answer))
    # `paused` is in the contract's own example and not in its list.
    return found + [words for words in problems if "'paused' is not one of" not in words]


def _with_numbers(asked: Any, answer: Any) -> Any:
    """An answer with vectors as numbers: clients ask for base64, of which the contract tells in words alone."""
    if not isinstance(asked, dict) or asked.get("encoding_format") != "base64":
        return answer
    data = [one | {"embedding": array("f", base64.b64decode(one["embedding"])).tolist()} for one in answer["data"]]
    return answer | {"data": data}
