"""A whole service on this machine: one port, one data folder, and the keeper of its processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import psutil

from tunesmith.errors import RunError, WorkerError
from tunesmith.runs.lease import lock
from tunesmith.service.api import GRACE_SECONDS, open_listener
from tunesmith.service.choices import keep_choices, known_choices, make_private_folder, settings_of
from tunesmith.service.keeper import Keeper, Program
from tunesmith.service.operate import prepare_tables
from tunesmith.service.process import WORK, begin_log
from tunesmith.service.settings import Settings, write_settings
from tunesmith.service.web.rendering import missing_files

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
_READY_SECONDS = 120.0
_POLL_SECONDS = 0.2
# Longer than the processes of a keeper that was killed take to end.
_LOCK_SECONDS = GRACE_SECONDS + 15.0
_END_SECONDS = {"dispatcher": 30.0, "engines": 60.0}


def up(data_folder: Path, choices: Mapping[str, Any], *, as_json: bool) -> None:
    """Start everything and keep it alive until SIGINT or SIGTERM.

    Args:
        data_folder: Where all of it lies; made when it is not there.
        choices: What the operator chooses now, by the names of :class:`Settings`; earlier choices hold.
        as_json: Print one JSON document instead of words.

    Raises:
        UsageError: The choices make no sense, or the database does not answer.
        RunError: ``service.data_folder_taken``: another service has this data folder.
        WorkerError: The port is taken, or a process does not start.
    """
    make_private_folder(data_folder)
    with _owned(data_folder) as owner, _asked_to_end() as (stop, now):
        chosen = {**known_choices(data_folder), **choices}
        settings = settings_of(data_folder, chosen)
        with _listening(settings.host, settings.port) as listener:
            settings = settings.model_copy(update={"port": listener.getsockname()[1]})
            first_key = prepare_tables(settings)
            # At once: nobody can tell it again.
            tell_start(settings, first_key, as_json=as_json)
            # Only what worked holds for the next start.
            keep_choices(data_folder, chosen)
            write_settings(settings, settings.settings_file)
            settings.logs_folder.mkdir(exist_ok=True)
            # Counts begin anew with the service, and outlive any of its processes.
            shutil.rmtree(settings.counts_folder, ignore_errors=True)
            begin_log(settings, "keeper")
            programs = programs_of(settings, listener.fileno(), owner)
            _keep(Keeper(programs, settings.logs_folder if settings.logs == "files" else None), settings, stop, now)


def programs_of(settings: Settings, listener: int, owner: int) -> list[Program]:
    """The processes of a service, in the order in which they are ended.

    Args:
        settings: The service.
        listener: The descriptor of the socket that the API's processes take requests from.
        owner: The descriptor of the lock on the data folder, which is held as long as one of them lives.
    """
    programs = []
    for number in range(1, settings.api_processes + 1):
        command = (*_command("api", f"api-{number}", settings), "--listener", str(listener))
        programs.append(Program(f"api-{number}", command, GRACE_SECONDS + 5.0, (listener, owner)))
    work = [Program(role, _command(role, role, settings), _END_SECONDS[role], (owner,)) for role in WORK]
    return [*programs, *work]


def base_url_of(settings: Settings) -> str:
    """What OpenAI's clients take for ``base_url``."""
    if settings.public_url is not None:
        return f"{settings.public_url.rstrip('/')}/v1"
    return f"{_here(settings)}/v1"


def web_page_of(settings: Settings) -> str:
    """Where a browser finds the web page."""
    return f"{base_url_of(settings).removesuffix('/v1')}/ui"


def start_as_json(settings: Settings, first_key: str | None) -> dict[str, Any]:
    """What a program is told of a start.

    ``web_page_lacks`` has the files of others that the page wants and that are not there; the API works without.
    """
    return {
        "base_url": base_url_of(settings),
        "web_page": web_page_of(settings),
        "web_page_lacks": list(missing_files()),
        "data_folder": str(settings.data_folder),
        "first_key": first_key,
    }


