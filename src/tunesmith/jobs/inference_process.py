"""Start the inference process, talk to it, and be sure that it ends."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import WorkerError
from tunesmith.executors.environment import compute_environment
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.wire.client import InferenceClient
from tunesmith.wire.serving import ServedModel, Service

READY_FILE = "ready.json"
_POLL_SECONDS = 0.05
_STOP_SECONDS = 10.0
_TAIL_LINES = 20


@dataclass(frozen=True)
class InferenceProcess:
    """A running inference process: its client, the names it serves, where it listens."""

    client: InferenceClient
    names: tuple[str, ...]
    base_url: str
    token: str
    pid: int


@contextmanager
def start_inference(
    models: Sequence[ServedModel], *, timeout_seconds: float = 300.0, rows_at_once: int = 32
) -> Iterator[InferenceProcess]:
    """Serve models in a process of its own on the loopback address while the block runs.

    Args:
        models: What is served; each base is loaded once.
        timeout_seconds: How long loading may take.
        rows_at_once: The most answers that are written at once.

    Raises:
        WorkerError: The process ended or was not ready in time; its last lines are in the error.
    """
    token = secrets.token_urlsafe(32)
    with tempfile.TemporaryDirectory(prefix="tunesmith-inference-") as scratch:
        folder = Path(scratch)
        write_service(folder, Service(tuple(models), {"starter": token}, rows_at_once))
        log = folder / "stderr.txt"
        with log.open("wb") as errors:
            process = subprocess.Popen(
                [*serving_command(folder), "--parent-pid", str(os.getpid())],
                env=compute_environment(),
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                # Ctrl-C in the terminal interrupts an answer, not the process that gives it.
                start_new_session=True,
            )
        try:
            ready = _wait_until_ready(process, folder / READY_FILE, log, timeout_seconds)
            base_url = f"http://127.0.0.1:{ready['port']}"
            with InferenceClient(base_url, token) as client:
                served = tuple(client.models())
                yield InferenceProcess(client, served, base_url, token, process.pid)
        finally:
            _stop(process)


def write_service(folder: Path, service: Service) -> None:
    """Write what a server is told, keys included, into a folder that is this user's alone."""
    write_json(folder / "service.json", service.to_json())


def serving_command(folder: Path) -> list[str]:
    """The command of a process that serves what ``service.json`` in a folder says."""
    # -P: a file of the user's folder that is named like a library must not be run in its place.
    command = [sys.executable, "-P", "-m", "tunesmith.inference", "--service", str(folder / "service.json")]
    return [*command, "--ready-file", str(folder / READY_FILE)]


def _wait_until_ready(
    process: subprocess.Popen[bytes], ready_file: Path, log: Path, timeout_seconds: float
) -> dict[str, object]:
    deadline = time.monotonic() + timeout_seconds
    while not ready_file.exists():
        code = process.poll()
        if code is not None:
            raise WorkerError(
                f"the inference process ended with code {code}", code="inference.not_started", value=_tail(log)
            )
        if time.monotonic() > deadline:
            raise WorkerError(
                f"the inference process was not ready after {timeout_seconds:g} s",
                code="inference.not_ready",
                value=_tail(log),
                hint="a large model needs longer to load; allow more time",
            )
        time.sleep(_POLL_SECONDS)
    ready: dict[str, object] = read_json(ready_file)
    return ready


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:]) or "it printed nothing"


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
