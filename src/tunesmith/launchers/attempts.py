"""``python -m tunesmith.launchers.attempts RUN``: the worker for a run in a store, once more when it has died.

For platforms that start a command once and leave it at that. What the worker itself has refused is not tried again.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import psutil

from tunesmith.errors import CLASSES, WorkerError
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import Attempt, RunStore, worker_name

_POLL_SECONDS = 0.5
# Of what went wrong, this may go better the next time.
_PASSING = frozenset(cls.exit_code for cls in CLASSES if cls.retryable)
# A group of processes that another program has made tells torch and its friends of itself by these.
_OF_OTHER_GROUPS = frozenset(
    {"RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Let workers work until one has ended well, or for good; returns the exit code of the last."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.launchers.attempts", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="the address of a run in a store")
    parser.add_argument("--max-failures", type=int, default=3, help="how often a worker that died is replaced")
    options = parser.parse_args(arguments)
    asked = False

    def note(_number: int, _frame: object) -> None:
        nonlocal asked
        asked = True

    signal.signal(signal.SIGTERM, note)
    run = RunStore(open_store(options.run))
    failures = 0
    while True:
        await_turn(run, lambda: asked)
        code = work(options.run, "train", should_end=lambda: asked)
        if asked or not is_passing(code) or failures >= options.max_failures:
            return exit_code(code)
        failures += 1
        print(f"the worker ended with {code}; it is replaced, {failures} of {options.max_failures} times", flush=True)


def work(
    url: str,
    stage: Literal["train", "node"],
    *,
    environment: Mapping[str, str] | None = None,
    should_end: Callable[[], bool] = lambda: False,
) -> int:
    """Run a worker for a run to its end.

    Args:
        url: The run's address.
        stage: ``train`` for the worker that owns the run, ``node`` for one that lends this machine to it.
        environment: Variables beside those of this process.
        should_end: Asked again and again; the worker is told to stop once it says so.

    Returns:
        The exit code; negative for the signal that ended it. Then the run's store knows that it is dead.
    """
    command = [sys.executable, "-P", "-m", "tunesmith.worker", url, "--stage", stage, "--parent-pid", str(os.getpid())]
    own = {name: value for name, value in os.environ.items() if name not in _OF_OTHER_GROUPS}
    process = subprocess.Popen(command, env={**own, **(environment or {})}, stdin=subprocess.DEVNULL)
    told = False
    while process.poll() is None:
        if not told and should_end():
            told = True
            process.terminate()
        time.sleep(_POLL_SECONDS)
    code = process.returncode
    if code < 0 and stage == "train":
        _end_attempt_of(RunStore(open_store(url)), worker_name(process.pid), code)
    return code


def await_turn(run: RunStore, should_stop: Callable[[], bool] = lambda: False) -> int:
    """Wait until no worker of the run lives; the number of the last attempt, 0 before the first.

    One of this machine whose process is gone is said to be dead at once; of others that is known only by their silence.
    """
    while True:
        last = run.last_attempt()
        if last is None or not last.is_alive() or should_stop():
            return 0 if last is None else last.number
        if _died_here(last):
            run.end(last.number, WorkerError.exit_code)
        else:
            time.sleep(_POLL_SECONDS)


def is_passing(code: int) -> bool:
    """Whether a worker with this exit code may do better another time: it was killed, or said something of the kind."""
    return code < 0 or code in _PASSING


def exit_code(code: int) -> int:
    """An exit code for this process out of a worker's, which is negative where a signal ended it."""
    return code if code >= 0 else WorkerError.exit_code


def _end_attempt_of(run: RunStore, worker: str, code: int) -> None:
    last = run.last_attempt()
    if last is not None and last.code is None and last.worker == worker:
        run.end(last.number, code)


def _died_here(attempt: Attempt) -> bool:
    pid = attempt.worker.removeprefix("process ").partition(" ")[0]
    if not pid.isdigit() or attempt.worker != worker_name(int(pid)):
        return False
    try:
        return psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


if __name__ == "__main__":
    sys.exit(main())
