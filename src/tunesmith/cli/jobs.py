"""``tunesmith jobs``: trainings that were submitted, wherever they run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, RunsFolder, runs_folder
from tunesmith.cli.terminal import out, out_json, short_path
from tunesmith.runs.layout import RunFolder

if TYPE_CHECKING:
    from tunesmith.executors.protocol import JobState, JobStatus
    from tunesmith.jobs.submitted import JobView

app = new_app("List, follow, pause, resume and cancel submitted trainings.")

Name = Annotated[str, typer.Argument(metavar="JOB", help="The name of the job's run, or its folder.")]


@app.command("list")
def list_(output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """List jobs, oldest first."""
    from tunesmith.jobs.submitted import list_jobs

    folder = runs_folder(output)
    found = list_jobs(folder)
    if as_json:
        out_json([view.to_json() for view in found])
    elif not found:
        out(f"no jobs in {short_path(folder)}")
    else:
        _print(found)


@app.command()
def show(
    name: Name,
    output: RunsFolder = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on showing it until it has ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a job: its state, the platform's words, and how far its run is."""
    from tunesmith.cli.run_view import print_run
    from tunesmith.jobs.submitted import find_job, look

    job = find_job(runs_folder(output), name)
    if follow:
        follow_job(job.run, as_json=as_json)
        return
    view = look(job)
    if as_json:
        out_json(view.to_json())
        return
    _print([view])
    if view.status.reason:
        out(f"reason: {view.status.reason}")
    if view.job.record["run"]:
        out(f"run: {view.job.record['run']}")
    print_run(job.run, view.run)


@app.command()
def logs(name: Name, output: RunsFolder = None) -> None:
    """Print what a job's worker and its libraries have printed."""
    from tunesmith.jobs.submitted import find_job
    from tunesmith.jobs.submitted import logs as lines_of

    for line in lines_of(find_job(runs_folder(output), name)):
        out(line)


@app.command()
def cancel(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Stop a job for good."""
    from tunesmith.jobs.submitted import cancel as cancel_job
    from tunesmith.jobs.submitted import find_job

    job = find_job(runs_folder(output), name)
    cancel_job(job)
    _said(job.run, "cancel", f"{job.run.name} stops for good", as_json=as_json)


@app.command()
def pause(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Let a job save a checkpoint and stop."""
    from tunesmith.jobs.submitted import find_job
    from tunesmith.jobs.submitted import pause as pause_job

    job = find_job(runs_folder(output), name)
    pause_job(job)
    _said(job.run, "pause", f"{job.run.name} saves a checkpoint at its next step and stops", as_json=as_json)


@app.command()
def resume(name: Name, output: RunsFolder = None, *, as_json: AsJson = False) -> None:
    """Let a paused or failed job go on from its last checkpoint."""
    from tunesmith.jobs.submitted import find_job
    from tunesmith.jobs.submitted import resume as resume_job

    job = find_job(runs_folder(output), name)
    resume_job(job)
    _said(job.run, "continue", f"{job.run.name} goes on", as_json=as_json)


@app.command()
def queue(
    output: RunsFolder = None,
    *,
    at_once: Annotated[
        int | None, typer.Option("--at-once", metavar="N", min=1, help="Let N jobs run at once from now on.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the queue of this machine, and say how many of its jobs may run at once."""
    from tunesmith.executors.local.queue import at_once as allowed
    from tunesmith.executors.local.queue import read_queue, set_at_once

    folder = runs_folder(output)
    if at_once is not None:
        set_at_once(folder, at_once)
    waiting = [job.run.name for job in read_queue(folder) if not job.ended]
    if as_json:
        out_json({"at_once": allowed(folder), "jobs": waiting})
        return
    out(f"{allowed(folder)} at once; {', '.join(waiting) if waiting else 'nothing waits'}")


def follow_job(run: RunFolder, *, as_json: bool) -> None:
    """Show a job until it has ended, and its result."""
    from tunesmith.cli.event_lines import Line, read_event
    from tunesmith.cli.outcome import print_outcome
    from tunesmith.cli.progress import open_view
    from tunesmith.jobs.submitted import find_job
    from tunesmith.jobs.submitted import follow as follow_events

    said = ""
    with open_view() as view:

        def on_poll(status: JobStatus) -> None:
            nonlocal said
            words = f"{status.state}: {status.words}" if status.words else status.state
            if status.state == "queued" and words != said:
                said = words
                view.show(Line(words, "dim"))

        for event in follow_events(find_job(run.path.parent, run.name), on_poll=on_poll):
            shown = read_event(event)
            if shown is not None:
                view.show(shown)
    print_outcome(run, as_json)


def _print(found: list[JobView]) -> None:
    from tunesmith.cli.tables import Cell, Column, print_table
    from tunesmith.cli.terminal import Style
    from tunesmith.cli.words import NOTHING

    styles: dict[JobState, Style] = {"running": "cyan", "succeeded": "green", "failed": "red", "lost": "red"}
    rows: list[list[str | Cell]] = []
    for view in found:
        steps = f"{view.run.step}/{view.run.total_steps}" if view.run.total_steps else NOTHING
        rows.append(
            [
                view.job.run.name,
                view.job.record["executor"]["name"],
                Cell(view.status.state, styles.get(view.status.state)),
                view.status.words or NOTHING,
                steps,
            ]
        )
    columns = [Column("job"), Column("on"), Column("state"), Column("platform says", wrap=True)]
    print_table([*columns, Column("steps", right=True)], rows)


def _said(run: RunFolder, wish: str, text: str, *, as_json: bool) -> None:
    if as_json:
        out_json({"job": run.name, "wish": wish})
    else:
        out(text)
