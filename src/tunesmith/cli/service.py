"""``tunesmith service``: what an operator does beside the running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson
from tunesmith.cli.up import Config, Database, DataDir, Storage, absolute_database, absolute_storage

app = new_app("Bring the hosted service's tables up to date, make a key, take jobs over, back it up and restore it.")


@app.command()
def migrate(
    data_dir: DataDir = None, database: Database = None, *, config: Config = None, as_json: AsJson = False
) -> None:
    """Bring the tables up to date; several that are started at once wait for one another.

    `tunesmith up` does it by itself.
    """
    _become("migrate", data_dir, _choices(config, database, None), as_json=as_json)


@app.command()
def key(data_dir: DataDir = None, database: Database = None, *, config: Config = None, as_json: AsJson = False) -> None:
    """Make a new administrator's key, for when all are lost, and print it this once."""
    _become("key", data_dir, _choices(config, database, None), as_json=as_json)


@app.command()
def adopt(
    data_dir: DataDir = None, database: Database = None, *, config: Config = None, as_json: AsJson = False
) -> None:
    """Let this data folder have the jobs of a database whose own folder is gone for good.

    Jobs that were running there begin again; make sure that no worker of them is left.
    """
    _become("adopt", data_dir, _choices(config, database, None), as_json=as_json)


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The archive that is written.")],
    data_dir: DataDir = None,
    *,
    with_files: Annotated[
        bool, typer.Option("--with-files", help="Also files, models and runs, where the storage is a folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Write one archive of all that the service knows, while it runs."""
    files = ("--with-files",) if with_files else ()
    _become("backup", data_dir, {}, str(file.expanduser().absolute()), *files, as_json=as_json)


@app.command()
def restore(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The archive of a backup, of this version or an older one.")
    ],
    data_dir: DataDir = None,
    database: Database = None,
    storage: Storage = None,
    *,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Bring a backup into an empty database, and its tables to this version."""
    choices = _choices(config, database, storage)
    _become("restore", data_dir, choices, str(file.expanduser().absolute()), as_json=as_json)


def _choices(config: Path | None, database: str | None, storage: str | None) -> dict[str, Any]:
    from tunesmith.cli.hosted import read_config

    choices = read_config(config)
    if database is not None:
        choices["database"] = absolute_database(database)
    if storage is not None:
        choices["storage"] = absolute_storage(storage)
    return choices


def _become(
    command: str, data_dir: Path | None, choices: dict[str, Any], *arguments: str, as_json: bool = False
) -> None:
    from tunesmith.cli.hosted import become_service

    become_service(command, data_dir, choices, *arguments, as_json=as_json)
