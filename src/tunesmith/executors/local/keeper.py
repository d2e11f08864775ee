"""``python -m tunesmith.executors.local.keeper FOLDER``: keep the server of a deployment alive.

It holds the deployment's lock as long as it lives. A server that another keeper left behind is taken over as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tunesmith.executors.local.deployer import GIVEN_UP, KEEPER_LOCK, LOG, SERVING, STOP, note_launch, serving_command
from tunesmith.executors.local.worker import launched_process
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.lease import lock

_TURN_SECONDS = 0.2
# A server that lived so long was well; one that dies sooner, again and again, will not get better by itself.
_STEADY_SECONDS = 300.0
_MOST_DEATHS = 5
_FIRST_PAUSE_SECONDS = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Keep the server until the deployment is deleted, or until it died too often; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith.executors.local.keeper", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the deployment")
    folder = parser.parse_args(arguments).folder
    with (folder / KEEPER_LOCK).open("ab") as file:
        if not lock(file):
            return 0
        return _keep(folder)


def _keep(folder: Path) -> int:
    deaths = 0
    while not _is_stopped(folder):
        began = time.monotonic()
        started = None if launched_process(folder) is not None else _start(folder)
        code = _wait(folder, started)
        if _is_stopped(folder):
            break
        deaths = 1 if time.monotonic() - began >= _STEADY_SECONDS else deaths + 1
        if deaths >= _MOST_DEATHS:
            ended = "" if code is None else f", the last time with code {code}"
            write_json(folder / GIVEN_UP, {"reason": f"the server died {deaths} times in a row{ended}"})
            return 1
        _pause(folder, _FIRST_PAUSE_SECONDS * 2 ** (deaths - 1))
    return 0


def _start(folder: Path) -> subprocess.Popen[bytes]:
    with (folder / LOG).open("ab") as log:
        process = subprocess.Popen(
            serving_command(read_json(folder / SERVING)),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            # The end of the keeper is not the end of the server.
            start_new_session=True,
        )
    note_launch(folder, process.pid)
    return process


def _wait(folder: Path, started: subprocess.Popen[bytes] | None) -> int | None:
    """Until the server has ended; its exit code, None where it is no child of this process."""
    while True:
        if started is not None and started.poll() is not None:
            return started.returncode
        if started is None and launched_process(folder) is None:
            return None
        if _is_stopped(folder) and started is not None:
            # Whoever deletes the deployment ends the server.
            started.wait()
            return started.returncode
        time.sleep(_TURN_SECONDS)


def _pause(folder: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not _is_stopped(folder):
        time.sleep(_TURN_SECONDS)


def _is_stopped(folder: Path) -> bool:
    """Whether the deployment is, or was, deleted."""
    return (folder / STOP).exists() or not (folder / SERVING).exists()


if __name__ == "__main__":
    sys.exit(main())
