"""``tunesmith submit``: give a training to an executor, here or elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Data, Model, RunsFolder, Task, runs_folder
from tunesmith.cli.terminal import note, out, out_json, short_path

if TYPE_CHECKING:
    from tunesmith.jobs.submitting import Asked
    from tunesmith.recipe.schema import Recipe

app = new_app()


@app.command()
def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|KEY=VALUE", help="A recipe file, then values such as executor.namespace=team."),
    ] = None,
    *,
    on: Annotated[
        str | None, typer.Option("--on", metavar="EXECUTOR", help="Where it runs, instead of the recipe's executor.")
    ] = None,
    model: Model = None,
    data: Data = None,
    task: Task = None,
    devices: Annotated[int | None, typer.Option(metavar="N", help="GPUs or processes on each machine.")] = None,
    nodes: Annotated[int | None, typer.Option(metavar="M", help="Machines.")] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            envvar="TUNESMITH_STORAGE",
            help="Where runs of other machines lie: s3://, az://, or a folder that all mount.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The run's name.")] = None,
    key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Submitted once more under this key, it is the same job.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show how it goes until it has ended.")] = False,
    render: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write what would be submitted there, and stop.")
    ] = None,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Give a training to an executor, and return.

    The job goes on without this command. `tunesmith jobs` says how it is, and brings its results into the run's folder.
    """
    from tunesmith.cli.train import build_recipe
    from tunesmith.jobs.submitting import Asked
    from tunesmith.jobs.submitting import submit as submit_run

    given = {
        "model": model,
        "data.train": data,
        "task": task,
        "train.devices": devices,
        "train.nodes": nodes,
        "executor": None if on is None or _is_meant(arguments or [], on) else on,
    }
    recipe, folder = build_recipe(arguments or [], given), runs_folder(output)
    asked = Asked(name, key, storage)
    if render is not None:
        _render(recipe, folder, asked, render, as_json=as_json)
        return
    run = submit_run(recipe, folder, asked)
    if follow:
        from tunesmith.cli.jobs import follow_job

        follow_job(run, as_json=as_json)
        return
    if as_json:
        from tunesmith.jobs.submitted import find_job, look

        out_json(look(find_job(folder, run.name)).to_json())
        return
    out(f"submitted {run.name} to {recipe.executor.name}")
    note(f"see how it is with: tunesmith jobs show {run.name}", "dim")


def _is_meant(arguments: list[str], on: str) -> bool:
    """Whether the recipe's executor is this one, so that its settings stay."""
    from tunesmith.recipe.load import read_mapping

    files = [Path(one) for one in arguments if Path(one).is_file()]
    meant = read_mapping(files[0]).get("executor") if files else None
    return (meant.get("name") if isinstance(meant, dict) else meant) == on


def _render(recipe: Recipe, runs: Path, asked: Asked, folder: Path, *, as_json: bool) -> None:
    from tunesmith.jobs.submitting import render as render_files

    written = render_files(recipe, runs, asked, folder)
    if as_json:
        out_json({"files": [str(path) for path in written]})
        return
    for path in written:
        out(short_path(path))