def _keep(keeper: Keeper, settings: Settings, stop: threading.Event, now: threading.Event) -> None:
    try:
        keeper.start()
        _wait_until_ready(keeper, settings, stop)
        if not stop.is_set():
            _note(f"ready, with processes {', '.join(f'{name} {pid}' for name, pid in keeper.pids().items())}")
        keeper.run(stop, now)
    finally:
        keeper.end(now)
    _note("stopped; trainings of this machine go on by themselves and are found again by the next start")


def _wait_until_ready(keeper: Keeper, settings: Settings, stop: threading.Event) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    with httpx.Client(base_url=_here(settings), timeout=5.0, trust_env=False) as client:
        while not stop.wait(_POLL_SECONDS):
            keeper.look()
            try:
                if client.get("/ready").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            if time.monotonic() > deadline:
                words = "\n".join(f"{name}: {words}" for name, words in keeper.faults().items())
                raise WorkerError(
                    f"the service was not ready after {_READY_SECONDS:g} s",
                    code="service.not_ready",
                    value=words or None,
                    hint=f"its logs are in {settings.logs_folder}",
                )


def _here(settings: Settings) -> str:
    host = _ANY.get(settings.host, settings.host)
    return f"http://[{host}]:{settings.port}" if ":" in host else f"http://{host}:{settings.port}"


def _command(role: str, name: str, settings: Settings) -> tuple[str, ...]:
    # -P: a file of the current folder that is named like a library must not be run in its place.
    command = (sys.executable, "-P", "-m", "tunesmith.service", role, "--settings", str(settings.settings_file))
    return (*command, "--name", name, "--parent-pid", str(os.getpid()))


@contextmanager
def _asked_to_end() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Set by the first and by the second SIGINT or SIGTERM."""
    stop, now = threading.Event(), threading.Event()

    def ask(_signal: int, _frame: FrameType | None) -> None:
        (now if stop.is_set() else stop).set()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop, now
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    try:
        listener = open_listener(host, port)
    except OSError as error:
        raise WorkerError(
            "cannot listen there",
            code="service.address",
            place=f"{host}:{port}",
            value=error.strerror or str(error),
            hint="choose another --port, or stop whoever listens there",
        ) from error
    with listener:
        yield listener


@contextmanager
def _owned(data_folder: Path) -> Iterator[int]:
    """Own a data folder; the descriptor of its lock, which the processes of the service share."""
    deadline, told = time.monotonic() + _LOCK_SECONDS, False
    with (data_folder / "keeper.lock").open("a+b") as file:
        while not lock(file):
            file.seek(0)
            holder = file.read().decode("ascii", "replace").strip()
            if _lives(holder) or time.monotonic() > deadline:
                raise RunError(
                    "another service has this data folder",
                    code="service.data_folder_taken",
                    place=str(data_folder),
                    value=f"process {holder}",
                    hint="stop it, or choose another --data-dir",
                )
            if not told:
                _note("waiting for the processes of a keeper that was killed")
                told = True
            time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(str(os.getpid()).encode("ascii"))
        file.flush()
        yield file.fileno()


def _lives(holder: str) -> bool:
    return holder.isdigit() and psutil.pid_exists(int(holder))


def tell_start(settings: Settings, first_key: str | None, *, as_json: bool) -> None:
    """Print where the service answers, and the first key where there is a new one."""
    base_url = base_url_of(settings)
    if settings.host not in LOOPBACK and not base_url.startswith("https://"):
        _note(
            f"warning: {settings.host} is reached from other machines, and keys travel as they are: put a proxy with "
            "TLS in front, and name its address in public_url"
        )
    if as_json:
        told = start_as_json(settings, first_key)
        print(json.dumps(told, indent=2), flush=True)
        return
    print(f"{base_url} answers, data is in {settings.data_folder}")
    print(f"The web page is {web_page_of(settings)}{_lack()}")
    if first_key is not None:
        print("The first administrator's key, shown this once:")
        print(f"\n  {first_key}\n")
        print("from openai import OpenAI")
        print(f'client = OpenAI(base_url="{base_url}", api_key="{first_key}")')
        print("print([model.id for model in client.models.list()])")
    sys.stdout.flush()


def _lack() -> str:
    """What is told of files of others that the web page wants, where they are not there."""
    return " (its charts and live lists are missing: run `make web`; the API works without)" if missing_files() else ""


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
