"""``tunesmith runs``: list, show, compare, pause, cancel, resume and remove runs."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, Track, runs_folder
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.errors import RunError, UsageError
from tunesmith.runs.layout import RunFolder, find_run, list_runs

app = new_app("List, show, compare, pause, resume and remove runs.")

Name = Annotated[str, typer.Argument(metavar="RUN", help="A run's name or its folder.")]


@app.command("list")
def list_(output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """List runs, oldest first."""
    from tunesmith.cli.run_view import print_runs
    from tunesmith.jobs.states import run_status

    folder = runs_folder(output)
    found = [(run, run_status(run)) for run in list_runs(folder)]
    if as_json:
        out_json([{"run": run.name, "path": str(run.path.resolve()), **status.to_json()} for run, status in found])
    elif not found:
        out(f"no runs in {short_path(folder)}")
    else:
        print_runs(found)


@app.command()
def show(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Show a run: state, recipe, metrics and files."""
    from tunesmith.cli.outcome import outcome_json
    from tunesmith.cli.run_view import print_run, recipe_of

    run = find_run(runs_folder(output), name)
    if as_json:
        out_json({**outcome_json(run), "recipe": recipe_of(run)})
    else:
        print_run(run)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A run's name or its folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    output: RunsFolder = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Lay two finished runs side by side.

    Of recipe, chosen values, data and machine only the differences are told; metrics and cost always.
    """
    from tunesmith.cli.run_view import print_comparison
    from tunesmith.runs.compare import compare as compare_reports

    folder = runs_folder(output)
    found = compare_reports(*(_report(find_run(folder, name)) for name in (a, b)))
    if as_json:
        out_json(found.to_json())
    else:
        print_comparison(found)


@app.command()
def resume(
    name: Name,
    output: RunsFolder = None,
    *,
    devices: Annotated[
        int | None, typer.Option(metavar="N", help="Share the work between N devices from now on.")
    ] = None,
    nodes: Annotated[int | None, typer.Option(metavar="M", help="Share it between M machines.")] = None,
    strategy: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How it is shared, such as ddp; auto: by a rule of thumb."),
    ] = None,
    track: Track = None,
    as_json: AsJson = False,
) -> None:
    """Go on with a run, or follow one that runs.

    A run that stopped goes on from its last checkpoint, and one that is finished is shown. Checkpoints are those of one
    device, so that another number of devices can go on.
    """
    from tunesmith.cli.outcome import print_outcome, watch
    from tunesmith.jobs.control import resume as resume_run
    from tunesmith.jobs.follow import last_seq
    from tunesmith.jobs.states import run_status

    run = find_run(runs_folder(output), name)
    state = run_status(run).state
    if state == "finished":
        note(f"run {run.name} is finished", "bold")
        print_outcome(run, as_json)
        return
    note(f"run {run.name} still runs, following it" if state == "running" else f"resuming run {run.name}", "bold")
    try:
        wanted = {"strategy": strategy, "train.devices": devices, "train.nodes": nodes}
        shared = {key: value for key, value in wanted.items() if value is not None}
        watch(run, partial(resume_run, run, shared=shared), after=last_seq(run), track=track or ())
    except RunError as error:
        # It may come to its end between the look at its state and this.
        if error.code != "run.finished":
            raise
    print_outcome(run, as_json)


@app.command()
def pause(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Let a running run save a checkpoint and stop."""
    from tunesmith.jobs.control import pause as pause_run

    run = find_run(runs_folder(output), name)
    pause_run(run)
    _said(run, "pause", f"{run.name} saves a checkpoint at its next step and stops", as_json=as_json)


@app.command()
def cancel(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Stop a running run for good."""
    from tunesmith.jobs.control import cancel as cancel_run

    run = find_run(runs_folder(output), name)
    cancel_run(run)
    _said(run, "cancel", f"{run.name} stops for good at its next step", as_json=as_json)


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="RUN ...", help="Names or folders of runs.")],
    output: RunsFolder = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete runs with everything in them."""
    import sys

    from tunesmith.jobs.control import find_removable, require_idle
    from tunesmith.jobs.control import remove as remove_run

    runs = [find_removable(runs_folder(output), name) for name in names]
    # All are looked at before one is deleted.
    for run in runs:
        require_idle(run)
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(
                "nobody can be asked here", code="usage.confirm", hint="say --yes to remove without asking"
            )
        listed = "\n".join(f"  {short_path(run.path)}" for run in runs)
        if not typer.confirm(f"remove for good?\n{listed}\n", err=True):
            note("nothing was removed")
            return
    for run in runs:
        remove_run(run)
        if not as_json:
            out(f"removed {run.name}")
    if as_json:
        out_json({"removed": [run.name for run in runs]})


def _said(run: RunFolder, wish: str, text: str, *, as_json: bool) -> None:
    if as_json:
        out_json({"run": run.name, "wish": wish})
    else:
        out(text)


def _report(run: RunFolder) -> dict[str, Any]:
    from tunesmith.runs.atomic import read_json

    if not run.report_json.exists():
        raise RunError(
            "the run has no report yet",
            code="run.no_report",
            place=run.name,
            hint=f"finish it with `tunesmith runs resume {run.name}`",
        )
    report: dict[str, Any] = read_json(run.report_json)
    # Runs may have been renamed; the folder's name is what the user said.
    return {**report, "run": run.name}
