"""``tunesmith eval``: measure a model or a run on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Columns, OnBadRows, Shape, Task, column_map, runs_folder
from tunesmith.cli.terminal import note, out_json, short_path
from tunesmith.errors import OutputError, UsageError

app = new_app()


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL ...",
            help="A run, a folder, a registered version, a catalog id or a hub id; several with questions.",
        ),
    ],
    *,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="DATA", help="A file, a folder or a hub data set.")
    ] = None,
    multiple_choice: Annotated[
        Path | None,
        typer.Option(
            "--multiple-choice", metavar="FILE", help="Questions with mc1_targets and mc2_targets, or choices."
        ),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Also ask every question mistyped and reworded, and score the worst.")
    ] = False,
    harness: Annotated[
        str | None,
        typer.Option("--harness", metavar="TASK[,TASK]", help="Tasks of the lm-evaluation-harness."),
    ] = None,
    harness_path: Annotated[
        Path | None, typer.Option("--harness-path", metavar="DIR", help="A folder with task files of your own.")
    ] = None,
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
    """Measure a model or a run on data, by multiple choice, or by tasks; a run is measured beside its base model."""
    if data is None:
        _score(
            models,
            {"multiple_choice": multiple_choice, "robustness": robustness, "harness": harness, "rows": rows or "auto"}
            | {"harness_path": harness_path, "samples": samples, "seed": seed},
            _unfitting(task=task, shape=shape, column=column, on_bad_rows=on_bad_rows, metric=metric)
            | _unfitting(few_shot=few_shot, max_new_tokens=max_new_tokens),
            output=output,
            runs=runs,
            as_json=as_json,
        )
        return
    wrong = _unfitting(multiple_choice=multiple_choice, harness=harness, harness_path=harness_path)
    _refuse_unfitting(wrong, "with --data")
    request: dict[str, Any] = {
        "data": data,
        "task": task or "auto",
        "columns": column_map(column) or "auto",
        "shape": shape or "auto",
        "on_bad_rows": on_bad_rows or "refuse",
        "rows": rows or "auto",
        "metrics": metric or "auto",
        "few_shot": "auto" if few_shot is None else few_shot,
        "max_new_tokens": max_new_tokens or "auto",
        "samples": samples,
        "seed": seed,
        "robustness": robustness,
    }
    _measure(models, request, output=output, runs=runs, as_json=as_json)


def _measure(
    models: list[str], request: dict[str, Any], *, output: Path | None, runs: Path | None, as_json: bool
) -> None:
    """Measure one model on data."""
    from tunesmith.cli.progress import open_view, showing
    from tunesmith.cli.report_table import print_report
    from tunesmith.cli.scoring import keep_report
    from tunesmith.formats.inspect import inspect_source
    from tunesmith.jobs.stages import evaluate as evaluate_stage
    from tunesmith.runs.atomic import read_json

    if len(models) > 1:
        raise UsageError(
            "data is measured with one model at a time",
            code="usage.several_models",
            value=" ".join(models),
            hint="measure each by itself; `tunesmith chart` puts their reports into one picture",
        )
    # Both are cheap to look at now and dear to find out after minutes of work.
    given = {name: None if request[name] == "auto" else request[name] for name in ("columns", "shape")}
    inspect_source(request["data"], **given).require_usable(request["on_bad_rows"])
    if output is not None and output.exists():
        raise OutputError("the folder exists already", code="output.exists", place=str(output))
    asked = {"model": models[0], **request}
    with open_view() as view, evaluate_stage(asked, showing(view), runs_folder=runs_folder(runs)) as folder:
        report = read_json(folder / "report.json")
        if output is not None:
            keep_report(folder, output)
    if as_json:
        out_json(report)
    else:
        print_report(report)
    if output is not None:
        note(f"report: {short_path(output / 'report.html')}")


def _score(
    models: list[str],
    given: dict[str, Any],
    unfitting: dict[str, Any],
    *,
    output: Path | None,
    runs: Path | None,
    as_json: bool,
) -> None:
    """Check what can be checked without a model, and measure."""
    from tunesmith.cli.scoring import score_models
    from tunesmith.formats.choices import read_choices

    file, tasks, folder = given["multiple_choice"], given["harness"], given["harness_path"]
    if file is None and tasks is None:
        raise UsageError(
            "missing option: say what to measure on",
            code="usage.command_line",
            hint="give --data, --multiple-choice or --harness; see `tunesmith eval --help`",
        )
    _refuse_unfitting(unfitting, "without --data")
    if file is not None:
        read_choices(file)
    elif given["robustness"]:
        raise UsageError(
            "only questions of a file are mistyped and reworded",
            code="usage.robustness",
            hint="add --multiple-choice FILE, or leave --robustness out",
        )
    if folder is not None and not folder.is_dir():
        raise UsageError("no such folder", code="usage.harness_path", place="--harness-path", value=folder)
    if output is not None and output.exists():
        raise OutputError("the folder exists already", code="output.exists", place=str(output))
    request = {
        **given,
        "multiple_choice": None if file is None else str(file),
        "harness": [] if tasks is None else [name.strip() for name in tasks.split(",") if name.strip()],
        "harness_path": None if folder is None else str(folder.absolute()),
    }
    score_models(models, request, output, runs_folder(runs), as_json=as_json)


def _unfitting(**options: Any) -> dict[str, Any]:
    """Options that were given, as they are written."""
    return {f"--{name.replace('_', '-')}": value for name, value in options.items() if value is not None}


def _refuse_unfitting(options: dict[str, Any], where: str) -> None:
    if options:
        raise UsageError(
            f"these options mean nothing {where}", code="usage.options", value=", ".join(options), hint="leave them out"
        )
