"""Run a serving process in the foreground: what it says is shown, and what ends this process ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tunesmith.errors import WorkerError
from tunesmith.executors.environment import compute_environment
from tunesmith.jobs.inference_process import READY_FILE, serving_command, write_service
from tunesmith.runs.atomic import read_json
from tunesmith.wire.serving import Service

_POLL_SECONDS = 0.1


def run_server(service: Service, *, host: str, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; both let the process finish the answers that are under way, a second one does not.

    Args:
        service: What is served.
        host: The address to listen on.
        port: The port; 0 takes a free one.
        on_ready: Called with the base address after the first answer of every base.

    Raises:
        WorkerError: The process ended by itself; its own lines were shown.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-serve-") as scratch:
        folder = Path(scratch)
        write_service(folder, service)
        command = [*serving_command(folder), "--host", host, "--port", str(port), "--parent-pid", str(os.getpid())]
        asked = 0
        started: list[subprocess.Popen[bytes]] = []

        def stop(_signal: int, _frame: FrameType | None) -> None:
            nonlocal asked
            asked += 1
            for process in started:
                process.send_signal(signal.SIGTERM if asked == 1 else signal.SIGKILL)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            # A session of its own: Ctrl-C reaches it through us, once.
            process = subprocess.Popen(
                command, env=compute_environment(), stdin=subprocess.DEVNULL, start_new_session=True
            )
            started.append(process)
            if asked:
                process.terminate()
            _tell_when_ready(process, folder / READY_FILE, host, on_ready)
            code = process.wait()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in started:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        if code != 0 and not asked:
            raise WorkerError(
                f"the serving process ended with code {code}",
                code="inference.ended",
                hint="its last lines above say why",
            )


def _tell_when_ready(
    process: subprocess.Popen[bytes], ready_file: Path, host: str, on_ready: Callable[[str], None]
) -> None:
    while process.poll() is None:
        if ready_file.exists():
            shown = f"[{host}]" if ":" in host else host
            on_ready(f"http://{shown}:{read_json(ready_file)['port']}")
            return
        time.sleep(_POLL_SECONDS)
