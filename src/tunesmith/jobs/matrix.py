"""Run the cells of a matrix one after the other, each in a worker of its own, and keep what came of them.

Everything lies in one JSON file, written anew after every cell: a command that was ended goes on where it was, and
further scenarios or columns can be added to the same file later.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tunesmith.errors import DataError, OutputError, Problem, Stopped, TunesmithError, UsageError, WorkerError
from tunesmith.executors.local.worker import LocalWorker
from tunesmith.jobs.control import remove, start
from tunesmith.jobs.create import check_inputs, create_run
from tunesmith.jobs.follow import follow_worker
from tunesmith.jobs.planning import this_machine
from tunesmith.jobs.stages import scratch_folder
from tunesmith.matrix.cell import Failure, Matrix, Outcome, Result, outcome_of, read_matrix
from tunesmith.matrix.plan import Cell, Layout, Mode, Scenario, plan_cells
from tunesmith.recipe.load import apply_overrides, parse_recipe
from tunesmith.recipe.schema import Recipe
from tunesmith.runs.atomic import read_json, write_json
from tunesmith.runs.events import Event
from tunesmith.runs.layout import RunFolder, default_runs_folder
from tunesmith.samples import sample_folder

_LIBRARIES = ("tunesmith", "torch", "transformers", "peft", "deepspeed")
Sources = Mapping[str, Mapping[str, str]]


def sources_of(layout: Layout, mode: Mode, given: Mapping[str, Mapping[str, str]]) -> Sources:
    """``train`` and ``validation`` of each scenario: what was given, else its sample.

    Raises:
        UsageError: ``usage.matrix_data``: a scenario has neither, or data is given for one that is not run.
    """
    needed = [*mode.scenarios, *([layout.pooled_scenario] if mode.pooled else [])]
    found, problems = {}, []
    for name in dict.fromkeys(needed):
        own = given.get(name) or _sample_of(layout.scenario(name))
        if own is None:
            hint = f"--data {name}=FILE, and --validation {name}=FILE where there is held-out data"
            problems.append(
                Problem("usage.matrix_data", "this scenario has no sample of its own", "--data", name, hint)
            )
        else:
            found[name] = own
    problems += [
        Problem("usage.matrix_data", "data for a scenario that is not run", "--data", name, f"add --scenario {name}")
        for name in given
        if name not in needed
    ]
    if problems:
        raise UsageError("the scenarios and their data do not fit together", problems=problems)
    return found


def open_matrix(path: Path, wanted: Matrix) -> Matrix:
    """The matrix that a file holds, widened by what is wanted now; the wanted one where there is no file.

    Raises:
        DataError: The file is no matrix.
        UsageError: ``usage.matrix_other``: it was made from another model, other data, or in another time for each run.
    """
    if not path.exists():
        return wanted
    there = read_matrix(path)
    if not any(one.outcome for one in there.results):
        # Nothing that could be mixed up: a mistyped command must not stand in the way of the right one.
        return wanted
    differing = [name for name in there.data if name in wanted.data and there.data[name] != wanted.data[name]]
    problems = [
        Problem("usage.matrix_other", f"another {what}", value=f"{was}, now {is_now}")
        for what, was, is_now in [
            ("model", there.model, wanted.model),
            ("budget", there.mode.budget, wanted.mode.budget),
            *((f"file of {name}", "as it was then", "changed") for name in differing),
        ]
        if was != is_now
    ]
    if problems:
        hint = "name another --output, or remove this one and its .json"
        raise UsageError("the matrix that is there was made otherwise", place=str(path), hint=hint, problems=problems)
    changes = {
        "mode": _widened(there.mode, wanted.mode),
        "commands": _union(there.commands, wanted.commands),
        "data": {**there.data, **wanted.data},
        "own_data": _union(there.own_data, wanted.own_data),
        "price": wanted.price or there.price,
    }
    return there.model_copy(update=changes)


def cells_to_run(layout: Layout, mode: Mode, matrix: Matrix) -> list[Cell]:
    """The cells of a mode that have not ended well yet."""
    return [cell for cell in plan_cells(layout, mode) if not matrix.has(cell)]


def recipes_of(cells: Collection[Cell], model: str, sources: Sources) -> dict[str, Recipe]:
    """The recipe of each cell by its name; ``model`` is a name that a worker finds from anywhere.

    Raises:
        TunesmithError: Inputs that no worker could use: a setting, a model, data, held-out data.
    """
    recipes = {cell.name: cell_recipe(cell, model, sources[cell.scenario]) for cell in cells}
    looked_at = {repr((recipe.model, recipe.data)): recipe for recipe in recipes.values()}
    for recipe in looked_at.values():
        check_inputs(recipe, default_runs_folder())
    return recipes


def run_cells(
    cells: Collection[Cell],
    recipes: Mapping[str, Recipe],
    matrix: Matrix,
    path: Path,
    *,
    keep: Path | None,
    on_cell: Callable[[int, Cell], None],
    on_event: Callable[[Event], None],
    on_result: Callable[[Result], None],
) -> Matrix:
    """Run cells and write the file after each.

    Args:
        cells: What is to be run, in this order.
        recipes: Of :func:`recipes_of`.
        matrix: What is there already.
        path: The file. What another command adds to it meanwhile stays.
        keep: A folder for the runs; None: they are removed as soon as their numbers are kept.
        on_cell: Called before each cell with its number from 1.
        on_event: Gets every event of every run.
        on_result: Gets the result of each cell.

    Raises:
        OutputError: The disk is full or a file cannot be written.
        Stopped: A run was stopped from outside.
    """
    with ExitStack() as stack:
        folder = keep or stack.enter_context(scratch_folder())
        for number, cell in enumerate(cells, start=1):
            on_cell(number, cell)
            result = _run_cell(cell, recipes[cell.name], folder, keep=keep is not None, on_event=on_event)
            matrix = _latest(path, matrix).with_result(result)
            write_json(path, matrix.model_dump(mode="json"))
            on_result(result)
    return matrix


def cell_recipe(cell: Cell, model: str, data: Mapping[str, str]) -> Recipe:
    """The recipe of a cell.

    Raises:
        RecipeError: A setting of the layout is none.
    """
    return parse_recipe(apply_overrides({"model": model, "data": dict(data)}, cell.settings), cell.name)


def hashes_of(sources: Sources) -> dict[str, dict[str, str]]:
    """SHA-256 of each source that is a file; of others their name."""
    return {
        name: {side: _hash(Path(source)) if Path(source).is_file() else source for side, source in sides.items()}
        for name, sides in sources.items()
    }


def conditions() -> dict[str, Any]:
    """What a cell runs on: machine, versions and time; nothing that names the machine."""
    host = this_machine()
    found: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": "not looked at yet" if host is None else host.processor,
        "cores": psutil.cpu_count() or 1,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _run_cell(cell: Cell, recipe: Recipe, folder: Path, *, keep: bool, on_event: Callable[[Event], None]) -> Result:
    started = time.monotonic()
    run = create_run(recipe, folder, _free(folder, cell.name))
    worker = start(run)
    try:
        _follow(worker, on_event)
        outcome = _read_outcome(run)
        result = Result(cell=cell, outcome=outcome, seconds=time.monotonic() - started, conditions=conditions())
    except (OutputError, Stopped):
        raise
    except TunesmithError as error:
        first = error.problems[0] if error.problems else error
        told = [part for part in (first.place, first.value) if part]
        failure = Failure(code=first.code, message=first.message, value=": ".join(told) or None, hint=first.hint)
        result = Result(cell=cell, failure=failure, seconds=time.monotonic() - started, conditions=conditions())
    if not keep:
        remove(run)
    return result


def _read_outcome(run: RunFolder) -> Outcome:
    try:
        return outcome_of(read_json(run.report_json))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkerError(
            "the run's report lacks numbers of a matrix", code="worker.incomplete", value=str(error).splitlines()[0]
        ) from error


def _latest(path: Path, matrix: Matrix) -> Matrix:
    """The matrix with what another command has added to its file meanwhile."""
    try:
        there = read_matrix(path)
    except DataError:
        return matrix
    known = {one.cell.name for one in matrix.results}
    added = tuple(one for one in there.results if one.cell.name not in known)
    mode = _widened(matrix.mode, there.mode)
    changes = {"results": (*matrix.results, *added), "mode": mode, "commands": _union(matrix.commands, there.commands)}
    return matrix.model_copy(update=changes)


def _widened(one: Mode, other: Mode) -> Mode:
    return Mode(
        scenarios=_union(one.scenarios, other.scenarios),
        columns=_union(one.columns, other.columns),
        pooled=_union(one.pooled, other.pooled),
        seeds=max(one.seeds, other.seeds),
        budget=one.budget,
    )


def _follow(worker: LocalWorker, on_event: Callable[[Event], None]) -> None:
    try:
        for event in follow_worker(worker):
            on_event(event)
    finally:
        # Whoever ends this command means the run as well.
        worker.terminate()


def _free(folder: Path, name: str) -> str:
    """The cell's name; with a number where runs are kept and an earlier command made one."""
    number, free = 1, name
    while RunFolder(folder / free).path.exists():
        number += 1
        free = f"{name}-{number}"
    return free


def _sample_of(scenario: Scenario) -> dict[str, str] | None:
    if scenario.sample is None:
        return None
    folder = sample_folder(scenario.sample)
    return {"train": str(folder / "train.jsonl"), "validation": str(folder / "heldout.jsonl")}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _union(one: Collection[str], other: Collection[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*one, *other]))
