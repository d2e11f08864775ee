"""``tunesmith train``: tune a model on data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import (
    AsJson,
    Columns,
    Data,
    Model,
    OnBadRows,
    RunsFolder,
    Shape,
    Task,
    Track,
    column_map,
    runs_folder,
)
from tunesmith.cli.terminal import clean, note, out, out_json, short_path
from tunesmith.errors import UsageError

if TYPE_CHECKING:
    from tunesmith.recipe.schema import Recipe

app = new_app()

_SETTING = re.compile(r"[a-z_]+(\.[A-Za-z0-9_]+)*=")


@app.command()
def train(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="RECIPE|KEY=VALUE", help="A recipe file, then values such as train.epochs=2."),
    ] = None,
    *,
    model: Model = None,
    data: Data = None,
    validation: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="Held-out data, or the share to hold out, such as 0.1."),
    ] = None,
    technique: Annotated[str | None, typer.Option(metavar="NAME", help="lora or full.")] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="N", help="How many GPUs, or processes without one, share the work.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(metavar="M", help="How many machines share it; see `tunesmith join`.")
    ] = None,
    task: Task = None,
    shape: Shape = None,
    column: Columns = None,
    on_bad_rows: OnBadRows = None,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="The run's name.")] = None,
    output: RunsFolder = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Audit the data, print every resolved value with its reason, and stop.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Start the run and return at once.")] = False,
    track: Track = None,
    as_json: AsJson = False,
) -> None:
    """Tune a model on your data.

    Either by a recipe file, or by --model and --data. Any value of the recipe can be given as key=value, such as
    train.budget=10m or technique.rank=8.

    Ctrl-C saves a checkpoint and stops; `tunesmith runs resume NAME` goes on from there.
    """
    options = {
        "model": model,
        "data.train": data,
        "data.validation": validation,
        "data.columns": column_map(column),
        "data.shape": shape,
        "data.on_bad_rows": on_bad_rows,
        "task": task,
        "technique": technique,
        "train.devices": devices,
        "train.nodes": nodes,
    }
    recipe = build_recipe(arguments or [], options)
    folder = runs_folder(output)
    if dry_run:
        _dry_run(recipe, folder, as_json)
        return
    if detach and track:
        raise UsageError("a tracker needs a command that follows the run", code="usage.detach", value="--detach")
    _train(recipe, folder, name, track or [], detach=detach, as_json=as_json)


def _train(recipe: Recipe, folder: Path, name: str | None, track: list[str], *, detach: bool, as_json: bool) -> None:
    from tunesmith.cli.outcome import outcome_json, print_outcome, quoted, watch
    from tunesmith.jobs.control import start
    from tunesmith.jobs.create import check_inputs, create_run, require_here

    require_here(recipe)
    check_inputs(recipe, folder)
    run = create_run(recipe, folder, name)
    note(f"run {run.name} in {short_path(run.path)}", "bold")
    if detach:
        start(run)
        if as_json:
            out_json(outcome_json(run))
        else:
            out(f"started {run.name}; follow it with: tunesmith runs resume {quoted(run)}")
        return
    watch(run, partial(start, run), track=track, new=True)
    print_outcome(run, as_json)


def build_recipe(arguments: list[str], options: Mapping[str, Any]) -> Recipe:
    """The recipe that a file, options and key=value settings make together; later ones win.

    Raises:
        UsageError: Neither a recipe nor model and data are given, or there are two recipes.
        RecipeError: The recipe cannot be read or has wrong values.
    """
    from tunesmith.recipe.load import apply_overrides, parse_recipe, read_mapping

    files = [argument for argument in arguments if not _SETTING.match(argument) or Path(argument).is_file()]
    settings = [argument for argument in arguments if argument not in files]
    if len(files) > 1:
        raise UsageError(
            "more than one recipe file",
            code="usage.recipes",
            value=", ".join(files),
            hint="values are given as key=value, such as train.epochs=2",
        )
    wanted = {key: value for key, value in options.items() if value is not None}
    if not files and not ({"model", "data.train"} <= {*wanted, *(item.partition("=")[0] for item in settings)}):
        raise UsageError(
            "a recipe file is needed, or both --model and --data",
            code="usage.nothing_to_train",
            hint="for example: tunesmith train --model smollm2-135m-instruct --data train.jsonl",
        )
    lines: dict[str, int] = {}
    mapping = read_mapping(Path(files[0]), lines) if files else {}
    given = [*(_setting(key, value) for key, value in wanted.items()), *settings]
    mapping = apply_overrides(mapping, given)
    place = files[0] if files else "the command line"
    return parse_recipe(mapping, place, _without_lines_of(lines, [item.partition("=")[0] for item in given]))


def _without_lines_of(lines: Mapping[str, int], keys: Sequence[str]) -> dict[str, int]:
    """The file's lines but for keys whose values stand on the command line, and what is below these."""
    return {
        name: line for name, line in lines.items() if not any(name == key or name.startswith(f"{key}.") for key in keys)
    }


def _setting(key: str, value: Any) -> str:
    """An option as key=value; JSON texts are YAML texts, and a number such as a share stays a number."""
    import orjson

    if isinstance(value, str) and not re.fullmatch(r"0?\.\d+|0|1", value):
        return f"{key}={orjson.dumps(value).decode()}"
    return f"{key}={value}" if isinstance(value, str) else f"{key}={orjson.dumps(value).decode()}"


def _dry_run(recipe: Recipe, folder: Path, as_json: bool) -> None:
    from tunesmith.cli.audit_view import run_audit
    from tunesmith.cli.resolved_view import resolved_yaml
    from tunesmith.jobs.create import check_inputs
    from tunesmith.recipe.load import dump_recipe

    check_inputs(recipe, folder)
    result = run_audit(dump_recipe(recipe), folder)
    if result.error is not None:
        raise result.error
    if as_json:
        out_json({"recipe": recipe.model_dump(mode="json"), "resolved": result.resolved, "audit": result.audit})
    else:
        for warning in (result.audit or {}).get("warnings", ()):
            note(f"warning: {clean(str(warning))}", "yellow")
        out(resolved_yaml(recipe.model_dump(mode="json"), result.resolved or {}))
