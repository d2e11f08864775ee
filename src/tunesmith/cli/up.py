"""``tunesmith up``: the hosted service on this machine, until told to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson

app = new_app()

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Where all data lies, instead of the user's data folder."),
]
Config = Annotated[Path | None, typer.Option(metavar="FILE", help="More settings, as YAML; options win over them.")]
Database = Annotated[
    str | None, typer.Option(metavar="URL", help="postgresql://USER@HOST/NAME, instead of SQLite in the data folder.")
]
Storage = Annotated[
    str | None,
    typer.Option(metavar="URL", help="s3://, az:// or abfs:// for files, runs and models, instead of the data folder."),
]


@app.command()
def up(
    *,
    port: Annotated[
        int | None, typer.Option(metavar="PORT", min=0, max=65535, help="Instead of 8321; 0 takes a free one.")
    ] = None,
    host: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="The address to listen on, instead of 127.0.0.1.")
    ] = None,
    data_dir: DataDir = None,
    database: Database = None,
    storage: Storage = None,
    executor: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[,KEY=VALUE...]|FILE",
            help="Where jobs train, as a recipe's executor; or a YAML file with that section.",
        ),
    ] = None,
    models: Annotated[
        str | None, typer.Option(metavar="MODEL[,NAME=FOLDER...]", help="Base models that are offered.")
    ] = None,
    api_processes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Processes that take requests, instead of 1.")
    ] = None,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Start the hosted service: OpenAI's contract for files, tuning, models and chat.

    The first start prints the first administrator's key, once. What is chosen is kept in the data folder and holds for
    later starts. Ctrl-C finishes the answers that are under way and stops all processes; trainings of this machine go
    on, and the next start finds them.
    """
    from tunesmith.cli.hosted import become_service, executor_section, read_config

    given: dict[str, Any] = {
        "port": port,
        "host": host,
        "database": None if database is None else absolute_database(database),
        "storage": None if storage is None else absolute_storage(storage),
        "executor": None if executor is None else executor_section(executor),
        "models": None if models is None else [_absolute_model(name.strip()) for name in models.split(",")],
        "api_processes": api_processes,
    }
    choices = {**read_config(config), **{key: value for key, value in given.items() if value is not None}}
    become_service("up", data_dir, choices, as_json=as_json)


def absolute_database(url: str) -> str:
    """The address, with the whole path of a SQLite file, since later starts may be made from other folders."""
    kind, separator, place = url.partition(":///")
    return f"sqlite:///{Path(place).expanduser().absolute()}" if separator and kind == "sqlite" else url


def absolute_storage(url: str) -> str:
    """The address, with the whole path of a folder."""
    return url if "://" in url else str(Path(url).expanduser().absolute())


def _absolute_model(text: str) -> str:
    name, separator, folder = text.partition("=")
    return f"{name}={Path(folder).expanduser().absolute()}" if separator else text
