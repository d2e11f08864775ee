"""A whole service for tests and benchmarks: `tunesmith up` as an operator starts it, in a folder of its own.

with live_service(tmp_path) as service:
    httpx.get(f"{service.base_url}/models", headers=service.headers)
    service.kill("dispatcher")              # and the keeper starts another one
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

_START_SECONDS = 120.0
_STOP_SECONDS = 120.0
_POLL_SECONDS = 0.1
_NAMED = re.compile(r"tunesmith\.service (?P<role>\w+) .*--name (?P<name>[\w-]+) ")


@dataclass
class LiveService:
    """A running service."""

    process: subprocess.Popen[str]
    base_url: str
    key: str
    data_folder: Path
    errors: Path
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """What a request needs."""
        return {"Authorization": f"Bearer {self.key}"}

    @property
    def root(self) -> str:
        """Where it listens, without a prefix."""
        return self.base_url.removesuffix("/v1")

    def client(self, prefix: str = "/v1", timeout_seconds: float = 60.0) -> httpx.Client:
        """A plain client with the administrator's key."""
        url = f"{self.root}{prefix}"
        return httpx.Client(base_url=url, headers=self.headers, timeout=timeout_seconds, trust_env=False)

    def processes(self) -> dict[str, psutil.Process]:
        """The keeper's children that live, by name."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            # What has ended has no command line any more.
            with suppress(psutil.NoSuchProcess):
                named = _NAMED.search(" ".join(child.cmdline()))
                if named is not None:
                    found[named["name"]] = child
        return found

    def kill(self, name: str) -> int:
        """Kill a process without a word; its id."""
        process = self.processes()[name]
        process.send_signal(signal.SIGKILL)
        return process.pid

    def wait_for(self, what: Callable[[], bool], seconds: float = 60.0) -> None:
        """Wait until something holds.

        Raises:
            TimeoutError: It does not; the keeper's words are told.
        """
        deadline = time.monotonic() + seconds
        while not what():
            if time.monotonic() > deadline:
                raise TimeoutError(self.words())
            time.sleep(_POLL_SECONDS)

    def words(self) -> str:
        """What the keeper and its processes said on stderr and in their logs."""
        places = [self.errors, *sorted((self.data_folder / "logs").iterdir())]
        return "\n".join(f"{path.name}: {path.read_text('utf-8', 'replace')[-2000:]}" for path in places)

    def stop(self) -> int:
        """Stop it as Ctrl-C does; the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(_STOP_SECONDS)


def start_service(
    folder: Path, *options: str, key: str | None = None, environment: Mapping[str, str] | None = None
) -> LiveService:
    """Start a service; ``key`` is the one that its first start told."""
    data = folder / "data"
    errors = folder / "up.stderr"
    command = [sys.executable, "-P", "-m", "tunesmith.cli", "up", "--data-dir", str(data), "--json"]
    with errors.open("ab") as file:
        process = subprocess.Popen(
            [*command, *(() if "--port" in options else ("--port", "0")), *options],
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
    assert process.stdout is not None
    try:
        told = _document(process)
        service = LiveService(process, told["base_url"], told["first_key"] or key or "", data, errors, told)
        ready = f"{service.root}/ready"
        service.wait_for(lambda: _answers(ready) or process.poll() is not None, _START_SECONDS)
        assert process.poll() is None, service.words()
    except BaseException:
        end_tree(process)
        raise
    return service


@contextmanager
def live_service(
    folder: Path, *options: str, key: str | None = None, environment: Mapping[str, str] | None = None
) -> Iterator[LiveService]:
    """A service for the time of the block, with whatever it has started."""
    service = start_service(folder, *options, key=key, environment=environment)
    try:
        yield service
    finally:
        end_tree(service.process)
        end_workers(service.data_folder)


def end_tree(process: subprocess.Popen[str]) -> None:
    """End a keeper in its own way, and by force what is left of it."""
    assert process.stdout is not None
    process.stdout.close()
    if process.poll() is not None:
        return
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for child in children:
        _kill(child)


def end_workers(data_folder: Path) -> None:
    """End the trainings that a service has left running: they are processes that name its data folder."""
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if process.pid != os.getpid() and any(str(data_folder) in word for word in words):
            _kill(process)


def _kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def _document(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON document that the start tells."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if line.rstrip() == "}":
            found: dict[str, Any] = json.loads(text)
            assert "base_url" in found, text
            return found
    raise AssertionError(f"the service said no more than: {text}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5.0, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
