"""``tunesmith advise``: a recipe for your data, with reasons."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Columns, Data, Model, OnBadRows, Shape, Task, column_map, runs_folder
from tunesmith.cli.tables import Column, print_table
from tunesmith.cli.terminal import note, out, out_json, short_path
from tunesmith.cli.words import NOTHING, duration, storage
from tunesmith.errors import OutputError

if TYPE_CHECKING:
    from tunesmith.jobs.advice import Advice, Candidate

app = new_app()


@app.command()
def advise(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|KEY=VALUE", help="A recipe file, then values such as train.budget=1h."),
    ] = None,
    *,
    model: Model = None,
    data: Data = None,
    hardware: Annotated[
        str | None,
        typer.Option(metavar="ID|FILE", help="What it is to run on: a known machine or a file; else this-machine."),
    ] = None,
    devices: Annotated[int | None, typer.Option(metavar="N", help="How many GPUs of a machine share the work.")] = None,
    nodes: Annotated[int | None, typer.Option(metavar="M", help="How many machines share it.")] = None,
    prefer: Annotated[str, typer.Option(metavar="quality|memory|time|cost", help="What matters most.")] = "quality",
    matrix: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Your own measurements: the JSON file of `tunesmith matrix`.")
    ] = None,
    task: Task = None,
    shape: Shape = None,
    column: Columns = None,
    on_bad_rows: OnBadRows = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the recipe there instead of stdout.")
    ] = None,
    runs: Annotated[
        Path | None, typer.Option("--runs", metavar="DIR", help="The folder that holds runs, instead of runs/.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Propose a recipe for your data: a file with the reasons as comments, to be edited and trained.

    Of the techniques that fit the hardware it takes the one that serves what matters most: by what was measured for
    such tasks (`tunesmith matrix`), and by the plan's memory and time.
    """
    from tunesmith.cli.plan import auditing, counting
    from tunesmith.cli.train import build_recipe
    from tunesmith.jobs.advice import advise as find
    from tunesmith.jobs.advice import measured_matrix
    from tunesmith.matrix.cell import read_matrix
    from tunesmith.runs.atomic import write_text

    if output is not None and output.exists():
        raise OutputError("the file exists already", code="output.exists", place=str(output))
    options = {
        "model": model,
        "data.train": data,
        "data.columns": column_map(column),
        "data.shape": shape,
        "data.on_bad_rows": on_bad_rows,
        "task": task,
        "train.devices": devices,
        "train.nodes": nodes,
    }
    recipe = build_recipe(arguments or [], options)
    folder = runs_folder(runs)
    measured = measured_matrix() if matrix is None else read_matrix(matrix)
    advice = find(
        recipe,
        folder,
        auditing(recipe, folder),
        count=counting,
        hardware=hardware,
        wish=cast(Any, prefer),
        matrix=measured,
    )
    if output is not None:
        write_text(output, advice.text)
        note(f"recipe: {short_path(output)}; train it with `tunesmith train {short_path(output)}`")
    if as_json:
        out_json(_advice_json(advice))
    elif output is None:
        out(advice.text.rstrip("\n"))
        _print_left_out(advice)
    else:
        _print(advice)


def _advice_json(advice: Advice) -> dict[str, object]:
    return {
        "recipe": advice.recipe.model_dump(mode="json", exclude_unset=True),
        "reasons": list(advice.reasons),
        "candidates": [_plain(one) for one in advice.candidates],
        "refused": list(advice.refused),
    }


def _plain(one: Candidate) -> dict[str, object]:
    return {**asdict(one), "gain": None if one.gain is None else one.gain.model_dump(mode="json")}


def _print(advice: Advice) -> None:
    from tunesmith.matrix.rules import decided_text

    # The others are rows of the table.
    for reason in advice.reasons:
        if not reason.startswith("instead of "):
            out(reason)
    out("")
    # Epochs that are left open and a budget give a slower one less to do, so by that time alone nothing is compared.
    unequal = not all(one.way.same_work for one in advice.candidates)
    print_table(
        [
            Column("technique"),
            Column("memory", right=True),
            Column("time", right=True),
            *([Column("epochs", right=True), Column("equal work", right=True)] if unequal else []),
            Column("measured gain", right=True),
            Column("with"),
        ],
        [
            [
                one.title,
                storage(one.way.peak_bytes),
                duration(one.way.total_seconds),
                *([f"{one.way.epochs:.2g}", duration(one.way.equal_seconds)] if unequal else []),
                NOTHING if one.gain is None else decided_text(one.gain),
                " ".join(setting for setting in one.settings if not setting.startswith("technique=")) or NOTHING,
            ]
            for one in advice.candidates
        ],
    )
    _print_left_out(advice)


def _print_left_out(advice: Advice) -> None:
    for line in advice.refused:
        note(f"left out: {line}", "dim")
