"""Deployments of this machine: `tunesmith serve` in a process of its own, kept alive by another.

    .deployments/NAME/serving.json     what is served, where, and with whose key; never the key
    .deployments/NAME/launch.json      the server's process; in keeper/ that of the keeper
    .deployments/NAME/server.log       what it printed
    .deployments/NAME/given_up.json    why it is not started any more

The keeper (:mod:`tunesmith.executors.local.keeper`) starts a server that died again. It is started with the deployment,
and again by the next command that looks where it is gone.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx
import orjson
import psutil
from pydantic import Field

from tunesmith.errors import RunError, UsageError
from tunesmith.executors.deploying import Endpoint, EndpointStatus
from tunesmith.executors.local.worker import LAUNCH, launched_process
from tunesmith.executors.protocol import Handle
from tunesmith.recipe.parts import Part, Whole
from tunesmith.runs.atomic import read_json, remove_path, telling_output_errors, write_json
from tunesmith.runs.lease import lock

FOLDER = ".deployments"
SERVING, LOG, GIVEN_UP, STOP = "serving.json", "server.log", "given_up.json", "stop"
KEEPER, KEEPER_LOCK = "keeper", "keeper.lock"
# The variable that `tunesmith serve` takes its key from.
KEY_VARIABLE = "TUNESMITH_API_KEY"
_ASK_SECONDS = 2.0
_STOP_SECONDS = 70.0
_TURN_SECONDS = 0.05
_TAIL_BYTES, _TAIL_LINES = 8_192, 5


class LocalServingSettings(Part):
    """Where a server of this machine listens, and who may ask."""

    name: Literal["local"] = "local"
    host: str = Field("127.0.0.1", min_length=1, description="The address to listen on.")
    port: Whole = Field(0, ge=0, le=65_535, description="The port; 0: a free one, which the deployment then keeps.")
    keys: str | None = Field(None, min_length=1, description="A file of keys that let in, a line name=key for each.")


@dataclass(frozen=True)
class _Place:
    """The folder of one deployment."""

    folder: Path

    @property
    def serving(self) -> dict[str, Any] | None:
        """What is served; None where there is no such deployment."""
        try:
            found: dict[str, Any] = read_json(self.folder / SERVING)
        except (FileNotFoundError, orjson.JSONDecodeError):
            return None
        return found


class LocalServing:
    """See :class:`tunesmith.executors.deploying.Deployer`."""

    def __init__(self, runs_folder: Path, settings: LocalServingSettings) -> None:
        self._runs = runs_folder
        self._settings = settings

    def deploy(self, endpoint: Endpoint) -> Handle:
        """Start the server, or find the one of the same key.

        Raises:
            UsageError: ``usage.deployment``: files of requests, or another number of servers than one.
            RunError: ``deployment.exists``: another deployment has the name; ``deployment.port``: the port is taken.
            OutputError: The folder cannot be written.
        """
        _require_possible(endpoint)
        place = self._place(endpoint.name)
        there = place.serving
        if there is None:
            port = self._settings.port or _free_port(self._settings.host)
            _require_free(self._settings.host, port)
            with telling_output_errors(place.folder):
                place.folder.mkdir(parents=True, exist_ok=True)
            write_json(place.folder / SERVING, self._content(endpoint, port))
        elif there["key"] != endpoint.key:
            raise RunError(
                "another deployment has this name",
                code="deployment.exists",
                value=endpoint.name,
                hint=f"choose another --name, or `tunesmith deployments delete {endpoint.name}`",
            )
        # Whoever asks once more wants it tried once more.
        (place.folder / GIVEN_UP).unlink(missing_ok=True)
        self._ensure_keeper(place)
        return {"deployment": endpoint.name}

    def status(self, handle: Handle) -> EndpointStatus:
        """How it is; a server that died with its keeper is started again.

        A server that was made with TUNESMITH_API_KEY is only started by a command that has that variable: it must not
        come back open to everybody.
        """
        place = self._place(str(handle["deployment"]))
        serving = place.serving
        if serving is None:
            return EndpointStatus("lost", reason="its folder is gone")
        if (place.folder / GIVEN_UP).exists():
            reason = str(read_json(place.folder / GIVEN_UP)["reason"])
            return EndpointStatus("failed", reason=f"{reason}{_tail(place.folder / LOG)}")
        if not self._ensure_keeper(place):
            return EndpointStatus("stopped", reason=f"it asks for a key, and {KEY_VARIABLE} is not set here")
        process = launched_process(place.folder)
        if process is None:
            return EndpointStatus("starting", "the server is being started")
        base = base_address(serving)
        words = f"process {process.pid}"
        if _answers(base):
            return EndpointStatus("ready", words, f"{base}/v1")
        return EndpointStatus("starting", f"{words}, loading")

    def delete(self, handle: Handle) -> None:
        """End the server, which finishes the answers that are under way, and remove its folder."""
        place = self._place(str(handle["deployment"]))
        if not place.folder.is_dir():
            return
        with telling_output_errors(place.folder):
            (place.folder / STOP).touch()
        end = time.monotonic() + _STOP_SECONDS
        asked: set[int] = set()
        with (place.folder / KEEPER_LOCK).open("ab") as file:
            while True:
                process = launched_process(place.folder)
                # With the lock nobody starts it again; a keeper that lives has yet to see that it is to stop.
                if process is None and lock(file):
                    break
                if process is not None and time.monotonic() > end:
                    _signal(process.kill)
                elif process is not None and process.pid not in asked:
                    # Once: a second time would cut the answers that are under way.
                    asked.add(process.pid)
                    _signal(process.terminate)
                time.sleep(_TURN_SECONDS)
        remove_path(place.folder)

    def _content(self, endpoint: Endpoint, port: int) -> dict[str, Any]:
        keys = None if self._settings.keys is None else str(Path(self._settings.keys).expanduser().resolve())
        return {
            "format": 1,
            "key": endpoint.key,
            "models": dict(endpoint.models),
            "host": self._settings.host,
            "port": port,
            "keys": keys,
            "asks_for_key": keys is None and bool(os.environ.get(KEY_VARIABLE)),
            "runs": str(self._runs.absolute()),
            "environment": dict(endpoint.environment),
        }

    def _place(self, name: str) -> _Place:
        return _Place(self._runs.absolute() / FOLDER / name)

    def _ensure_keeper(self, place: _Place) -> bool:
        """Start the process that keeps the server, unless one lives; False where its key is not here."""
        with telling_output_errors(place.folder), (place.folder / KEEPER_LOCK).open("ab") as file:
            if not lock(file):
                return True
        if launched_process(place.folder / KEEPER) is not None:
            # It is on its way to the lock.
            return True
        serving = place.serving
        if serving is None or (serving["asks_for_key"] and not os.environ.get(KEY_VARIABLE)):
            return False
        with telling_output_errors(place.folder), (place.folder / LOG).open("ab") as log:
            keeper = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunesmith.executors.local.keeper", str(place.folder)],
                env=_environment(serving),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=place.folder,
                start_new_session=True,
            )
        note_launch(place.folder / KEEPER, keeper.pid)
        # It outlives this process, which does not wait for it.
        keeper.returncode = 0
        return True


def note_launch(folder: Path, pid: int) -> None:
    """Write down a process that was started, for :func:`tunesmith.executors.local.worker.launched_process`."""
    with suppress(psutil.Error):
        started = psutil.Process(pid).create_time()
        with telling_output_errors(folder):
            folder.mkdir(exist_ok=True)
        write_json(folder / LAUNCH, {"host": socket.gethostname(), "pid": pid, "started": started})


def serving_command(serving: Mapping[str, Any]) -> list[str]:
    """The command of the server."""
    models = [f"{name}={model}" for name, model in serving["models"].items()]
    command = [sys.executable, "-P", "-m", "tunesmith.cli", "serve", *models]
    command += ["--host", serving["host"], "--port", str(serving["port"]), "--runs", serving["runs"]]
    return [*command, "--of-deployment", *(["--keys", serving["keys"]] if serving["keys"] else [])]


def base_address(serving: Mapping[str, Any]) -> str:
    """Where the server answers; one that listens everywhere is asked on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving["host"], serving["host"])  # noqa: S104
    return f"http://{f'[{host}]' if ':' in host else host}:{serving['port']}"


