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

from tunesmith.errors import CLASSES, WorkerError
from tunesmith.storage.address import open_store
from tunesmith.storage.run_store import RunStore, worker_name
from tunesmith.storage.turn import await_turn

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


if __name__ == "__main__":
    sys.exit(main())
