"""The application that Ray Serve runs: each replica is ``tunesmith serve`` as a process, behind Serve's proxy.

A Serve config names it ``tunesmith.launchers.ray_serve:application``. Serve starts, counts and replaces replicas and
leads requests to them; loading, batching and OpenAI's paths are the server's, whose process is asked over loopback.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from threading import Thread
from typing import IO, Any

import httpx
from ray import serve
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tunesmith.errors import UsageError, WorkerError

_KEY_VARIABLE = "TUNESMITH_API_KEY"
_COMMAND = [sys.executable, "-P", "-c", "from tunesmith.cli.main import main; main()", "serve", "--port", "0"]
_READY = re.compile(r"(http://\S+)/v1 answers")
# The server has a queue of its own, in which requests of all users get their turn; Serve would let five through.
_MOST_AT_ONCE = 1024
# What concerns one connection, and is not handed on.
_HOP_BY_HOP = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "upgrade"})
_STOP_SECONDS = 10.0
_CONNECT_SECONDS = 10.0


class Server:
    """One replica.

    Args:
        models: What answers, by the names that requests use.
        anybody: Whether it answers without a key.

    Raises:
        UsageError: ``usage.no_key``: the replica's environment has no key.
        WorkerError: The server did not start; its lines are in the replica's log.
    """

    def __init__(self, models: Mapping[str, str], *, anybody: bool) -> None:
        if not anybody and not os.environ.get(_KEY_VARIABLE):
            raise UsageError(
                "Serve's proxy can be reached from other machines, and no key is asked for",
                code="usage.no_key",
                hint=f"start the cluster with {_KEY_VARIABLE} in its environment, or allow anybody",
            )
        named = [f"{name}={model}" for name, model in models.items()]
        self._process = subprocess.Popen([*_COMMAND, *named], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        base_url = _base_url(self._process.stdout)
        if base_url is None:
            raise WorkerError(
                "the server did not start", code="inference.not_started", value=f"code {self._process.wait()}"
            )
        # Its pipe must not fill.
        Thread(target=_print_on, args=(self._process.stdout,), name="server's lines", daemon=True).start()
        # An answer may wait in the server's queue for as long as Serve lets it.
        self._client = httpx.AsyncClient(base_url=base_url, timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS))

    def check_health(self) -> None:
        """Asked by Serve again and again, which replaces a replica that fails.

        Raises:
            WorkerError: The server has ended.
        """
        code = self._process.poll()
        if code is not None:
            raise WorkerError(f"the server ended with code {code}", code="inference.ended")

    async def __call__(self, request: Request) -> Response:
        """Hand a request on, and the answer back piece by piece."""
        path = request.scope["path"].removeprefix(request.scope.get("root_path") or "")
        url = httpx.URL(path=path or "/", query=request.url.query.encode())
        asked = self._client.build_request(
            request.method, url, headers=_handed_on(request.headers), content=await request.body()
        )
        answer = await self._client.send(asked, stream=True)

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in answer.aiter_raw():
                    yield piece
            finally:
                await answer.aclose()

        return StreamingResponse(pieces(), answer.status_code, _handed_on(answer.headers))

    def __del__(self) -> None:
        process = getattr(self, "_process", None)
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


def application(arguments: dict[str, Any]) -> serve.Application:
    """Build the application out of the ``args`` of a Serve config: ``models``, and ``anybody``."""
    deployment = serve.deployment(name="server", max_ongoing_requests=_MOST_AT_ONCE)(Server)
    return deployment.bind(dict(arguments["models"]), anybody=bool(arguments.get("anybody", False)))


def _base_url(lines: IO[str]) -> str | None:
    """Where the server listens, as it says it; None where it ends before that."""
    for line in lines:
        print(line, end="", flush=True)
        found = _READY.match(line)
        if found is not None:
            return found[1]
    return None


def _print_on(lines: IO[str]) -> None:
    for line in lines:
        print(line, end="", flush=True)


def _handed_on(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in _HOP_BY_HOP}
