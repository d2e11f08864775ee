"""``python -m tunesmith.inference``: serve one model folder and its adapters on the loopback address."""

from __future__ import annotations

import argparse
import copy
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from tunesmith.errors import ModelError, TunesmithError, UsageError
from tunesmith.models.quiet import quiet_imports
from tunesmith.runs.atomic import write_json

BASE = "base"
_PARENT_POLL_SECONDS = 0.5
_LAST_ANSWERS_SECONDS = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, listen, write the ready file, and serve until told to stop; returns the exit code."""
    options = _parse(arguments)
    # The ready file holds the token.
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
    parser.add_argument("--model", type=Path, required=True, help="folder with config, weights and tokenizer")
    parser.add_argument("--adapter", type=Path, action="append", default=[], help="adapter folder; may be repeated")
    parser.add_argument("--name", action="append", default=[], help="name of each adapter, in the same order")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--ready-file", type=Path, required=True, help="written as JSON with port, pid and token")
    parser.add_argument("--parent-pid", type=int, default=None, help="end when this process ends")
    return parser.parse_args(arguments)


def served_names(names: Sequence[str], adapters: Sequence[Path]) -> dict[str, str | None]:
    """For each name that a request may use, the adapter's key inside the model, None for the model without adapters.

    Raises:
        UsageError: Names and adapters do not match.
    """
    if not adapters:
        return dict.fromkeys(names or [BASE])
    if len(names) != len(adapters) or len({BASE, *names}) != len(names) + 1:
        raise UsageError(
            "every adapter needs a name of its own, other than `base`",
            code="usage.adapter_names",
            value=f"{len(adapters)} adapters, names: {', '.join(names) or 'none'}",
        )
    # PEFT allows no dots in its keys, the names served may have any.
    return {BASE: None, **{name: f"adapter_{at}" for at, name in enumerate(names)}}


def _serve(options: argparse.Namespace) -> None:
    names = served_names(options.name, options.adapter)
    for folder in [options.model, *options.adapter]:
        if not folder.is_dir():
            raise ModelError("there is no such folder", code="model.no_folder", place=str(folder))
    # Imported only now: these take seconds, and what is wrong with the arguments is better told at once.
    import torch
    import uvicorn

    from tunesmith.generation.plan import context_length
    from tunesmith.inference.app import make_app, make_head_app
    from tunesmith.inference.classifier import Classifier
    from tunesmith.inference.loading import load
    from tunesmith.inference.worker import GenerationWorker
    from tunesmith.models.check import model_kind, read_config

    keys = [key for key in names.values() if key is not None]
    loaded = load(options.model, dict(zip(keys, options.adapter, strict=True)), torch.float32)
    token = secrets.token_urlsafe(32)
    context = context_length(loaded.model)
    worker = None
    if loaded.head is None:
        worker = GenerationWorker(loaded.model, loaded.tokenizer, names)
        app = make_app(worker, copy.deepcopy(loaded.tokenizer), names=list(names), context=context, token=token)
    else:
        # A base without the adapter has no head that was ever trained.
        names = {name: key for name, key in names.items() if key is not None} or names
        classifier = Classifier(
            loaded.model,
            loaded.tokenizer,
            loaded.head,
            both_ways=model_kind(read_config(options.model)) == "encoder",
            context=context,
            adapters=names,
        )
        app = make_head_app(classifier, names=list(names), token=token)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=_LAST_ANSWERS_SECONDS
    )
    server = uvicorn.Server(config)
    # uvicorn sends itself the signal again once it has shut down; the process shall end as planned, not by a signal.
    signal.signal(signal.SIGTERM, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: None)
    with socket.create_server((options.host, options.port)) as listener:
        if options.parent_pid is not None:
            threading.Thread(
                target=_end_with_parent, args=(options.parent_pid, options.ready_file), daemon=True
            ).start()
        if worker is not None:
            worker.start()
        port = listener.getsockname()[1]
        write_json(options.ready_file, {"port": port, "pid": os.getpid(), "token": token})
        try:
            server.run(sockets=[listener])
        finally:
            options.ready_file.unlink(missing_ok=True)


def _end_with_parent(parent_pid: int, ready_file: Path) -> None:
    is_child = os.getppid() == parent_pid
    # A process id can be taken by another process later; a changed parent cannot be mistaken.
    while os.getppid() == parent_pid if is_child else psutil.pid_exists(parent_pid):
        time.sleep(_PARENT_POLL_SECONDS)
    ready_file.unlink(missing_ok=True)
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
