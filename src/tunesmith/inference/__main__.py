"""``python -m tunesmith.inference``: serve models over HTTP, as a file says."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from tunesmith.errors import ModelError, TunesmithError, WorkerError
from tunesmith.models.quiet import quiet_imports
from tunesmith.runs.parent import watch_parent
from tunesmith.wire.serving import read_service


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, listen, write the ready file, and serve until told to stop; returns the exit code."""
    options = _parse(arguments)
    # The ready file and what lies beside it are nobody else's business.
    os.umask(0o077)
    quiet_imports()
    try:
        _serve(options)
    except TunesmithError as error:
        print("\n".join(error.lines()), file=sys.stderr)
        return error.exit_code
    return 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tunesmith.inference", description=__doc__)
    parser.add_argument("--service", type=Path, required=True, help="JSON file that says what is served")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, required=True, help="written as JSON with port and pid when ready")
    parser.add_argument("--parent-pid", type=int, default=None, help="end when this process ends")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace) -> None:
    service = read_service(options.service)
    for model in service.models:
        for place in (model.folder, model.adapter):
            if place is not None and not place.exists():
                raise ModelError("there is no such folder", code="model.no_folder", place=str(place))
    if options.parent_pid is not None:
        left = (options.ready_file, options.service)
        watch_parent(options.parent_pid, lambda: _end(left))
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listener = socket.create_server((options.host, options.port), family=family)
    except OSError as error:
        raise WorkerError(
            "cannot listen there",
            code="inference.address",
            place=f"{options.host}:{options.port}",
            value=error.strerror or str(error),
            hint="choose another --port, or stop whoever listens there",
        ) from error
    with listener:
        # Imported only now: it takes seconds, and what is wrong with the arguments is better told at once.
        from tunesmith.inference.server import serve

        serve(service, listener, options.ready_file)


def _end(left: Sequence[Path]) -> None:
    """Remove the files that the parent can no longer remove, one of which has keys, and end."""
    for path in left:
        path.unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    exit_code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is closed by now but a thread that may still load a model, which would hold the end up.
    os._exit(exit_code)
