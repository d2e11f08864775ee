"""``tunesmith join``: lend this machine to a training that several machines share."""

from __future__ import annotations

from typing import Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import RunsFolder, runs_folder
from tunesmith.runs.layout import find_run

app = new_app()


@app.command()
def join(
    name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or its folder.")],
    output: RunsFolder = None,
) -> None:
    """Lend this machine to a training that several machines share.

    The run was begun on another machine with --nodes, in a folder that both see. Waits until its training begins, and
    ends with it; data and model files are read from where the recipe names them.
    """
    from tunesmith.executors.local.worker import work_for

    run = find_run(runs_folder(output), name)
    raise typer.Exit(work_for(run.path))
