"""``tunesmith eval``: measure a model or a run on data."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Columns, OnBadRows, Shape, Task, column_map, runs_folder
from tunesmith.cli.terminal import note, out_json, short_path
from tunesmith.errors import OutputError

app = new_app()


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A run, a folder, a catalog id or a hub id.")],
    *,
    data: Annotated[str, typer.Option("--data", "-d", metavar="DATA", help="A file, a folder or a hub data set.")],
    task: Task = None,
    shape: Shape = None,
    column: Columns = None,
    on_bad_rows: OnBadRows = None,
    rows: Annotated[int | None, typer.Option(metavar="N", min=1, help="Measure on so many rows only.")] = None,
    metric: Annotated[list[str] | None, typer.Option(metavar="NAME", help="A metric; repeatable.")] = None,
    few_shot: Annotated[
        int | None, typer.Option("--few-shot", metavar="N", min=0, help="Examples in the prompt of the base model.")
    ] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", metavar="N", min=1, help="The longest answer.")
    ] = None,
    samples: Annotated[int, typer.Option(metavar="N", min=0, help="How many answers the report shows.")] = 10,
    seed: Annotated[int, typer.Option(metavar="N", help="Which rows are chosen.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="A new folder that keeps the report.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model or a run on data; a run is measured beside its base model."""
    from tunesmith.cli.event_lines import read_event
    from tunesmith.cli.progress import open_view
    from tunesmith.cli.report_table import print_report
    from tunesmith.formats.inspect import inspect_source
    from tunesmith.jobs.stages import evaluate as evaluate_stage
    from tunesmith.runs.atomic import read_json
    from tunesmith.runs.events import Event

    columns = column_map(column)
    # Both are cheap to look at now and dear to find out after minutes of work.
    inspect_source(data, columns=columns, shape=shape).require_usable(on_bad_rows or "refuse")
    if output is not None and output.exists():
        raise OutputError("the folder exists already", code="output.exists", place=str(output))
    request: dict[str, Any] = {
        "model": model,
        "data": data,
        "task": task or "auto",
        "columns": columns or "auto",
        "shape": shape or "auto",
        "on_bad_rows": on_bad_rows or "refuse",
        "rows": rows or "auto",
        "metrics": metric or "auto",
        "few_shot": "auto" if few_shot is None else few_shot,
        "max_new_tokens": max_new_tokens or "auto",
        "samples": samples,
        "seed": seed,
    }
    with open_view() as view:

        def on_event(event: Event) -> None:
            shown = read_event(event)
            if shown is not None:
                view.show(shown)

        with evaluate_stage(request, on_event, runs_folder=runs_folder(runs)) as folder:
            report = read_json(folder / "report.json")
            if output is not None:
                _keep(folder, output)
    if as_json:
        out_json(report)
    else:
        print_report(report)
    if output is not None:
        note(f"report: {short_path(output / 'report.html')}")


def _keep(folder: Path, output: Path) -> None:
    from tunesmith.runs.atomic import new_folder

    with new_folder(output) as place:
        for path in folder.glob("report.*"):
            shutil.copyfile(path, place / path.name)
