"""``tunesmith deployments``: let models answer somewhere until they are taken away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import note, out, out_json, short_path

if TYPE_CHECKING:
    from tunesmith.executors.deploying import EndpointState
    from tunesmith.jobs.deployments import Asked, Deployment, DeploymentView

app = new_app("Create, list, show and delete deployments: models that answer until they are taken away.")

Name = Annotated[str, typer.Argument(metavar="DEPLOYMENT", help="The deployment's name.")]


@app.command()
def create(
    models: Annotated[
        list[str],
        typer.Argument(metavar="[NAME=]MODEL...", help="Runs, versions, folders, catalog ids, hub ids, exports."),
    ],
    *,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The deployment's name; else that of the first model.")
    ] = None,
    on: Annotated[
        str, typer.Option("--on", metavar="PLATFORM", help="local, kubernetes, azureml, ray or kaito.")
    ] = "local",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the platform, such as port=8123; repeatable."),
    ] = None,
    batch: Annotated[bool, typer.Option("--batch", help="Answer files of requests instead of single ones.")] = False,
    replicas: Annotated[int, typer.Option(metavar="N", min=0, help="How many servers answer.")] = 1,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Asked for once more under this key, it is the same deployment.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it answers.")] = False,
    timeout_seconds: Annotated[float, typer.Option("--timeout", metavar="SECONDS", min=0)] = 600.0,
    render: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what would be made there, and stop.")
    ] = None,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Deploy models, and return.

    The same deployment asked for once more is only found; one that had been given up is started again. A stage of the
    registry is deployed as the version that it means now.
    """
    from tunesmith.jobs.deployments import Asked, look
    from tunesmith.jobs.deployments import create as create_deployment
    from tunesmith.recipe.load import apply_overrides

    folder = runs_folder(output)
    wanted = apply_overrides({}, settings or [])
    asked = Asked(tuple(models), name, on, wanted, "batch" if batch else "real-time", replicas, key)
    if render is not None:
        _render(asked, folder, render, as_json=as_json)
        return
    made = create_deployment(asked, folder)
    view = _wait(made, timeout_seconds) if wait else look(made)
    if as_json:
        out_json(view.to_json())
        return
    address = f" at {view.status.address}" if view.status.address else ""
    out(f"{made.name} is {view.status.state}{address}")
    note(f"see how it is with: tunesmith deployments show {made.name}", "dim")


@app.command("list")
def list_(output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """List deployments, oldest first, each asked how it is."""
    from tunesmith.jobs.deployments import list_deployments, look

    folder = runs_folder(output)
    found = [look(one) for one in list_deployments(folder)]
    if as_json:
        out_json([view.to_json() for view in found])
    elif not found:
        out(f"no deployments in {short_path(folder)}")
    else:
        _print(found)


@app.command()
def show(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Show a deployment: its state, where it answers, its models."""
    from tunesmith.cli.tables import Column, print_table
    from tunesmith.jobs.deployments import find_deployment, look

    view = look(find_deployment(runs_folder(output), name))
    if as_json:
        out_json(view.to_json())
        return
    _print([view])
    if view.status.reason:
        out(f"reason: {view.status.reason}")
    rows = [[served, model] for served, model in view.deployment.record["models"].items()]
    print_table([Column("requests name"), Column("model", wrap=True)], rows)


@app.command()
def delete(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Take a deployment away; answers that are under way are finished."""
    from tunesmith.jobs.deployments import delete as delete_deployment
    from tunesmith.jobs.deployments import find_deployment

    found = find_deployment(runs_folder(output), name)
    delete_deployment(found)
    if as_json:
        out_json({"deployment": name, "deleted": True})
    else:
        out(f"deleted {name}")


def _wait(made: Deployment, timeout_seconds: float) -> DeploymentView:
    from tunesmith.jobs.deployments import wait as wait_until_ready

    said = ""
    for view in wait_until_ready(made, timeout_seconds):
        words = f"{view.status.state}: {view.status.words}" if view.status.words else view.status.state
        if words != said and view.status.state != "ready":
            note(words, "dim")
        said = words
    return view


def _render(asked: Asked, runs: Path, folder: Path, *, as_json: bool) -> None:
    from tunesmith.jobs.deployments import render as render_files

    written = render_files(asked, runs, folder)
    if as_json:
        out_json({"files": [str(path) for path in written]})
        return
    for path in written:
        out(short_path(path))


def _print(found: list[DeploymentView]) -> None:
    from tunesmith.cli.tables import Cell, Column, print_table
    from tunesmith.cli.terminal import Style
    from tunesmith.cli.words import NOTHING

    styles: dict[EndpointState, Style] = {"ready": "green", "starting": "cyan", "failed": "red", "lost": "red"}
    rows: list[list[str | Cell]] = [
        [
            view.deployment.name,
            view.deployment.record["on"],
            Cell(view.status.state, styles.get(view.status.state)),
            view.status.words or NOTHING,
            view.status.address or NOTHING,
        ]
        for view in found
    ]
    columns = [Column("deployment"), Column("on"), Column("state"), Column("platform says", wrap=True)]
    print_table([*columns, Column("answers at")], rows)
