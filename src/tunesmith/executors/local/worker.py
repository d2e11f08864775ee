"""Run the worker as a process on this machine.

The process is its own session: Ctrl-C does not reach it, and a run outlives the terminal and the command that started
it. What it and its libraries print goes to worker.log; how it goes is told by events.jsonl alone.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import psutil

from tunesmith.errors import TunesmithError, WorkerError, from_json
from tunesmith.executors.environment import compute_environment
from tunesmith.runs.atomic import telling_output_errors, write_json
from tunesmith.runs.events import Event

# -P: a file of the user's folder that is named like a library must not be run in its place.
WORKER_COMMAND: tuple[str, ...] = (sys.executable, "-P", "-m", "tunesmith.worker")

LAUNCH = "launch.json"
# Folders of stages begin with this; they end with the command that made them.
SCRATCH_PREFIX = "tunesmith-stage-"
_TAIL_LINES = 20
_TAIL_BYTES = 16_384
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class LocalWorker:
    """A worker process that was started for a run or scratch folder."""

    folder: Path
    process: subprocess.Popen[bytes]

    def exit_code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Ask the process to end at once, and end it if it does not within some seconds."""
        if self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start_worker(
    folder: Path,
    *,
    stage: str = "train",
    command: Sequence[str] | None = None,
    working_folder: Path | None = None,
    outlives_us: bool = True,
    environment: Mapping[str, str] | None = None,
) -> LocalWorker:
    """Start a worker for a folder and return at once.

    Args:
        folder: A run or scratch folder; it holds what the stage needs.
        stage: train, audit, evaluate or pull.
        command: The program, WORKER_COMMAND unless given; folder and stage are added behind it.
        working_folder: Where relative paths of the recipe start. The default is where the first worker of this folder
            was started, so that a run resumes from anywhere; for a new folder it is the current one.
        outlives_us: Whether it goes on when this process ends, however that ends.
        environment: Variables beside those of this process.

    Raises:
        OutputError: The log cannot be written.
    """
    folder = folder.resolve()
    directory = _working_folder(folder, working_folder)
    tied = [] if outlives_us else ["--parent-pid", str(os.getpid())]
    with telling_output_errors(folder), (folder / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            [*(command or WORKER_COMMAND), str(folder), "--stage", stage, *tied],
            cwd=directory,
            env=compute_environment({**os.environ, **(environment or {})}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    worker = LocalWorker(folder, process)
    try:
        write_json(
            folder / LAUNCH,
            {
                "host": socket.gethostname(),
                "pid": process.pid,
                "started": _start_time(process.pid),
                "working_folder": str(directory),
            },
        )
    except TunesmithError:
        worker.terminate()
        raise
    return worker


def work_for(folder: Path) -> int:
    """Let this machine's devices work for a run that another machine owns; returns the exit code when that is over.

    What there is to say goes to the terminal, and Ctrl-C reaches the process.
    """
    folder = folder.resolve()
    command = [*WORKER_COMMAND, str(folder), "--stage", "node"]
    process = subprocess.Popen(command, cwd=_working_folder(folder, None), env=compute_environment())
    # Whoever ends this command means that process.
    signal.signal(signal.SIGTERM, lambda number, _frame: process.send_signal(number))
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            # It has heard so itself, and ends its ranks.
            continue


def is_launched(folder: Path) -> bool:
    """Whether the process that was last started for this folder on this machine still lives.

    It tells of a worker that has not yet taken the lease, for loading its libraries takes seconds.
    """
    return launched_process(folder) is not None


def launched_process(folder: Path) -> psutil.Process | None:
    """The living process that was last started for this folder on this machine."""
    launch = _read_launch(folder)
    pid, started = launch.get("pid"), launch.get("started")
    if launch.get("host") != socket.gethostname() or not isinstance(pid, int) or not isinstance(started, float):
        return None
    try:
        process = psutil.Process(pid)
        # A number is given to another process sooner or later; the time of the start tells them apart.
        lives = abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return None
    return process if lives else None


def worker_error(folder: Path, exit_code: int, events: Sequence[Event]) -> TunesmithError:
    """The error of a worker that ended with a code other than 0.

    Args:
        folder: The run or scratch folder.
        exit_code: As of subprocess: negative for the signal that ended the process.
        events: What the worker told, in order; the last error event is the error.
    """
    for event in reversed(events):
        if event.type == "error":
            return from_json(event.data)
    hints = []
    if exit_code < 0:
        name = signal.Signals(-exit_code).name if -exit_code in set(signal.Signals) else str(-exit_code)
        ended = f"was ended by {name}"
        if -exit_code == getattr(signal, "SIGKILL", None):
            hints.append("the system does this when memory runs out")
    else:
        ended = f"ended with code {exit_code}"
    if not folder.name.startswith(SCRATCH_PREFIX):
        hints.append(f"the whole log is {_shown(folder / 'worker.log')}")
    return WorkerError(
        f"the worker {ended} and did not say why; the end of its log",
        code="worker.died",
        value=_tail(folder / "worker.log"),
        hint="; ".join(hints) or None,
    )


def known_working_folder(folder: Path) -> Path | None:
    """Where the relative paths of a run's recipe start; None where no worker was started for it here."""
    known = _read_launch(folder).get("working_folder")
    return Path(known) if isinstance(known, str) and Path(known).is_dir() else None


def _working_folder(folder: Path, wanted: Path | None) -> Path:
    if wanted is not None:
        return wanted.resolve()
    return known_working_folder(folder) or Path.cwd()


def _read_launch(folder: Path) -> dict[str, Any]:
    try:
        content = orjson.loads((folder / LAUNCH).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _start_time(pid: int) -> float:
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return time.time()


def _tail(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    return "".join(f"\n  {line}" for line in lines[-_TAIL_LINES:]) or "it printed nothing"


def _shown(path: Path) -> str:
    """The path from the current folder where it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