def _environment(serving: Mapping[str, Any]) -> dict[str, str]:
    """What the server is told; a key that it was not made with must not lock its users out."""
    given = {**os.environ, **serving["environment"]}
    if not serving["asks_for_key"]:
        given.pop(KEY_VARIABLE, None)
    return given


def _require_possible(endpoint: Endpoint) -> None:
    if endpoint.kind == "batch":
        raise UsageError(
            "this machine answers files of requests by a command, not by a deployment",
            code="usage.deployment",
            value="batch",
            hint="tunesmith batch IN.jsonl OUT.jsonl --model MODEL",
        )
    if endpoint.replicas != 1:
        raise UsageError(
            "a deployment of this machine is one server", code="usage.deployment", value=f"{endpoint.replicas} replicas"
        )


def _signal(send: Callable[[], None]) -> None:
    with suppress(psutil.Error):
        send()


def _free_port(host: str) -> int:
    with closing(socket.socket(_family(host))) as taken:
        taken.bind((host, 0))
        return int(taken.getsockname()[1])


def _require_free(host: str, port: int) -> None:
    with closing(socket.socket(_family(host))) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError as error:
            raise RunError(
                "the server cannot listen here",
                code="deployment.port",
                value=f"{host}:{port}: {error.strerror}",
                hint="choose another port, or leave it out for a free one",
            ) from error


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _answers(base: str) -> bool:
    try:
        return httpx.get(f"{base}/ready", timeout=_ASK_SECONDS, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _tail(log: Path) -> str:
    try:
        lines = log.read_bytes()[-_TAIL_BYTES:].decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:])
