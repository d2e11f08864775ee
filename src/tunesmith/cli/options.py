"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from tunesmith.errors import UsageError
from tunesmith.runs.layout import RunFolder, default_runs_folder

Model = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", metavar="MODEL", help="A folder, a run, a registered version, a catalog id or a hub id."
    ),
]
Data = Annotated[str | None, typer.Option("--data", "-d", metavar="DATA", help="A file, a folder or a hub data set.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
RunsFolder = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="The folder that holds runs, instead of runs/."),
]
Columns = Annotated[
    list[str] | None,
    typer.Option("--column", metavar="FIELD=NAME", help="Which column a field is, such as text=body; repeatable."),
]
Shape = Annotated[
    str | None, typer.Option(metavar="NAME", help="The shape of the rows, where the detected one is wrong.")
]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="The task, where the shape does not tell it.")]
OnBadRows = Annotated[
    str | None, typer.Option("--on-bad-rows", metavar="refuse|skip", help="What to do with rows that cannot be used.")
]

Track = Annotated[
    list[str] | None,
    typer.Option("--track", metavar="tensorboard|mlflow|wandb", help="Also write to a tracker; repeatable."),
]


def runs_folder(given: Path | None) -> Path:
    """The folder of runs that was asked for, or the default one."""
    return given if given is not None else default_runs_folder()


def run_argument(run: RunFolder) -> str:
    """How the next command names a run: by name in the default folder, else by path."""
    from tunesmith.cli.terminal import short_path

    return run.name if run.path.resolve().parent == default_runs_folder().resolve() else short_path(run.path)


def column_map(given: Sequence[str] | None) -> dict[str, str] | None:
    """The map that repeated ``--column field=name`` options make.

    Raises:
        UsageError: One of them has no ``=``, or a field is mapped twice.
    """
    if not given:
        return None
    columns: dict[str, str] = {}
    for item in given:
        field, equals, name = item.partition("=")
        if not equals or not field or not name or field in columns:
            raise UsageError(
                "a column is given as field=name, each field once",
                code="usage.column",
                place="--column",
                value=item,
                hint="for example --column text=body --column label=category",
            )
        columns[field] = name
    return columns
