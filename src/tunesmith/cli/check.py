"""``tunesmith check``: look at data before training, and with a model at what would be trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tunesmith.cli.failure import FoundError
from tunesmith.cli.lazy import new_app
from tunesmith.cli.options import AsJson, Columns, OnBadRows, RunsFolder, Shape, Task, column_map, runs_folder
from tunesmith.cli.terminal import out, out_json
from tunesmith.errors import DataError

if TYPE_CHECKING:
    from tunesmith.formats.inspect import Inspection

app = new_app()


@app.command()
def check(
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder or a hub data set.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", metavar="MODEL", help="Also audit what this model would learn.")
    ] = None,
    validation: Annotated[
        str | None, typer.Option(metavar="DATA", help="Held-out data, to be checked for overlap.")
    ] = None,
    task: Task = None,
    shape: Shape = None,
    column: Columns = None,
    on_bad_rows: OnBadRows = None,
    show: Annotated[int, typer.Option(metavar="N", min=0, help="Print N rows; with --model, what trains in them.")] = 0,
    output: RunsFolder = None,
    as_json: AsJson = False,
) -> None:
    """Look at data before training.

    Without --model: kind of file, shape, task, labels, duplicates, and every kind of bad row with its lines. With
    --model also the audit of the supervision, which every training begins with. Exit code 11 when rows cannot be
    used, 12 when the audit fails.
    """
    columns = column_map(column)
    found = _inspect(data, columns, shape, on_bad_rows or "refuse", as_json=as_json)
    document: dict[str, Any] = {"ok": True, "data": found.to_json()}
    if validation is not None:
        document["overlap"] = _overlap(found, validation, columns, shape, on_bad_rows or "refuse", as_json=as_json)
    if model is None:
        _show_examples(found, show, document, as_json=as_json)
        return
    recipe = {
        "model": model,
        "task": task,
        "data.train": data,
        "data.validation": validation,
        "data.shape": shape,
        "data.columns": columns,
        "data.on_bad_rows": on_bad_rows,
    }
    _audit(recipe, runs_folder(output), show, document, as_json=as_json)


def _inspect(
    source: str, columns: Mapping[str, str] | None, shape: str | None, on_bad_rows: str, *, as_json: bool
) -> Inspection:
    """Inspect a source and print what was found, also where it is then refused."""
    from tunesmith.cli.inspection_view import print_inspection
    from tunesmith.formats.inspect import inspect_source

    found = inspect_source(source, columns=columns, shape=shape)
    refused = None
    try:
        found.require_usable(on_bad_rows)
    except DataError as error:
        refused = error
    if not as_json:
        print_inspection(found, refused=refused is not None)
    if refused is not None:
        raise FoundError(refused, {"ok": False, "data": found.to_json()})
    return found


def _overlap(
    found: Inspection,
    validation: str,
    columns: Mapping[str, str] | None,
    shape: str | None,
    on_bad_rows: str,
    *,
    as_json: bool,
) -> dict[str, Any]:
    from tunesmith.cli.inspection_view import print_overlap
    from tunesmith.formats.overlap import overlap

    if not as_json:
        out()
    held = _inspect(validation, columns, shape, on_bad_rows, as_json=as_json)
    shared = overlap(found, held)
    if not as_json:
        print_overlap(shared)
    first = [[str(here), str(there)] for here, there in shared.first]
    return {"exact": shared.exact, "same_prompt": shared.same_prompt, "first": first}


def _show_examples(found: Inspection, show: int, document: dict[str, Any], *, as_json: bool) -> None:
    from itertools import islice

    from tunesmith.cli.inspection_view import print_example
    from tunesmith.formats.read import read_examples

    examples = list(islice(read_examples(found, on_bad_rows="skip"), show)) if show else []
    if as_json:
        document["shown"] = [{"place": str(place), **asdict(example)} for place, example in examples]
        out_json(document)
        return
    for place, example in examples:
        print_example(place, example)


def _audit(settings: Mapping[str, Any], folder: Path, show: int, document: dict[str, Any], *, as_json: bool) -> None:
    from tunesmith.cli.audit_view import print_audit, run_audit
    from tunesmith.cli.train import build_recipe
    from tunesmith.recipe.load import dump_recipe

    result = run_audit(dump_recipe(build_recipe([], settings)), folder, show)
    document = {**document, **result.audit}
    if not as_json:
        out()
        print_audit(result.audit)
    if result.error is not None:
        raise FoundError(result.error, document)
    if as_json:
        out_json(document)
