"""``tunesmith serve``: answer requests over HTTP until told to stop."""

from __future__ import annotations

import os
import socket
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.terminal import note, out
from tunesmith.errors import UsageError
from tunesmith.runs.layout import default_runs_folder

app = new_app()

KEY_VARIABLE = "TUNESMITH_API_KEY"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@app.command()
def serve(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]MODEL...", help="Runs, folders, catalog ids, hub ids or exported models."),
    ],
    *,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="PORT", min=0, max=65535, help="0 takes a free one.")] = 8000,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys that let in, a line `name=key` for each; else TUNESMITH_API_KEY."),
    ] = None,
    anybody: Annotated[
        bool, typer.Option("--anybody", help="Listen beyond this machine without asking for a key.")
    ] = False,
    rows_at_once: Annotated[int, typer.Option(metavar="N", min=1, help="Answers written at once.")] = 32,
    most_waiting: Annotated[
        int, typer.Option(metavar="N", min=1, help="Requests that may wait; more are turned away.")
    ] = 1024,
    adapters_in_memory: Annotated[
        int, typer.Option(metavar="N", min=1, help="Adapters that stay loaded; the others come when they are asked.")
    ] = 32,
    engine: Annotated[
        str, typer.Option(metavar="torch|vllm", help="What answers for models that are not exported.")
    ] = "torch",
    ep: Annotated[
        str | None, typer.Option(metavar="NAME", help="The ONNX Runtime's execution provider, such as cpu or cuda.")
    ] = None,
    registered: Annotated[
        bool,
        typer.Option(
            "--registered", help="Also answer for versions of the registry, by their addresses, on the bases served."
        ),
    ] = False,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    of_deployment: Annotated[bool, typer.Option("--of-deployment", hidden=True)] = False,
) -> None:
    """Answer requests over HTTP in OpenAI's form.

    Adapters on the same base share it, and are answered together. A model is called what it is named before the `=`,
    else what is written. Ctrl-C or SIGTERM finishes the answers that are under way and ends.
    """
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.jobs.deploying import models_to_serve, used_versions
    from tunesmith.jobs.server import run_server
    from tunesmith.registry.place import open_registry
    from tunesmith.wire.serving import Service

    if engine not in ("torch", "vllm"):
        raise UsageError("there is no such engine", code="usage.engine", value=engine, hint="torch or vllm")
    folder = runs if runs is not None else default_runs_folder()
    secrets = _keys(keys)
    if host not in _LOOPBACK and not secrets and not anybody:
        raise _no_key(host)
    with open_view() as view:
        served = models_to_serve(models, folder, showing(view))
        note(f"loading {', '.join(one.name for one in served)}", "dim")
    if engine == "vllm":
        served = [replace(one, runtime="vllm") if one.runtime == "torch" else one for one in served]
    service = Service(
        tuple(served),
        secrets,
        rows_at_once=rows_at_once,
        most_waiting=most_waiting,
        adapters_in_memory=adapters_in_memory,
        execution_provider=ep,
        registry=open_registry().url if registered else None,
    )

    def on_ready(base_url: str) -> None:
        out(f"{base_url}/v1 answers for {', '.join(one.name for one in served)}")
        if not secrets:
            note("no key is asked for", "dim")

    who = f"tunesmith serve at {host}:{port}, process {os.getpid()} on {socket.gethostname()}"
    # A deployment has references of its own, which outlive the server.
    used = nullcontext() if of_deployment else used_versions(models, folder, "deployment", who)
    with used:
        run_server(service, host=host, port=port, on_ready=on_ready)


def _no_key(host: str) -> UsageError:
    return UsageError(
        "anybody who reaches this machine could ask, and no key is asked for",
        code="usage.no_key",
        value=host,
        hint=f"set {KEY_VARIABLE}, give --keys FILE, or say --anybody",
    )


def _keys(path: Path | None) -> dict[str, str]:
    """The keys by the names of whom they are for.

    Raises:
        UsageError: The file cannot be read, or a line of it is not ``name=key``; no key is shown.
    """
    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        return {"default": key} if key else {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "the keys cannot be read", code="usage.keys", place=str(path), value=type(error).__name__
        ) from error
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, separator, key = (part.strip() for part in line.partition("="))
        if not separator or not name or len(key) < 8 or name in found or key in found.values():
            raise UsageError(
                "a line of the keys is not `name=key`, each of its own, with a key of at least 8 characters",
                code="usage.keys",
                place=f"{path}:{number}",
            )
        found[name] = key
    if not found:
        raise UsageError("there is no key in the file", code="usage.keys", place=str(path))
    return found
